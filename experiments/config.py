"""Flags shared by all experiments: what is compared, how, and where the results go.

`Grid` and `Training` are recorded with the results, `Session` is not. Experiments with
the same `Training` may be merged; their grids may differ.
"""

import collections
import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Iterator, Sequence
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
# The factors of learning-rate schedules, joined by "+"; N is a number of updates.
SCHEDULE_FACTORS = (
    "constant",
    "warmup-linear-decay",
    "warmup-linear-decay-N",
    "step-decay",
    "linear-warmup-N",
    "untuned-linear-warmup",
    "untuned-exponential-warmup",
)


class ConfigError(ValueError):
    """A wrong flag; the message has its name, its value and what is allowed."""


class DataError(Exception):
    """Data that is missing or unreadable; the message says where and what to do."""


class Terminated(BaseException):
    """All processes stop, because one received SIGTERM."""

    everywhere = True


class Arm(NamedTuple):
    """An optimizer under a schedule: the unit of comparison."""

    optimizer: OptimizerName
    schedule: str  # of `SCHEDULE_FACTORS`

    @property
    def name(self) -> str:
        """Name in tables and legends."""
        return f"{self.optimizer} {self.schedule}"


class Run(NamedTuple):
    """One training from initial weights to the last epoch."""

    arm: Arm
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name in `metrics.jsonl`."""
        arm = f"{self.arm.optimizer}-{self.arm.schedule}"
        return f"{arm}-{self.learning_rate!r}-s{self.seed}"


def flag_name(field: str) -> str:
    """The command line's spelling of a field."""
    return "--" + field.replace("_", "-")


def check(field: str, value: object, allowed: str, valid: bool) -> None:
    """Raises a `ConfigError` with name, value and what is allowed, unless valid."""
    if not valid:
        raise ConfigError(f"{flag_name(field)} must be {allowed}, got {value!r}.")


