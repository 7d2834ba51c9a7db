"""The images: uint8 of shape (n, height, width, channels), with int32 labels."""

import pathlib

import numpy as np
import sklearn.datasets
import sklearn.model_selection

from experiments.cifar10 import tfds_cifar10
from experiments.cifar10.config import TRAINING_IMAGES, DatasetName
from experiments.comparison.task import Dataset


def load(name: DatasetName, data_dir: pathlib.Path | None) -> Dataset:
    """Reads a data set by name.

    Args:
      name: `digits` or `cifar10`.
      data_dir: TensorFlow Datasets directory, for `cifar10`; None for TFDS's default.

    Returns:
      The whole data set, in memory.

    Raises:
      DataError: if it is neither there nor to be had; names the directory that was
        looked in and what to run.
    """
    return _load_digits() if name == "digits" else _load_cifar10(data_dir)


def _load_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits at 8x8, in a fixed stratified split."""
    digits = sklearn.datasets.load_digits()
    train_images, test_images, train_labels, test_labels = (
        sklearn.model_selection.train_test_split(
            digits.images.astype(np.uint8)[..., np.newaxis],
            digits.target.astype(np.int32),
            train_size=TRAINING_IMAGES["digits"],
            stratify=digits.target,
            random_state=0,
        )
    )
    return Dataset(
        train_inputs=train_images,
        train_labels=train_labels,
        test_inputs=test_images,
        test_labels=test_labels,
        classes=len(digits.target_names),
        description="scikit-learn's bundled handwritten digits, 8x8",
    )


def _load_cifar10(data_dir: pathlib.Path | None) -> Dataset:
    builder = tfds_cifar10.prepared_builder(data_dir)
    train = tfds_cifar10.read_split(builder, "train")
    test = tfds_cifar10.read_split(builder, "test")
    encoding = test.encoding
    if encoding == "JPEG":
        encoding += (
            ", re-encoded with loss: accuracies run a little below published ones"
        )
    return Dataset(
        train_inputs=train.images,
        train_labels=train.labels,
        test_inputs=test.images,
        test_labels=test.labels,
        classes=builder.info.features["label"].num_classes,
        description=f"CIFAR-10, 32x32, from TensorFlow Datasets (stored as {encoding})",
    )
