"""Runs each file of `eight_devices` in a separate program.

The number of simulated devices must be set before JAX starts.
"""

import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent
FILES = sorted((TESTS / "eight_devices").glob("test_*.py"))


def _run(path, *options):
    # Pytest's environment variables are meant only for this program.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    devices = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", str(path), *options],
        cwd=TESTS.parent,
        env=inherited | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_on_eight_devices(path):
    _run(path)


@pytest.mark.soak
def test_experiment_on_eight_devices():
    _run(TESTS / "eight_devices" / "test_experiment.py", "-m", "soak")
