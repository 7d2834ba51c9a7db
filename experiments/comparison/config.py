"""What every comparison is told: its flags, their defaults and their ranges."""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

OptimizerName = Literal[
    "adam",
    "radam",
    "radam-skip",
    "radam-shifted",
    "schedule-free-radam",
    "sgd",
    "adagrad",
    "rmsprop",
]
ScheduleName = Literal["constant", "warmup-linear-decay", "untuned-linear-warmup"]


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
class ComparisonConfig:
    """The flags of all comparisons; a task's own `Config` adds to them."""

    module: ClassVar[str]  # what `python -m` runs
    unit: ClassVar[str]  # what a batch consists of
    classes: ClassVar[int]  # of labels: a guess costs log(classes)

    optimizers: tuple[str, ...] = ("adam", "radam")
    """Of adam, radam, radam-skip, radam-shifted, schedule-free-radam, sgd, adagrad,
    rmsprop; each under all of --schedules, or, as NAME:SCHEDULE, under that one."""
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
    """Decay rate of the second moment in adam and all radams, and of the warmup."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each fixes initial weights, order of batches and dropout, for all arms."""
    epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 64
    """Examples per update."""
    out: pathlib.Path | None = None
    """Directory for the results. None: runs/NAME, of the data or task."""
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
        check_batch_size(self.batch_size, self.train_examples, self)
        if self.schedule_steps is not None:
            _check(
                "schedule_steps", self.schedule_steps, ">= 1", self.schedule_steps >= 1
            )
        proportion = self.warmup_proportion
        _check("warmup_proportion", proportion, "in [0, 1)", 0 <= proportion < 1)
        _check("end_value", self.end_value, ">= 0", 0 <= self.end_value < math.inf)
        if any(arm.schedule == "warmup-linear-decay" for arm in self.arms):
            lowest = min(self.learning_rates)
            allowed = f"at most {lowest!r}, the lowest of --learning-rates"
            _check("end_value", self.end_value, allowed, self.end_value <= lowest)

    @property
    def name(self) -> str:
        """Of the data or the task: in titles, and of the default directory."""
        raise NotImplementedError

    @property
    def train_examples(self) -> int:
        """How many the task trains on."""
        raise NotImplementedError

    @property
    def out_dir(self) -> pathlib.Path:
        """Where the results go."""
        return self.out or pathlib.Path("runs") / self.name

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Every optimizer under every schedule, or under the one it names."""
        arms: list[Arm] = []
        for entry in self.optimizers:
            optimizer, colon, schedule = entry.partition(":")
            schedules = (schedule,) if colon else self.schedules
            arms += [_arm(optimizer, schedule) for schedule in schedules]
        for arm in arms:
            if arms.count(arm) > 1:
                raise ConfigError(f"--optimizers must not repeat {arm.name!r}.")
        return tuple(arms)

    def runs(self) -> list[Run]:
        """Every arm at every learning rate with every seed."""
        product = itertools.product(self.arms, self.learning_rates, self.seeds)
        return list(itertools.starmap(Run, product))


def _arm(optimizer: str, schedule: str) -> Arm:
    for name, known, flag in (
        (optimizer, get_args(OptimizerName), "optimizers"),
        (schedule, get_args(ScheduleName), "schedules"),
    ):
        _check(flag, name, "one of " + ", ".join(known), name in known)
    return Arm(optimizer, schedule)  # type: ignore[arg-type] # checked just now


def flag_name(field: str) -> str:
    """The command line's spelling of a field."""
    return "--" + field.replace("_", "-")


def check_batch_size(batch_size: int, examples: int, config: ComparisonConfig) -> None:
    """Refuses a batch larger than the training set."""
    allowed = f"at most {examples:,}, the training {config.unit} of {config.name}"
    _check("batch_size", batch_size, allowed, batch_size <= examples)


def _check(field: str, value: object, allowed: str, valid: bool) -> None:
    if not valid:
        raise ConfigError(f"{flag_name(field)} must be {allowed}, got {value!r}.")


def _check_list(field: str, values: Sequence[Any]) -> None:
    _check(field, values, "a list of one entry at least", len(values) > 0)
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"{flag_name(field)} must not repeat {value!r}.")
