"""What every comparison is told: its flags, their defaults and their ranges."""

import dataclasses
import functools
import itertools
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
# What learning-rate schedules are made of, joined by "+"; N is a number of updates.
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
    """A flag that cannot be used: says which, its value, and what is allowed."""


class DataError(Exception):
    """Data that is missing or cannot be read: says where, and what to run."""


class Arm(NamedTuple):
    """What is compared: an optimizer under a schedule."""

    optimizer: OptimizerName
    schedule: str  # of `SCHEDULE_FACTORS`

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
    schedules: tuple[str, ...] = ("constant",)
    """Of constant, warmup-linear-decay, warmup-linear-decay-N, step-decay,
    linear-warmup-N, untuned-linear-warmup, untuned-exponential-warmup (N: updates);
    several are multiplied as in linear-warmup-100+step-decay."""
    schedule_steps: int | None = None
    """Updates that warmup-linear-decay takes to reach its end. None: the whole run."""
    warmup_proportion: float = 0.1
    """Share of those updates that is warmup, in [0, 1)."""
    end_value: float = 1e-5
    """Learning rate at the end of warmup-linear-decay."""
    step_decay_at: tuple[float, ...] = (0.5, 0.75)
    """Shares of the run, in (0, 1), after which step-decay divides by 10."""
    learning_rates: tuple[float, ...] = (1e-3,)
    """Learning rates to run each of them at; a schedule's highest."""
    rates_of: tuple[str, ...] = ()
    """An optimizer's own rates instead, as in sgd=0.01,0.03,0.1."""
    b2: float = 0.999
    """Decay rate of the second moment in adam and all radams, and of the warmup."""
    weight_decay: float = 0.0
    """Of all parameters: decoupled in adam and all radams, L2 in the others."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each fixes initial weights, order of batches and dropout, for all arms."""
    epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 64
    """Examples per update."""
    limit_train: int | None = None
    """Train on the first so many examples. None: on all that are not held out."""
    validation: int = 0
    """Training examples, the last ones, to hold out: rates and best checkpoints are
    chosen on them, and the test data is read after the last epoch alone."""
    population: int = 1
    """Runs of one optimizer that train together in one compiled program."""
    deterministic: bool = False
    """On a GPU, the same bits in every repetition, for some speed. A CPU does that."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints; each finished run is kept in any case."""
    mesh: str | None = None
    """data=N: train on N devices, which share the batches, or the runs of groups that
    they divide. None: on all there are."""
    coordinator: str | None = None
    """HOST:PORT of process 0 of many; each is started with the same flags but for
    --process-id."""
    processes: int | None = None
    """How many there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    distributed: bool = False
    """Have JAX find the processes itself, as under Slurm, Open MPI or on TPU pods."""
    out: pathlib.Path | None = None
    """Directory for the results, which all processes see. None: runs/NAME, of the data
    or task."""
    overwrite: bool = False
    """Replace the results of an earlier experiment in --out."""
    resume: bool = False
    """Go on with the interrupted experiment in --out."""

    def __post_init__(self) -> None:
        """Refuses what cannot be run, naming the flag."""
        for flag in ("optimizers", "schedules", "learning_rates", "seeds"):
            _check_list(flag, getattr(self, flag))
        for rate in self.learning_rates:
            _check("learning_rates", rate, "> 0", 0 < rate < math.inf)
        for seed in self.seeds:
            _check("seeds", seed, "in [0, 2**32)", 0 <= seed < 2**32)
        _check("b2", self.b2, "in [0, 1)", 0 <= self.b2 < 1)
        decay = self.weight_decay
        _check("weight_decay", decay, ">= 0", 0 <= decay < math.inf)
        for field in ("epochs", "batch_size", "population"):
            _check(field, getattr(self, field), ">= 1", getattr(self, field) >= 1)
        _check("validation", self.validation, ">= 0", self.validation >= 0)
        for field in ("schedule_steps", "limit_train"):
            value = getattr(self, field)
            _check(field, value, ">= 1", value is None or value >= 1)
        seconds = self.checkpoint_seconds
        _check("checkpoint_seconds", seconds, ">= 0", 0 <= seconds < math.inf)
        proportion = self.warmup_proportion
        _check("warmup_proportion", proportion, "in [0, 1)", 0 <= proportion < 1)
        _check_list("step_decay_at", self.step_decay_at)
        for share in self.step_decay_at:
            _check("step_decay_at", share, "in (0, 1)", 0 < share < 1)
        _check("end_value", self.end_value, ">= 0", 0 <= self.end_value < math.inf)
        self._check_sizes()
        self._check_processes()
        if self.resume and self.overwrite:
            raise ConfigError("--resume and --overwrite exclude each other.")
        for arm in self.arms:
            if "warmup-linear-decay" in arm.schedule:
                lowest = min(self.rates(arm))
                allowed = f"at most {lowest!r}, the lowest learning rate of {arm.name}"
                _check("end_value", self.end_value, allowed, self.end_value <= lowest)
        unused = self._own_rates.keys() - {arm.optimizer for arm in self.arms}
        if unused:
            raise ConfigError(
                f"--rates-of has {min(unused)!r}, which --optimizers has not. "
                "--rates-of alone, without a value, drops those of a preset."
            )
        for schedule in self.schedules:
            _arm("adam", schedule)
        named = all(":" in entry for entry in self.optimizers)
        if named and self.schedules != ("constant",):
            raise ConfigError(
                f"--schedules has {self.schedules[0]!r}, but all --optimizers name "
                "their own."
            )

    def _check_sizes(self) -> None:
        rest = self.train_examples - self.validation
        allowed = f"below {self.train_examples:,}, the training {self.unit}"
        _check("validation", self.validation, f"{allowed} of {self.name}", rest > 0)
        if self.limit_train is not None:
            allowed = f"at most {rest:,}, the {self.unit} that are not held out"
            _check("limit_train", self.limit_train, allowed, self.limit_train <= rest)
        check_batch_size(self.batch_size, self.limit_train or rest, self)

    def _check_processes(self) -> None:
        mesh = self.mesh
        valid = mesh is None or re.fullmatch(r"data=[1-9]\d{0,8}", mesh) is not None
        _check("mesh", mesh, "data=N, N >= 1", valid)
        flags = ("coordinator", "processes", "process_id")
        missing = [flag for flag in flags if getattr(self, flag) is None]
        if self.distributed and len(missing) < 3:
            raise ConfigError(
                "--distributed finds the processes by itself; it excludes "
                "--coordinator, --processes and --process-id."
            )
        if 0 < len(missing) < 3:
            raise ConfigError(
                f"{flag_name(missing[0])} is missing: many processes need "
                "--coordinator HOST:PORT, --processes N and --process-id I."
            )
        if self.coordinator is None or self.processes is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        valid = bool(host) and port.isdecimal() and 0 < int(port) < 2**16
        _check("coordinator", self.coordinator, "HOST:PORT", valid)
        _check("processes", self.processes, ">= 1", self.processes >= 1)
        number, last = self.process_id, self.processes - 1
        valid = number is not None and 0 <= number <= last
        _check("process_id", number, f"in [0, {last}]", valid)

    @property
    def in_many_processes(self) -> bool:
        """Whether this is one process of several."""
        return self.distributed or self.coordinator is not None

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

    @functools.cached_property
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

    @functools.cached_property
    def _own_rates(self) -> dict[str, tuple[float, ...]]:
        own = {}
        for entry in self.rates_of:
            name, _, numbers = entry.partition("=")
            try:
                rates = tuple(float(number) for number in numbers.split(","))
            except ValueError:
                rates = ()
            valid = bool(rates) and all(0 < rate < math.inf for rate in rates)
            allowed = "NAME=RATE,RATE,..., each rate > 0 and once"
            _check("rates_of", entry, allowed, valid and len({*rates}) == len(rates))
            _check("rates_of", entry, "once for an optimizer", name not in own)
            own[name] = rates
        return own

    def rates(self, arm: Arm) -> tuple[float, ...]:
        """The learning rates that an arm runs at."""
        return self._own_rates.get(arm.optimizer, self.learning_rates)

    def runs(self) -> list[Run]:
        """Every arm at every learning rate with every seed."""
        return [
            Run(arm, rate, seed)
            for arm in self.arms
            for rate in self.rates(arm)
            for seed in self.seeds
        ]

    def groups(self) -> list[list[Run]]:
        """The runs in the order in which they train, together where they may."""
        runs = self.runs()
        if self.population > 1:  # those of one optimizer share a compiled step
            names = list(dict.fromkeys(run.arm.optimizer for run in runs))
            runs.sort(key=lambda run: names.index(run.arm.optimizer))
        of_optimizers = itertools.groupby(runs, key=lambda run: run.arm.optimizer)
        return [
            list(group)
            for _, of_optimizer in of_optimizers
            for group in _batched(list(of_optimizer), self.population)
        ]


def _batched(runs: list[Run], size: int) -> Iterator[list[Run]]:
    return (runs[start : start + size] for start in range(0, len(runs), size))


def _arm(optimizer: str, schedule: str) -> Arm:
    known = get_args(OptimizerName)
    _check("optimizers", optimizer, "one of " + ", ".join(known), optimizer in known)
    factors = schedule.split("+")
    shapes = [re.sub(r"-[1-9]\d*$", "-N", factor) for factor in factors]
    valid = all(shape in SCHEDULE_FACTORS for shape in shapes)
    valid = valid and not any(factor.endswith("-N") for factor in factors)
    numbers = [int(digits) for digits in re.findall(r"-(\d+)", schedule)]
    valid = valid and all(number < 2**31 for number in numbers)
    allowed = "one of " + ", ".join(SCHEDULE_FACTORS) + " (N: updates), joined by +"
    _check("schedules", schedule, allowed, valid)
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
