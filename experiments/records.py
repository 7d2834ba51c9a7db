"""Results on disk, written completely or not at all.

`config.json` has settings, machine and versions; `metrics.jsonl` has a row for each
finished epoch of each run. Neither names a directory.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Container, Iterator, Sequence
from typing import Any, Generic, Literal, TypeVar

import filelock
import jax
import numpy as np
import pydantic

from experiments.checkpoints import newest
from experiments.config import (
    ConfigError,
    DataError,
    Flags,
    Grid,
    Run,
    Training,
    check,
    differences,
    flag_name,
)
from experiments.group import Work
from experiments.train import Task

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FOLDER = "checkpoints"
_LOCK_FILE = ".lock"  # stays; the lock itself goes with its process
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_default_matmul_precision",
)
T = TypeVar("T", bound=Training)
_PACKAGES = """optax_radam jax jaxlib optax flax orbax-checkpoint numpy scipy
  scikit-learn tensorflow-datasets pillow"""


class Row(pydantic.BaseModel, extra="allow", strict=True):
    """A finished epoch of a run: a row of `metrics.jsonl`.

    A loss of None beside an accuracy was not finite: the run has diverged. Other Nones
    were not evaluated: where examples are held out, the test waits for the last epoch.
    The group's examples per second are the one extra field, since its name has their
    unit.
    """

    __pydantic_extra__: dict[str, float] = pydantic.Field(init=False)
    run: str
    optimizer: str
    schedule: str
    learning_rate: float
    seed: int
    epoch: pydantic.PositiveInt
    step: int  # updates made so far
    train_loss: float | None  # mean over the epoch's labels as they were trained on
    train_accuracy: float
    validation_loss: float | None = None  # mean over held-out labels, after the epoch
    validation_accuracy: float | None = None
    test_loss: float | None = None  # mean over every test label, after the epoch
    test_accuracy: float | None = None
    best_epoch: int | None = None  # so far, by the validation accuracy
    best_test_accuracy: float | None = None  # of its weights, after the last epoch
    seconds: float  # of the group's training in this epoch


class TaskName(pydantic.BaseModel):
    """Names of a task and of its examples, in the plural."""

    name: str
    unit: str
    classes: int = pydantic.Field(ge=2)


class Data(pydantic.BaseModel, extra="allow"):
    """Identity of the data; numbers of examples are extra fields, named by unit."""

    __pydantic_extra__: dict[str, int] = pydantic.Field(init=False)
    description: str
    sha256: str  # of inputs and labels, in order


class Config(pydantic.BaseModel, Generic[T]):
    """The content of `config.json`."""

    program: Literal["optax_radam experiment"]  # marks the file as ours
    command: str
    task: TaskName
    grid: Grid
    training: T
    jax_settings: dict[str, bool | str | None]
    steps_per_epoch: pydantic.PositiveInt
    data: Data
    machine: str
    versions: dict[str, str]

    def facts(self, *parts: str) -> dict[str, Any]:
        """Settings that results depend on, with the flags of these parts, by name."""
        content = self.model_dump(mode="json", include={*parts})
        flags = {
            flag_name(name): x for of in content.values() for name, x in of.items()
        }
        return flags | self.jax_settings | {"the data's SHA-256": self.data.sha256}


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file completely or not at all."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        with part.open("xb") as file:  # never through somebody's link
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_out(flags: Flags) -> None:
    """Refuses a directory to which results must not, or cannot, be written."""
    path, config, session = flags.out, flags.out / CONFIG_FILE, flags.session

    def require(valid: bool, allowed: str) -> None:
        check("out", str(path), allowed, valid)

    require(str(path).encode(errors="ignore").decode() == str(path), "UTF-8")
    above = (path, *path.absolute().parents)
    existing = next(p for p in above if p.exists() or p.is_symlink())
    require(existing.is_dir(), f"a directory, and {existing} is none")
    require(os.access(existing, os.W_OK), f"writable, and {existing} is not")
    if session.resume:
        require(config.exists(), f"that of an experiment, and {config} is missing")
    elif path.is_dir() and any(p.name != _LOCK_FILE for p in path.iterdir()):
        require(
            session.overwrite,
            "a new or an empty directory (--resume goes on with the experiment in it, "
            "and --overwrite replaces its results)",
        )
        try:
            ours = json.loads(_read(config))["program"] == "optax_radam experiment"
        except (OSError, ValueError, LookupError, TypeError):
            ours = False
        require(
            ours,
            f"this program's to --overwrite, and {config} is missing or of another "
            "program or version; name another directory, or remove that one",
        )


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out of a directory; makes it if it is missing."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path / _LOCK_FILE, blocking=False):
            yield
    except filelock.Timeout as error:
        raise ConfigError(
            f"--out must not be in use, got {path}, into which another process trains."
        ) from error


def describe(flags: Flags, command: str, task: Task, work: Work) -> Config[Any]:
    """The content of `config.json`."""
    digest = hashlib.sha256()
    for array in (*task.train, *task.test):
        digest.update(np.ascontiguousarray(array).tobytes())
    kind, processes = work.devices[0].device_kind, jax.process_count()
    if processes > 1:
        kind = f"{processes} processes, {kind}"
    processor = platform.processor() or platform.machine()
    return Config(
        program="optax_radam experiment",
        command=command,
        task=TaskName(name=flags.name, unit=flags.unit, classes=flags.classes),
        grid=flags.grid,
        training=flags.training,
        jax_settings={name: getattr(jax.config, name) for name in _SETTINGS},
        steps_per_epoch=work.steps_per_epoch,
        data=Data(
            description=task.description,
            sha256=digest.hexdigest(),
            **{f"train_{flags.unit}": len(task.train.labels)},
            **{f"test_{flags.unit}": len(task.test.labels)},
        ),
        machine=f"{kind} ({len(work.devices)}); {processor}, {os.cpu_count()} cores",
        versions={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _PACKAGES.split()},
    )


def create(out: pathlib.Path, config: Config[Any]) -> None:
    """Starts without rows; removes earlier checkpoints."""
    shutil.rmtree(out / CHECKPOINT_FOLDER, ignore_errors=True)
    write_whole(out / METRICS_FILE, b"")
    write_whole(out / CONFIG_FILE, config.model_dump_json(indent=2).encode() + b"\n")


def read_config(out: pathlib.Path, training: type[T]) -> Config[T]:
    """Reads an experiment's settings; raises a `DataError` if the file is damaged."""
    with read_errors(out / CONFIG_FILE):
        text = _read(out / CONFIG_FILE)
        config = Config[training].model_validate_json(text)  # type: ignore[valid-type]
        for part, known in config.model_dump(include={"grid", "training"}).items():
            if found := known.keys() ^ json.loads(text)[part].keys():
                raise ValueError(f"{min(found)!r} is missing or unknown")
        return config


