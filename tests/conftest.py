import importlib
import os
import pathlib
import signal

# LLVM then optimizes less, and programs compile in two thirds of the time. XLA divides
# them among devices, and fuses them, as ever.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"
).strip()
# What one process has compiled, others and those that tests start do not compile again.
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(__file__).parent / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
}

import chex
import jax
import pytest

collect_ignore = [
    "accelerators",  # run by `make accelerators`, with compilers of its own
    "golden",  # scripts, which need PyTorch
    "eight_devices",  # run by test_eight_devices.py
    "optax_suite.py",  # run by test_optax_suite.py, on eight devices too
]

# Where the tests run in the background of a shell script, Ctrl-C is ignored, and so it
# would be by what they test.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fresh_trace_counts():
    """Chex counts by a function's place in the code, which tests share."""
    chex.clear_trace_counter()


def _enable_x64():
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    # Of the oldest jax that pyproject.toml admits.
    return importlib.import_module("jax.experimental").enable_x64()


@pytest.fixture
def x64():
    with _enable_x64():
        yield


@pytest.fixture
def strict_promotion():
    """For what is ours alone; some of Optax's and Flax's parts promote implicitly."""
    with jax.numpy_dtype_promotion("strict"):
        yield
