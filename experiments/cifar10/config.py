"""What the CNN experiment is told besides the flags of every comparison."""

import dataclasses
import pathlib
from typing import ClassVar, Literal

from experiments.comparison.config import ComparisonConfig

DatasetName = Literal["digits", "cifar10"]

TRAINING_IMAGES: dict[DatasetName, int] = {"digits": 1437, "cifar10": 50_000}


@dataclasses.dataclass(frozen=True)
class Config(ComparisonConfig):
    """Train a small CNN with each optimizer, schedule, rate and seed, and compare."""

    module: ClassVar[str] = "experiments.cifar10"
    unit: ClassVar[str] = "images"
    classes: ClassVar[int] = 10

    dataset: DatasetName = "digits"
    """Images: scikit-learn's digits (8x8, no download), or CIFAR-10 (32x32)."""
    data_dir: pathlib.Path | None = None
    """TensorFlow Datasets directory that has, or gets, CIFAR-10. None: TFDS's own."""

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.dataset

    @property
    def train_examples(self) -> int:
        """Training images of the data set."""
        return TRAINING_IMAGES[self.dataset]
