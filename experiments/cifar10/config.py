"""Flags of the image experiment, besides those that all experiments share."""

import dataclasses
import pathlib
from typing import Any, ClassVar, Literal

from experiments import config


@dataclasses.dataclass(frozen=True)
class ImageTraining(config.Training):
    """Settings of training, with images and model."""

    dataset: Literal["digits", "cifar10"] = "digits"
    """Images: scikit-learn's digits (8x8, no download), or CIFAR-10 (32x32)."""
    model: Literal["cnn", "resnet20"] = "cnn"
    """The blog's CNN, or ResNet-20 with BatchNorm."""
    augment: bool = False
    """Crop and flip training images at random."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the layers; parameters, logits and losses are float32 in any case."""


@dataclasses.dataclass(frozen=True)
class ImageSession(config.Session):
    """Where and how this session runs, and where CIFAR-10 is."""

    data_dir: pathlib.Path | None = None
    """TensorFlow Datasets directory that has, or gets, CIFAR-10. None: TFDS's own."""


@dataclasses.dataclass(frozen=True)
class Flags(config.Flags):
    """Train a small CNN with each optimizer, schedule, rate and seed, and compare."""

    module: ClassVar[str] = "experiments.cifar10"
    unit: ClassVar[str] = "images"
    classes: ClassVar[int] = 10

    training: ImageTraining = ImageTraining()
    session: ImageSession = ImageSession()
    preset: Literal["blog", "blog-seeds", "blog-fair", "paper", "warmups"] | None = None
    """Flags to begin with, any of which can be given besides: the blog's comparison,
    with more arms and seeds, a fair one, the paper's, or pytorch_warmup's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        averaged, model = "schedule-free-radam", self.training.model
        if model != "cnn" and averaged in {arm.optimizer for arm in self.grid.arms}:
            raise config.ConfigError(
                f"--model {model} cannot be evaluated with the average that "
                f"{averaged} keeps: its BatchNorm has the statistics of other weights."
            )

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.training.dataset

    def load(self) -> Any:
        """Reads the images: `train.Task`."""
        from experiments.cifar10 import data  # for which --help need not wait

        return data.load(self)
