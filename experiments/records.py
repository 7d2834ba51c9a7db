"""Results on disk, written whole or not at all.

`config.json` says what was run, on what, with which versions; `metrics.jsonl` has a row
for each finished epoch of each run. Neither names a directory.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Container, Iterator, Sequence
from typing import Any

import filelock
import jax
import numpy as np

from experiments.checkpoints import newest
from experiments.config import (
    ConfigError,
    DataError,
    Flags,
    Run,
    check,
    differences,
    flag_name,
)
from experiments.group import Work
from experiments.train import Task

# Of each row, besides examples per second of the group. A loss that is not finite means
# that the run has diverged. None stands for what was not evaluated: where examples are
# held out, tests wait for the last epoch. The best epoch is that of the highest
# validation accuracy so far, and its weights are tested after the last one.
_COLUMNS = """run optimizer schedule learning_rate seed epoch step train_loss
  train_accuracy validation_loss validation_accuracy test_loss test_accuracy best_epoch
  best_test_accuracy seconds"""
CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FOLDER = "checkpoints"
_LOCK_FILE = ".lock"  # stays; the lock itself goes with its process
_PROGRAM = "optax_radam experiment"  # by which our config.json is known
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_default_matmul_precision",
)
_PACKAGES = """optax_radam jax jaxlib optax flax orbax-checkpoint numpy scipy
  scikit-learn tensorflow-datasets pillow"""


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that its name never stands for a part of it."""
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
    """Refuses a directory that results must not, or cannot, be written to."""
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
            ours = json.loads(config.read_bytes())["program"] == _PROGRAM
        except (OSError, ValueError, LookupError, TypeError):
            ours = False
        require(ours, f"this program's to --overwrite, which {config} does not show")


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out of a directory, which is made if it is not there."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path / _LOCK_FILE, blocking=False):
            yield
    except filelock.Timeout as error:
        raise ConfigError(
            f"--out must not be in use, got {path}, into which another process trains."
        ) from error


def describe(flags: Flags, command: str, task: Task, work: Work) -> dict[str, Any]:
    """The content of `config.json`."""
    digest = hashlib.sha256()
    for array in (*task.train, *task.test):
        digest.update(np.ascontiguousarray(array).tobytes())
    kind, processes = work.devices[0].device_kind, jax.process_count()
    if processes > 1:
        kind = f"{processes} processes, {kind}"
    processor = platform.processor() or platform.machine()
    content = {
        "program": _PROGRAM,
        "command": command,
        "task": {"name": flags.name, "unit": flags.unit, "classes": flags.classes},
        "grid": dataclasses.asdict(flags.grid),
        "training": dataclasses.asdict(flags.training),
        "jax_settings": {name: getattr(jax.config, name) for name in _SETTINGS},
        "steps_per_epoch": work.steps_per_epoch,
        "data": {
            "description": task.description,
            f"train_{flags.unit}": len(task.train.labels),
            f"test_{flags.unit}": len(task.test.labels),
            "sha256": digest.hexdigest(),
        },
        "machine": f"{kind} ({len(work.devices)}); {processor}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _PACKAGES.split()},
    }
    as_read: dict[str, Any] = json.loads(json.dumps(content))
    return as_read


def facts(content: dict[str, Any]) -> dict[str, Any]:
    """Everything in `config.json` that results depend on, by its names in messages."""
    flags = content["grid"] | content["training"]
    named = {flag_name(name): value for name, value in flags.items()}
    named["the data's SHA-256"] = content["data"]["sha256"]
    return named | dict(content["jax_settings"])


def create(out: pathlib.Path, content: dict[str, Any], *reports: str) -> None:
    """Begins with no rows, and without the files of an earlier experiment."""
    for name in reports:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / CHECKPOINT_FOLDER, ignore_errors=True)
    write_whole(out / METRICS_FILE, b"")
    text = json.dumps(content, indent=2) + "\n"
    write_whole(out / CONFIG_FILE, text.encode())


def check_same(out: pathlib.Path, content: dict[str, Any]) -> None:
    """Refuses to go on with another experiment; prints other circumstances."""
    path = out / CONFIG_FILE
    with read_errors(path):
        there = json.loads(path.read_text())
        found = [*differences(facts(there), facts(content))]
        told = [*differences(there["versions"], content["versions"])]
        told += differences(*({"machine": of["machine"]} for of in (there, content)))
    if found:
        lines = "".join(f"\n  {name}: {a!r} there, {b!r} here" for name, a, b in found)
        raise ConfigError(f"--resume needs the experiment of {path}, but{lines}")
    for name, before, now in told:
        print(f"Not as it was: {name} {before}, now {now}", file=sys.stderr)


@contextlib.contextmanager
def read_errors(path: pathlib.Path, place: str = "") -> Iterator[None]:
    """Turns whatever damaged records lead to into a `DataError` that names the file."""
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"{path}{place} cannot be read ({type(error).__name__}: {error}): it is "
            "damaged, or not from this experiment. Nothing was deleted; restore it, "
            "or train again into another --out."
        ) from error


def find_rows(flags: Flags, groups: Sequence[Sequence[Run]]) -> tuple[list[int], bytes]:
    """Epochs that are behind each group, and the rows without those that come again.

    A group that is not finished goes on from its newest checkpoint.
    """
    path, epochs = flags.out / METRICS_FILE, flags.training.epochs
    found: dict[str, set[int]] = {run.name: set() for run in flags.grid.runs()}
    rows, behind = [*read_rows(path, found)], []
    for row in rows:
        found[row["run"]].add(row["epoch"])
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
    left = (_line(row) for row in rows if row["epoch"] <= kept[row["run"]])
    return behind, b"".join(left)


def checkpoint_folder(flags: Flags, runs: Sequence[Run]) -> pathlib.Path:
    """That of a group of runs."""
    more = f"+{len(runs) - 1}" if len(runs) > 1 else ""
    return flags.out / CHECKPOINT_FOLDER / f"{runs[0].name}{more}"


def append(
    flags: Flags, runs: Sequence[Run], metrics: Sequence[dict[str, Any]]
) -> None:
    """Adds a row for each run, all of which are on the disk when this returns."""
    lines = b""
    for run, of_run in zip(runs, metrics, strict=True):
        row = dict.fromkeys(_COLUMNS.split()) | {"run": run.name} | run.arm._asdict()
        row |= {"learning_rate": run.learning_rate, "seed": run.seed} | of_run
        row[f"{flags.unit}_per_second"] = row.pop("examples_per_second")
        lines += _line(row)
    with (flags.out / METRICS_FILE).open("ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _line(row: dict[str, Any]) -> bytes:
    # JSON has no word for a loss that is not finite.
    finite = {
        name: None if isinstance(x, float) and not math.isfinite(x) else x
        for name, x in row.items()
    }
    return json.dumps(finite, allow_nan=False).encode() + b"\n"


def read_rows(path: pathlib.Path, runs: Container[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file, each of one of the named runs."""
    with read_errors(path):
        # What follows the last line break was being written as the power failed.
        *lines, _ = path.read_text().split("\n")
    for number, line in enumerate(lines, start=1):
        with read_errors(path, f", line {number}"):
            row = json.loads(line)
            if not isinstance(row["epoch"], int) or row["run"] not in runs:
                raise ValueError(f"no run of {CONFIG_FILE} is {row['run']!r}")
        yield row
