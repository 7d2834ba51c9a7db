import atexit
import importlib
import os
import shutil
import signal
import tempfile

# What tests compile runs for moments: LLVM optimizes little, and in one piece, and gets
# what XLA's older code makes of loops (in jax 0.10; earlier has no newer, later ignores
# this). Programs compile in a quarter of the time. XLA divides them among devices, and
# fuses them, as ever.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    " --xla_cpu_parallel_codegen_split_count=1"
    " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
).strip()
# What one process has compiled, others and those that tests start do not compile again.
# It is kept after the tests only where the environment already says so, and where.
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
