"""What --compute-dtype changes, and what it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.cifar10 import task
from experiments.cifar10.config import Config
from experiments.comparison.training import Trainer


def _logits(model, compute_dtype):
    """Of some digits, and the parameters."""
    digits = task.load(Config(model=model, compute_dtype=compute_dtype))

    @jax.jit
    def function(images):
        network = digits.make_model(nnx.Rngs(0))
        return digits.logits(network, images, None), nnx.state(network, nnx.Param)

    return function(digits.dataset.test_inputs[:16])


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
    # So that it is not the last layer alone.
    assert not np.array_equal(actual, actual.astype(jnp.bfloat16))


def test_training_in_bfloat16_learns_and_keeps_its_state_in_float32():
    config = Config(compute_dtype="bfloat16", optimizers=("adam",), epochs=2)
    *_, (state, (metrics,)) = Trainer(task.load(config), config).train(config.runs())
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state.train)}
    assert dtypes == {jnp.dtype("float32"), jnp.dtype("int32")}
    assert metrics.test_accuracy > 0.5  # 0.8 in float32
    assert metrics.train_loss < np.log(10)
