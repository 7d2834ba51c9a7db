import chex
import jax
import pytest

collect_ignore = ["golden"]  # scripts, which need PyTorch


@pytest.fixture(autouse=True)
def fresh_trace_counts():
    """Chex counts by a function's place in the code, which tests share."""
    chex.clear_trace_counter()


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_promotion():
    """For what is ours alone; some of Optax's and Flax's parts promote implicitly."""
    with jax.numpy_dtype_promotion("strict"):
        yield