def differences(
    there: dict[str, Any], here: dict[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Names and both values of the entries that differ."""
    for name in there | here:
        values = there.get(name), here.get(name)
        if repr(values[0]) != repr(values[1]):  # 1 is not True, and nan is nan
            yield name, *values


def _check_list(field: str, values: Sequence[Any]) -> None:
    check(field, values, "a list of one entry at least", len(values) > 0)
    value, times = collections.Counter(values).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"{flag_name(field)} must not repeat {value!r}.")


def parse_schedule(name: str) -> list[tuple[str, int | None]]:
    """A schedule's factors, named as in `SCHEDULE_FACTORS`, each with its N."""
    factors: list[tuple[str, int | None]] = []
    for factor in name.split("+"):
        found = re.fullmatch(r"(.+)-([1-9]\d{0,9})", factor)
        shape, number = (f"{found[1]}-N", int(found[2])) if found else (factor, None)
        valid = shape in SCHEDULE_FACTORS and shape.endswith("-N") == bool(found)
        allowed = "one of " + ", ".join(SCHEDULE_FACTORS) + " (N: updates), joined by +"
        check("schedules", name, allowed, valid and (number or 0) < 2**31)
        factors.append((shape, number))
    return factors


@dataclasses.dataclass(frozen=True)
class Grid:
    """The compared runs: each is an optimizer, a schedule, a rate and a seed."""

    optimizers: tuple[str, ...] = ("adam", "radam")
    """adam, radam, radam-skip, radam-shifted, schedule-free-radam, sgd, adagrad or
    rmsprop; each under all --schedules, or, as NAME:SCHEDULE, under that one."""
    schedules: tuple[str, ...] = ("constant",)
    """constant, warmup-linear-decay, warmup-linear-decay-N, step-decay,
    linear-warmup-N, untuned-linear-warmup or untuned-exponential-warmup (N: updates);
    several are multiplied as in linear-warmup-100+step-decay."""
    learning_rates: tuple[float, ...] = (1e-3,)
    """Learning rates of every optimizer; a schedule's highest."""
    rates_of: tuple[str, ...] = ()
    """An optimizer's own rates instead, as in sgd=0.01,0.03,0.1."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each fixes initial weights, order of batches and dropout, for all arms."""

    def __post_init__(self) -> None:
        for flag in ("optimizers", "schedules", "learning_rates", "seeds"):
            _check_list(flag, getattr(self, flag))
        for rate in self.learning_rates:
            check("learning_rates", rate, "> 0", 0 < rate < math.inf)
        for seed in self.seeds:
            check("seeds", seed, "in [0, 2**32)", 0 <= seed < 2**32)
        unused = self._own_rates.keys() - {arm.optimizer for arm in self.arms}
        if unused:
            raise ConfigError(
                f"--rates-of has {min(unused)!r}, which --optimizers has not. "
                "--rates-of without a value drops those of a preset."
            )
        if self.schedules != ("constant",) and all(":" in x for x in self.optimizers):
            raise ConfigError(
                f"--schedules has {self.schedules[0]!r}, but all --optimizers name "
                "their own."
            )

    @functools.cached_property
    def arms(self) -> tuple[Arm, ...]:
        """Every optimizer under every schedule, or under the schedule it names."""
        arms, known = [], get_args(OptimizerName)
        for entry in self.optimizers:
            name, colon, own = entry.partition(":")
            check("optimizers", name, "one of " + ", ".join(known), name in known)
            arms += [Arm(name, of) for of in ((own,) if colon else self.schedules)]  # type: ignore[arg-type] # checked just now
        for arm in arms:
            parse_schedule(arm.schedule)
        _check_list("optimizers", [arm.name for arm in arms])
        return tuple(arms)

    @functools.cached_property
    def _own_rates(self) -> dict[str, tuple[float, ...]]:
        own = {}
        for entry in self.rates_of:
            name, _, numbers = entry.partition("=")
            try:
                rates = tuple(float(number) for number in numbers.split(","))
            except ValueError:
                rates = ()
            valid = all(0 < rate < math.inf for rate in rates) and name not in own
            allowed = "NAME=RATE,RATE,..., each name once, and each rate > 0 and once"
            check("rates_of", entry, allowed, valid and 0 < len({*rates}) == len(rates))
            own[name] = rates
        return own

    def rates(self, arm: Arm) -> tuple[float, ...]:
        """The learning rates of an arm."""
        return self._own_rates.get(arm.optimizer, self.learning_rates)

    def runs(self) -> list[Run]:
        """Every arm at every learning rate with every seed."""
        return [
            Run(arm, rate, seed)
            for arm in self.arms
            for rate in self.rates(arm)
            for seed in self.seeds
        ]


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of training, the same for all runs; subclasses add their own."""

    b2: float = 0.999
    """Decay rate of the second moment in adam and all radams, and of the warmup."""
    weight_decay: float = 0.0
    """Weight decay of all parameters: decoupled in adam and radams, L2 in others."""
    schedule_steps: int | None = None
    """Updates that warmup-linear-decay takes to reach its end. None: the whole run."""
    warmup_proportion: float = 0.1
    """Share of those updates that is warmup, in [0, 1)."""
    end_value: float = 1e-5
    """Learning rate at the end of warmup-linear-decay."""
    step_decay_at: tuple[float, ...] = (0.5, 0.75)
    """Shares of the run, in (0, 1), after which step-decay divides by 10."""
    epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 64
    """Examples per update."""
    limit_train: int | None = None
    """Number of training examples to use, the first ones. None: all not held out."""
    validation: int = 0
    """Number of training examples to hold out, the last ones: rates and best epochs
    are chosen on them, and the test data is read after the last epoch only."""
    population: int = 1
    """Runs of one optimizer that train together in one compiled program."""

    def __post_init__(self) -> None:
        of = functools.partial(getattr, self)
        for flag in ("weight_decay", "end_value", "validation"):
            check(flag, of(flag), ">= 0", 0 <= of(flag) < math.inf)
        for flag in ("epochs", "batch_size", "population"):
            check(flag, of(flag), ">= 1", of(flag) >= 1)
        for flag in ("schedule_steps", "limit_train"):
            check(flag, of(flag), ">= 1", of(flag) is None or of(flag) >= 1)
        for flag in ("b2", "warmup_proportion"):
            check(flag, of(flag), "in [0, 1)", 0 <= of(flag) < 1)
        _check_list("step_decay_at", self.step_decay_at)
        for share in self.step_decay_at:
            check("step_decay_at", share, "in (0, 1)", 0 < share < 1)


@dataclasses.dataclass(frozen=True)
class Session:
    """Where and how this session runs; results do not depend on it."""

    checkpoint_seconds: float = 60.0
    """Shortest time between checkpoints; the last epoch always writes one."""
    coordinator: str | None = None
    """HOST:PORT of process 0 of several; start each with the same flags, except
    --process-id."""
    processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Number of this process, from 0."""
    distributed: bool = False
    """Have JAX find the processes itself, as under Slurm, Open MPI or on TPU pods."""
    out: pathlib.Path | None = None
    """Directory for the results, shared by all processes. None: runs/NAME, of the data
    or task."""
    overwrite: bool = False
    """Replace the results of an earlier experiment in --out."""
    resume: bool = False
    """Go on with the interrupted experiment in --out."""

    def __post_init__(self) -> None:
        seconds = self.checkpoint_seconds
        check("checkpoint_seconds", seconds, ">= 0", 0 <= seconds < math.inf)
        if self.resume and self.overwrite:
            raise ConfigError("--resume and --overwrite exclude each other.")
        address, number, rank = self.coordinator, self.processes, self.process_id
        given = [value is not None for value in (address, number, rank)]
        if any(given) and (self.distributed or not all(given)):
            raise ConfigError(
                "--coordinator HOST:PORT, --processes N and --process-id I need each "
                "other, and exclude --distributed, which finds the processes itself."
            )
        if address is None or number is None or rank is None:
            return
        host, _, port = address.rpartition(":")
        valid = bool(host) and port.isdecimal() and 0 < int(port) < 2**16
        check("coordinator", address, "HOST:PORT", valid)
        check("processes", number, ">= 1", number >= 1)
        check("process_id", rank, f"in [0, {number - 1}]", 0 <= rank < number)


@dataclasses.dataclass(frozen=True)
class Flags:
    """All flags of the command line; each experiment has a subclass."""

    module: ClassVar[str]  # what `python -m` runs
    unit: ClassVar[str]  # examples, in the plural: images, sequences
    classes: ClassVar[int]  # number of labels: a guess costs log(classes)

    grid: Grid = Grid()
    training: Training = Training()
    session: Session = Session()

    def __post_init__(self) -> None:
        for arm in self.grid.arms:
            if "warmup-linear-decay" in arm.schedule:
                lowest, end = min(self.grid.rates(arm)), self.training.end_value
                allowed = f"at most {lowest!r}, the lowest learning rate of {arm.name}"
                check("end_value", end, allowed, end <= lowest)

    @property
    def name(self) -> str:
        """Name of the data or the task, for titles and the default directory."""
        raise NotImplementedError

    def load(self) -> Any:
        """Reads or makes the data: `train.Task`."""
        raise NotImplementedError

    @property
    def out(self) -> pathlib.Path:
        """Directory for the results."""
        return self.session.out or pathlib.Path("runs") / self.name
