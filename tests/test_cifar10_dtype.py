"""Effects of --compute-dtype, and numbers that it must not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import train
from experiments.cifar10 import data
from experiments.cifar10.config import Flags, ImageTraining


def _digits(**options):
    return data.load(Flags(training=ImageTraining(**options)))


def _logits(model, compute_dtype):
    """Logits of some digits, and the parameters."""
    digits = _digits(model=model, compute_dtype=compute_dtype)

    @jax.jit
    def function(images):
        network = digits.make_model(nnx.Rngs(0))
        return digits.logits(network, images, None), nnx.state(network, nnx.Param)

    return function(digits.test.inputs[:16])


@pytest.mark.parametrize(
    "model", ["cnn", pytest.param("resnet20", marks=pytest.mark.soak)]
)
def test_bfloat16_moves_logits_by_its_rounding_and_parameters_not_at_all(model):
    expected, params = _logits(model, "float32")
    actual, same_params = _logits(model, "bfloat16")
    assert actual.dtype == expected.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, same_params, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    rounding = np.abs(actual - expected).max() / np.std(expected)
    assert 1e-4 < rounding < 0.06  # other weights differ by five
    # So that not only the last layer is rounded.
    assert not np.array_equal(actual, actual.astype(jnp.bfloat16))


@pytest.mark.soak
def test_training_in_bfloat16_learns_and_keeps_its_state_in_float32():
    digits = _digits(compute_dtype="bfloat16")
    examples, test = jax.tree.map(jnp.asarray, (digits.train, digits.test))
    step = jax.jit(functools.partial(train.train_step, digits, optax.adam))
    state = jax.jit(functools.partial(train.init, digits, optax.adam))(0)
    for epoch in range(2):
        batches = train.batches(0, epoch, len(examples.labels), 64)
        for _ in batches:
            state = step(examples, state, 0, batches, jnp.full(len(batches), 1e-3))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert dtypes == {jnp.dtype("float32"), jnp.dtype("int32")}
    _, accuracy = jax.jit(functools.partial(train.evaluate, digits))(
        test, state.params, state.statistics
    )
    assert accuracy > 0.5  # 0.8 in float32
    assert state.loss_sum / len(examples.labels) < np.log(10)
