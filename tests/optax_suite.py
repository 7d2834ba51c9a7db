"""Runs Optax's own tests that name radam, on ours.

test_optax_suite.py starts it as a separate process: Optax is patched before its tests
are imported, and they need eight devices. Prints the number of tests that passed, the
number of our optimizers that they built, and every failure.
"""

import functools
import importlib
import os
import unittest

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import optax
from optax._src import alias

import optax_radam

MODULES = (
    "optax._src.alias_test",
    "optax._src.sharding_test",
    "optax.contrib._common_test",
)


class _Counted:
    """`optax_radam.radam`, with a count of the calls, to prove that it is used."""

    calls = 0

    @staticmethod
    @functools.wraps(optax_radam.radam)
    def radam(*args, **kwargs):
        _Counted.calls += 1
        return optax_radam.radam(*args, **kwargs)


def _tests(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _tests(test)
        else:
            yield test


def main():
    optax.radam = alias.radam = _Counted.radam
    # Optax 0.2.8 compares versions as strings, and would skip for jax 0.10 what it
    # skips for 0.7.1.
    jax.__version__ = jax.__version__.replace("0.1", "0.9", 1)
    suite = unittest.TestSuite()
    for name in MODULES:
        module = importlib.import_module(name)
        tests = unittest.defaultTestLoader.loadTestsFromModule(module)
        suite.addTests(test for test in _tests(tests) if "radam" in test.id())
    result = unittest.TextTestRunner().run(suite)
    passed = result.testsRun - len(result.skipped)
    print(f"{passed} passed, {len(result.skipped)} skipped, {_Counted.calls} built")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    raise SystemExit(main())
