import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from made_up import made_up_dataset

from experiments.cifar10 import augmentation, resnet
from experiments.cifar10.config import Config
from experiments.comparison.config import Arm, Run
from experiments.comparison.task import Task
from experiments.comparison.training import Trainer


def test_shapes_and_number_of_parameters():
    """He et al. say 0.27 million; by hand, convolutions, dense layer, normalizations:

    432 + 6 * 2,304 + (4,608 + 5 * 9,216) + (18,432 + 5 * 36,864) + 650 + 2 * 688.
    """
    model = nnx.eval_shape(lambda: resnet.ResNet20(3, 10, rngs=nnx.Rngs(0)))
    sizes = jax.tree.map(lambda x: x.size, nnx.state(model, nnx.Param))
    assert sum(jax.tree.leaves(sizes)) == 269_722
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    logits = nnx.eval_shape(lambda m, x: m(x, train=False), model, images)
    assert logits.shape == (2, 10)


def test_a_block_that_halves_adds_every_second_pixel_and_zeros():
    block = resnet.Block(2, 4, rngs=nnx.Rngs(0))
    block.second_norm.scale[...] = jnp.zeros(4)  # leaves the shortcut alone
    x = jax.random.uniform(jax.random.key(0), (1, 4, 4, 2))
    expected = np.zeros((1, 2, 2, 4))
    expected[..., 1:3] = x[:, ::2, ::2]
    np.testing.assert_array_equal(block(x, train=False), expected)


def test_crops_and_flips_show_each_image_moved_or_mirrored():
    images = jnp.arange(200 * 6 * 5, dtype=jnp.int32).reshape(200, 6, 5, 1) + 1
    moved = augmentation.crop_and_flip(images, jax.random.key(0))
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


def test_training_moves_the_averages_of_batch_norm_and_evaluation_uses_them():
    dataset = made_up_dataset()
    task = Task(
        dataset,
        lambda rngs: _Normalized(rngs=rngs),
        lambda model, x, key: model(x.astype(jnp.float32), train=key is not None),
    )
    trainer = Trainer(task, Config(epochs=1, batch_size=20))
    runs = [Run(Arm("sgd", "constant"), 1e-30, seed) for seed in range(2)]
    ((state, metrics),) = trainer.train(runs)
    brightness = dataset.train_inputs.astype(np.float64).mean((1, 2))
    statistics = state.train.weights.statistics.norm
    mean = 0.1 * brightness.mean(0)
    variance = 0.9 + 0.1 * brightness.var(0)
    np.testing.assert_allclose(statistics.mean[...], [mean] * 2, rtol=1e-4)
    np.testing.assert_allclose(statistics.var[...], [variance] * 2, rtol=1e-4)

    kernel = np.float64(state.train.weights.params.logits.kernel[...])[0]
    test = dataset.test_inputs.astype(np.float64).mean((1, 2))
    logits = (test - mean) / np.sqrt(variance + 1e-5) @ kernel
    log_sums = np.log(np.exp(logits).sum(1))
    losses = log_sums - logits[np.arange(7), dataset.test_labels]
    np.testing.assert_allclose(metrics[0].test_loss, losses.mean(), rtol=1e-4)
