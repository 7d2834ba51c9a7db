import jax
import pytest


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_promotion():
    """For what is ours alone; some of Optax's and Flax's parts promote implicitly."""
    with jax.numpy_dtype_promotion("strict"):
        yield
