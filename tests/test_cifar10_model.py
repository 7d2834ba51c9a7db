import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.cifar10 import model


@pytest.mark.parametrize("image_shape", [(32, 32, 3), (8, 8, 1), (16, 24, 2)])
def test_shapes(image_shape):
    cnn = nnx.eval_shape(lambda: model.CNN(image_shape, 10, rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    logits = nnx.eval_shape(lambda cnn, x: cnn(x), cnn, images)
    assert logits.shape == (2, 10)
    assert logits.dtype == jnp.float32
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(cnn, nnx.Param))]
    height, width, channels = image_shape
    # Weights and biases: six 3x3 convolutions, then two dense layers.
    convolutions = [channels, 32, 32, 64, 64, 128, 128]
    expected = sum(9 * a * b + b for a, b in itertools.pairwise(convolutions))
    expected += (height // 8) * (width // 8) * 128 * 128 + 128 + 128 * 10 + 10
    assert sum(sizes) == expected


def test_he_uniform_initial_weights():
    cnn = nnx.jit(lambda: model.CNN((8, 8, 3), 10, rngs=nnx.Rngs(0)))()
    kernel = cnn.convolutions[5].kernel[...]
    bound = np.sqrt(6 / (9 * 128))
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_array_equal(cnn.convolutions[5].bias[...], 0)


def test_dropout_depends_only_on_its_key_and_drops_a_fifth():
    cnn = nnx.jit(lambda: model.CNN((8, 8, 1), 10, rngs=nnx.Rngs(0)))()
    x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
    keys = jax.random.split(jax.random.key(2))
    logits = nnx.jit(lambda cnn, key: cnn(x, key))
    np.testing.assert_array_equal(logits(cnn, keys[0]), logits(cnn, keys[0]))
    assert not np.allclose(logits(cnn, keys[0]), logits(cnn, keys[1]))
    assert not np.allclose(logits(cnn, keys[0]), logits(cnn, None))
    dropped = cnn.dropout(jnp.ones(100_000), rngs=keys[0])
    np.testing.assert_allclose(jnp.mean(dropped == 0), 0.2, atol=0.01)
    np.testing.assert_allclose(jnp.mean(dropped), 1.0, atol=0.01)


def test_max_pool_and_its_gradient():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    expected = nnx.max_pool(x, (2, 2), (2, 2))
    np.testing.assert_array_equal(model._max_pool(x), expected)
    ours = jax.grad(lambda x: jnp.sum(model._max_pool(x) ** 2))(x)
    theirs = jax.grad(lambda x: jnp.sum(nnx.max_pool(x, (2, 2), (2, 2)) ** 2))(x)
    np.testing.assert_array_equal(ours, theirs)
