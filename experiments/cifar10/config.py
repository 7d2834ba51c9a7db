"""What the image experiment is told besides the flags of every comparison."""

import dataclasses
import pathlib
from typing import ClassVar, Literal

from experiments.comparison.config import ComparisonConfig, ConfigError

DatasetName = Literal["digits", "cifar10"]
ModelName = Literal["cnn", "resnet20"]
DtypeName = Literal["float32", "bfloat16"]
PresetName = Literal["blog", "blog-fair", "paper"]

TRAINING_IMAGES: dict[DatasetName, int] = {"digits": 1437, "cifar10": 50_000}


@dataclasses.dataclass(frozen=True)
class Config(ComparisonConfig):
    """Train a small CNN with each optimizer, schedule, rate and seed, and compare."""

    module: ClassVar[str] = "experiments.cifar10"
    unit: ClassVar[str] = "images"
    classes: ClassVar[int] = 10

    preset: PresetName | None = None
    """Flags to begin with, any of which can be given besides: the blog's comparison,
    a fair one, or the paper's."""
    dataset: DatasetName = "digits"
    """Images: scikit-learn's digits (8x8, no download), or CIFAR-10 (32x32)."""
    data_dir: pathlib.Path | None = None
    """TensorFlow Datasets directory that has, or gets, CIFAR-10. None: TFDS's own."""
    model: ModelName = "cnn"
    """The blog's CNN, or ResNet-20 with BatchNorm."""
    augment: bool = False
    """Crop and flip training images at random."""
    compute_dtype: DtypeName = "float32"
    """Of the model's layers; parameters, logits and losses are float32 in any case."""

    def __post_init__(self) -> None:
        """Refuses what cannot be run, naming the flag."""
        super().__post_init__()
        averaged = "schedule-free-radam"
        if self.model != "cnn" and averaged in {arm.optimizer for arm in self.arms}:
            raise ConfigError(
                f"--model {self.model} cannot be evaluated with the average that "
                f"{averaged} keeps: its BatchNorm has the statistics of other weights."
            )

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.dataset

    @property
    def train_examples(self) -> int:
        """Training images of the data set."""
        return TRAINING_IMAGES[self.dataset]
