"""Tests that need compilers for accelerators: `make accelerators` installs them."""

import functools
import os

import jax
import pytest

from benchmarks import accelerators

jax.config.update("jax_platforms", "cpu")  # nothing runs elsewhere


@functools.cache
def _mesh(name):
    try:
        return accelerators.mesh(name)
    except RuntimeError as error:
        return error


@pytest.fixture
def mesh(request):
    """A mesh of the devices that the test names as its parameter."""
    mesh = _mesh(request.param)
    if isinstance(mesh, RuntimeError):
        if os.environ.get("CI"):
            raise mesh
        pytest.skip(str(mesh))
    return mesh
