import atexit
import importlib
import os
import shutil
import signal
import tempfile

# Compiled tests run only for moments, so LLVM optimizes little, in one piece, and XLA
# uses its older code for loops (in jax 0.10; earlier versions have no other, later ones
# ignore this). Programs compile in a quarter of the time. XLA still divides them among
# devices and fuses them.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    " --xla_cpu_parallel_codegen_split_count=1"
    " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
).strip()
# All processes of the tests share compiled programs, in a cache that is removed at the
# end unless the environment names one.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jax_cache")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], True)
os.environ |= {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
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

# If the tests run in the background of a shell script, Ctrl-C is ignored; the programs
# that they start would ignore it too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fresh_trace_counts():
    """Resets Chex's counts, which go by a function's place in the code."""
    chex.clear_trace_counter()


def _enable_x64():
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    # For the oldest jax that pyproject.toml allows.
    return importlib.import_module("jax.experimental").enable_x64()


@pytest.fixture
def x64():
    with _enable_x64():
        yield


@pytest.fixture
def strict_promotion():
    """Strict promotion for our own code; parts of Optax and Flax promote implicitly."""
    with jax.numpy_dtype_promotion("strict"):
        yield
