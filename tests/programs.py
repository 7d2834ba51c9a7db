"""Environments of the programs that tests start."""

import os

# LLVM then optimizes little, and programs compile in half the time; XLA divides them
# among devices, and fuses them, as ever.
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def environment(*flags, **variables):
    """Of this program, but compiling quickly, for the CPU.

    Args:
      *flags: more of XLA's.
      **variables: more of the environment.
    """
    xla_flags = " ".join([os.environ.get("XLA_FLAGS", ""), _QUICK, *flags])
    # What pytest is told by its environment is meant for this program alone.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return (
        inherited | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags.strip()} | variables
    )