def check_same(out: pathlib.Path, config: Config[Any]) -> None:
    """Refuses to resume another experiment; prints differences that are allowed."""
    there = read_config(out, type(config.training))
    facts = (of.facts("grid", "training") for of in (there, config))
    if found := [*differences(*facts)]:
        lines = "".join(f"\n  {name}: {a!r} there, {b!r} here" for name, a, b in found)
        path = out / CONFIG_FILE
        raise ConfigError(f"--resume needs the experiment of {path}, but{lines}")
    machines = ({"machine": of.machine} | of.versions for of in (there, config))
    for name, before, now in differences(*machines):
        print(f"Not as it was: {name} {before}, now {now}", file=sys.stderr)


@contextlib.contextmanager
def read_errors(path: pathlib.Path, place: str = "") -> Iterator[None]:
    """Turns all errors from damaged records into a `DataError` that names the file."""
    try:
        yield
    except (OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{path}{place} cannot be read ({type(error).__name__}: {reason}): it is "
            "damaged, or not from this experiment. Nothing was deleted; restore it, "
            "or train again into another --out."
        ) from error


def find_rows(flags: Flags, groups: Sequence[Sequence[Run]]) -> tuple[list[int], bytes]:
    """Finished epochs of each group, and the rows without those that will be repeated.

    An unfinished group goes on from its newest checkpoint.
    """
    path, epochs = flags.out / METRICS_FILE, flags.training.epochs
    found: dict[str, set[int]] = {run.name: set() for run in flags.grid.runs()}
    rows, behind = [*read_rows(path, found)], []
    for row in rows:
        found[row.run].add(row.epoch)
    kept: dict[str, int] = {}
    for runs in groups:
        names = [run.name for run in runs]
        finished = all(len(found[name]) >= epochs for name in names)
        done = epochs if finished else newest(checkpoint_folder(flags, runs))
        for name in names:
            if missing := {*range(1, done + 1)} - found[name]:
                raise DataError(
                    f"{path} lacks {len(missing)} of the {done} rows of {name} before "
                    "its newest checkpoint. Nothing was deleted; restore the file, or "
                    "train again into another --out."
                )
        behind.append(done)
        kept |= dict.fromkeys(names, done)
    left = (_line(row) for row in rows if row.epoch <= kept[row.run])
    return behind, b"".join(left)


def checkpoint_folder(flags: Flags, runs: Sequence[Run]) -> pathlib.Path:
    """The folder for the checkpoints of a group of runs."""
    more = f"+{len(runs) - 1}" if len(runs) > 1 else ""
    return flags.out / CHECKPOINT_FOLDER / f"{runs[0].name}{more}"


def append(
    flags: Flags, runs: Sequence[Run], metrics: Sequence[dict[str, Any]]
) -> None:
    """Adds a row for each run; all are on the disk when this returns."""
    lines = b""
    for run, of_run in zip(runs, metrics, strict=True):
        row: dict[str, Any] = run.arm._asdict() | of_run
        row |= {"run": run.name, "learning_rate": run.learning_rate, "seed": run.seed}
        row[f"{flags.unit}_per_second"] = row.pop("examples_per_second")
        lines += _line(Row(**row))
    with (flags.out / METRICS_FILE).open("ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _line(row: Row) -> bytes:
    return row.model_dump_json().encode() + b"\n"


def read_rows(path: pathlib.Path, runs: Container[str]) -> Iterator[Row]:
    """Reads the rows of a file; each must belong to one of the named runs."""
    with read_errors(path):
        # Text after the last line break was being written when the power failed.
        *lines, _ = _read(path).split("\n")
    for number, line in enumerate(lines, start=1):
        with read_errors(path, f", line {number}"):
            row = Row.model_validate_json(line)
            if row.run not in runs:
                raise ValueError(f"no run of {CONFIG_FILE} is {row.run!r}")
        yield row


def _read(path: pathlib.Path) -> str:
    if path.exists() and not path.is_file():
        raise OSError("it is no file")  # opening a pipe would block
    return path.read_text()
