"""Step by step against other implementations, where they are right."""

import importlib.util
import pathlib

import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from test_radam import _trajectory

import optax_radam

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.mark.usefixtures("x64")
def test_follows_pytorch_from_a_golden_file():
    with np.load(GOLDEN / "torch_radam.npz") as golden:
        gradients, expected = golden["gradients"], golden["trajectory"]
    actual = _trajectory(optax_radam.radam(1e-3), gradients)
    # 2e-9 of this is the place of eps, which PyTorch does not correct for bias.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_follows_the_installed_pytorch():
    pytest.importorskip("torch")
    path = GOLDEN / "make_torch_radam.py"
    spec = importlib.util.spec_from_file_location("make_torch_radam", path)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    gradients = problems.normal_gradients(300, 5, seed=1)
    actual = _trajectory(optax_radam.radam(1e-3), gradients)
    expected = maker.torch_trajectory(gradients)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-8)


def test_follows_optax_to_its_own_error():
    gradients = jnp.asarray(problems.normal_gradients(300, 4), jnp.float32)
    actual = _trajectory(optax_radam.radam(1e-3), gradients)
    expected = _trajectory(optax.radam(1e-3), gradients)
    # Optax's r_t is off by 0.6% at step 6, the first rectified, and 0.1% at step 20.
    np.testing.assert_allclose(actual, expected, atol=5e-5)


def test_adam_under_the_schedule_is_radam_that_skips():
    gradients = jnp.asarray(problems.normal_gradients(50, 4), jnp.float32)
    factor = optax_radam.rectification_schedule(0.999)
    adam = optax.adam(lambda count: 1e-3 * factor(count))
    actual = _trajectory(optax_radam.radam(1e-3, fallback="skip"), gradients)
    np.testing.assert_allclose(actual, _trajectory(adam, gradients), atol=1e-8)
