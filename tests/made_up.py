"""Small images for the tests of the experiments, and their task."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.cifar10.convolution import convolve
from experiments.cifar10.task import make_task
from experiments.comparison.task import Dataset, Task

# As Flax passes them to a convolution of images.
CONVOLUTION_OPTIONS = {
    "lhs_dilation": (1, 1),
    "rhs_dilation": (1, 1),
    "dimension_numbers": jax.lax.conv_dimension_numbers(
        (1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC")
    ),
    "feature_group_count": 1,
}


def made_up_dataset(train=20, test=7, size=8, channels=1, classes=3):
    """Random images whose brightness tells the class."""
    random = np.random.default_rng(0)

    def images_and_labels(n):
        labels = random.integers(0, classes, n).astype(np.int32)
        images = random.integers(0, 5, (n, size, size, channels))
        images = images + 5 * labels[:, None, None, None]
        return images.astype(np.uint8), labels

    return Dataset(
        *images_and_labels(train),
        *images_and_labels(test),
        classes=classes,
        description="made-up images",
    )


def made_up_task():
    """The experiment's CNN, to learn them."""
    return make_task(made_up_dataset(), pixel_max=16)


class SmallCNN(nnx.Module):
    """A convolution, dropout and a dense layer: quick to compile."""

    def __init__(self, *, rngs):
        self.convolution = nnx.Conv(
            1, 4, (3, 3), conv_general_dilated=convolve, rngs=rngs
        )
        self.dropout = nnx.Dropout(0.2)
        self.logits = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, dropout_key):
        x = nnx.relu(self.convolution(x)).mean((1, 2))
        return self.logits(
            x if dropout_key is None else self.dropout(x, rngs=dropout_key)
        )


def small_task():
    """A quick one, with all that the experiment's has."""
    return Task(
        made_up_dataset(),
        lambda rngs: SmallCNN(rngs=rngs),
        lambda model, x, key: model(x.astype(jnp.result_type(float)) / 16, key),
    )
