"""Small images for the tests of the experiments, and their task."""

import numpy as np

from experiments.cifar10.task import make_task
from experiments.comparison.task import Dataset


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
    """A CNN that learns them."""
    return make_task(made_up_dataset(), pixel_max=16)
