import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from made_up import made_up_examples

from experiments import train
from experiments.cifar10 import data, model
from experiments.train import Task


def test_shapes_and_number_of_parameters():
    """He et al. say 0.27 million; by hand, convolutions, dense layer, normalizations:

    432 + 6 * 2,304 + (4,608 + 5 * 9,216) + (18,432 + 5 * 36,864) + 650 + 2 * 688.
    """
    net = nnx.eval_shape(lambda: model.ResNet20(3, 10, rngs=nnx.Rngs(0)))
    sizes = jax.tree.map(lambda x: x.size, nnx.state(net, nnx.Param))
    assert sum(jax.tree.leaves(sizes)) == 269_722
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    logits = nnx.eval_shape(lambda m, x: m(x), net, images)
    assert logits.shape == (2, 10)


def test_a_block_that_halves_adds_every_second_pixel_and_zeros():
    block = model.Block(2, 4, conv=jax.lax.conv_general_dilated, rngs=nnx.Rngs(0))
    block.second.norm.scale[...] = jnp.zeros(4)  # only the shortcut is left
    x = jax.random.uniform(jax.random.key(0), (1, 4, 4, 2))
    expected = np.zeros((1, 2, 2, 4))
    expected[..., 1:3] = x[:, ::2, ::2]
    np.testing.assert_array_equal(block(x, train=False), expected)


def test_crops_and_flips_show_each_image_moved_or_mirrored():
    images = jnp.arange(200 * 6 * 5, dtype=jnp.int32).reshape(200, 6, 5, 1) + 1
    moved = data.crop_and_flip(images, jax.random.key(0))
    assert moved.shape == images.shape
    seen = set()
    for original, image in zip(np.asarray(images), np.asarray(moved), strict=True):
        padded = np.pad(original, ((4, 4), (4, 4), (0, 0)))
        matches = [
            (row, column, flipped)
            for row in range(9)
            for column in range(9)
            for flipped in (False, True)
            if np.array_equal(
                image[:, ::-1] if flipped else image,
                padded[row : row + 6, column : column + 5],
            )
        ]
        assert matches
        seen.update(matches)
    assert {flipped for *_, flipped in seen} == {False, True}
    assert {row for row, *_ in seen} == {column for _, column, _ in seen} == {*range(9)}


class _Normalized(nnx.Module):
    def __init__(self, *, rngs):
        self.norm = nnx.BatchNorm(1, momentum=0.9, rngs=rngs)
        self.logits = nnx.Linear(1, 3, rngs=rngs)

    def __call__(self, x, *, train):
        x = x.mean((1, 2))
        return self.logits(self.norm(x, use_running_average=not train))


@pytest.mark.soak
def test_training_moves_the_averages_of_batch_norm_and_evaluation_uses_them():
    examples, test = made_up_examples()
    task = Task(
        examples,
        test,
        lambda rngs: _Normalized(rngs=rngs),
        lambda model, x, key: model(x.astype(jnp.float32), train=key is not None),
    )
    examples, test = jax.tree.map(jnp.asarray, (examples, test))
    state = train.init(task, optax.sgd, 0)
    batches, rates = jnp.arange(20)[None], jnp.zeros(1)
    state = train.train_step(task, optax.sgd, examples, state, 0, batches, rates)
    brightness = np.float64(examples.inputs).mean((1, 2))
    mean = 0.1 * brightness.mean(0)
    variance = 0.9 + 0.1 * brightness.var(0)
    statistics = state.statistics.norm
    np.testing.assert_allclose(statistics.mean[...], mean, rtol=1e-4)
    np.testing.assert_allclose(statistics.var[...], variance, rtol=1e-4)

    kernel = np.float64(state.params.logits.kernel[...])
    brightness = np.float64(test.inputs).mean((1, 2))
    logits = (brightness - mean) / np.sqrt(variance + 1e-5) @ kernel
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(7), test.labels]
    loss, _ = train.evaluate(task, test, state.params, state.statistics)
    np.testing.assert_allclose(loss, losses.mean(), rtol=1e-4)


@pytest.mark.soak
def test_only_a_training_step_takes_the_statistics_of_its_batch():
    net = model.ResNet20(1, 3, rngs=nnx.Rngs(0))
    x = jax.random.uniform(jax.random.key(0), (4, 4, 4, 1))
    np.testing.assert_array_equal(net(x), net(x))
    untouched = net.first.norm.mean[...]
    np.testing.assert_array_equal(untouched, 0)
    net(x, jax.random.key(0))
    assert np.all(net.first.norm.mean[...] != untouched)
