"""The images: what was found, where it came from, and a checksum that identifies it."""

import hashlib
import pathlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import sklearn.datasets
import sklearn.model_selection

from experiments.cifar10 import tfds_cifar10
from experiments.cifar10.config import TRAINING_IMAGES, DatasetName

Images = npt.NDArray[np.uint8]  # (n, height, width, channels)
Labels = npt.NDArray[np.int32]  # (n,)


class Dataset(NamedTuple):
    """Images and labels on the host, in the order in which they are stored."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    pixel_max: int  # the pixel value that is scaled to 1
    class_names: tuple[str, ...]
    description: str  # which images these are, for reports

    @property
    def checksum(self) -> str:
        """SHA-256 of pixels and labels, in order."""
        digest = hashlib.sha256()
        for array in self[:4]:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


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
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        pixel_max=16,
        class_names=tuple(str(name) for name in digits.target_names),
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
        train_images=train.images,
        train_labels=train.labels,
        test_images=test.images,
        test_labels=test.labels,
        pixel_max=255,
        class_names=tuple(builder.info.features["label"].names),
        description=f"CIFAR-10, 32x32, from TensorFlow Datasets (stored as {encoding})",
    )
