"""Tests that need eight devices: tests/test_eight_devices.py runs them."""

import jax
import pytest

if jax.device_count() != 8:
    raise pytest.UsageError(
        "these tests need XLA_FLAGS=--xla_force_host_platform_device_count=8"
    )
