"""Small images for the tests of the experiments, and tasks that learn them."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.train import Examples, Task


def made_up_examples(train=20, test=7, size=8, channels=1, classes=3):
    """Training and test images whose brightness shows the class."""
    random = np.random.default_rng(0)

    def examples(n):
        labels = random.integers(0, classes, n).astype(np.int32)
        images = random.integers(0, 5, (n, size, size, channels))
        images = images + 5 * labels[:, None, None, None]
        return Examples(images.astype(np.uint8), labels)

    return examples(train), examples(test)


def made_up_task(**options):
    """The experiment's CNN on these images; `options` are fields of `ImageTraining`."""
    from experiments.cifar10 import data  # which takes two seconds to import
    from experiments.cifar10.config import ImageTraining

    images = data.Images(*made_up_examples(), 16, "made-up images")
    return data.make_task(images, ImageTraining(**options), classes=3)


class SmallCNN(nnx.Module):
    """A convolution, dropout and a dense layer: quick to compile."""

    def __init__(self, *, rngs):
        self.convolution = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.2)
        self.logits = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, dropout_key):
        x = nnx.relu(self.convolution(x)).mean((1, 2))
        return self.logits(
            x if dropout_key is None else self.dropout(x, rngs=dropout_key)
        )


def small_task():
    """A fast task with every part of the experiment's."""
    train, test = made_up_examples()
    return Task(
        train,
        test,
        lambda rngs: SmallCNN(rngs=rngs),
        lambda model, x, key: model(x.astype(jnp.result_type(float)) / 16, key),
        "made-up images",
    )
