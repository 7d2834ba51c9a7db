"""What an experiment is told: every flag, its default and its range."""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

OptimizerName = Literal[
    "adam", "radam", "schedule-free-radam", "sgd", "adagrad", "rmsprop"
]
ScheduleName = Literal["constant", "warmup-linear-decay", "untuned-linear-warmup"]
DatasetName = Literal["digits", "cifar10"]

TRAINING_IMAGES: dict[DatasetName, int] = {"digits": 1437, "cifar10": 50_000}


class ConfigError(ValueError):
    """A flag that cannot be used: says which, its value, and what is allowed."""


class DataError(Exception):
    """Data that is missing or cannot be read: says where, and what to run."""


class Arm(NamedTuple):
    """What is compared: an optimizer under a schedule."""

    optimizer: OptimizerName
    schedule: ScheduleName

    @property
    def name(self) -> str:
        """As it stands in tables and legends."""
        return f"{self.optimizer} {self.schedule}"


class Run(NamedTuple):
    """One training from initial weights to the last epoch."""

    arm: Arm
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """As it stands in `metrics.jsonl`."""
        arm = f"{self.arm.optimizer}-{self.arm.schedule}"
        return f"{arm}-{self.learning_rate!r}-s{self.seed}"


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a small CNN with every combination of the four lists, and compare them."""

    dataset: DatasetName = "digits"
    """Images: scikit-learn's digits (8x8, no download), or CIFAR-10 (32x32)."""
    data_dir: pathlib.Path | None = None
    """TensorFlow Datasets directory that has, or gets, CIFAR-10. None: TFDS's own."""
    optimizers: tuple[OptimizerName, ...] = ("adam", "radam")
    """Optimizers to compare."""
    schedules: tuple[ScheduleName, ...] = ("constant",)
    """Learning-rate schedules to run each optimizer under."""
    schedule_steps: int | None = None
    """Updates that warmup-linear-decay takes to reach its end. None: the whole run."""
    warmup_proportion: float = 0.1
    """Share of those updates that is warmup, in [0, 1)."""
    end_value: float = 1e-5
    """Learning rate at the end of warmup-linear-decay."""
    learning_rates: tuple[float, ...] = (1e-3,)
    """Learning rates to run each of them at; a schedule's highest."""
    b2: float = 0.999
    """Decay rate of the second moment in adam and both radams, and of the warmup."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each fixes initial weights, order of batches and dropout, for all arms."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 64
    """Images per update."""
    out: pathlib.Path | None = None
    """Directory for the results. None: runs/DATASET."""
    overwrite: bool = False
    """Replace the results of an earlier experiment in --out."""

    def __post_init__(self) -> None:
        """Refuses what cannot be run, naming the flag."""
        for flag in ("optimizers", "schedules", "learning_rates", "seeds"):
            _check_list(flag, getattr(self, flag))
        for rate in self.learning_rates:
            _check("learning_rates", rate, "> 0", 0 < rate < math.inf)
        for seed in self.seeds:
            _check("seeds", seed, "in [0, 2**32)", 0 <= seed < 2**32)
        _check("b2", self.b2, "in [0, 1)", 0 <= self.b2 < 1)
        _check("epochs", self.epochs, ">= 1", self.epochs >= 1)
        _check("batch_size", self.batch_size, ">= 1", self.batch_size >= 1)
        check_batch_size(self.batch_size, TRAINING_IMAGES[self.dataset], self.dataset)
        if self.schedule_steps is not None:
            _check(
                "schedule_steps", self.schedule_steps, ">= 1", self.schedule_steps >= 1
            )
        proportion = self.warmup_proportion
        _check("warmup_proportion", proportion, "in [0, 1)", 0 <= proportion < 1)
        _check("end_value", self.end_value, ">= 0", 0 <= self.end_value < math.inf)
        if "warmup-linear-decay" in self.schedules:
            lowest = min(self.learning_rates)
            allowed = f"at most {lowest!r}, the lowest of --learning-rates"
            _check("end_value", self.end_value, allowed, self.end_value <= lowest)

    @property
    def out_dir(self) -> pathlib.Path:
        """Where the results go."""
        return self.out or pathlib.Path("runs") / self.dataset

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Every optimizer under every schedule."""
        return tuple(
            itertools.starmap(Arm, itertools.product(self.optimizers, self.schedules))
        )

    def runs(self, arms: Iterable[Arm]) -> list[Run]:
        """Every arm at every learning rate with every seed."""
        product = itertools.product(arms, self.learning_rates, self.seeds)
        return list(itertools.starmap(Run, product))


def flag_name(field: str) -> str:
    """The command line's spelling of a field."""
    return "--" + field.replace("_", "-")


def check_batch_size(batch_size: int, images: int, dataset: str) -> None:
    """Refuses a batch larger than the training set."""
    allowed = f"at most {images:,}, the training images of {dataset}"
    _check("batch_size", batch_size, allowed, batch_size <= images)


def _check(field: str, value: object, allowed: str, valid: bool) -> None:
    if not valid:
        raise ConfigError(f"{flag_name(field)} must be {allowed}, got {value!r}.")


def _check_list(field: str, values: Sequence[Any]) -> None:
    _check(field, values, "a list of one entry at least", len(values) > 0)
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"{flag_name(field)} must not repeat {value!r}.")
