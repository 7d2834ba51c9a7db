"""Results on disk, written whole or not at all, and read back for reports.

`config.json` says what was run, on what, with which versions; `metrics.jsonl` has a row
for each finished epoch of each run. Neither names a directory.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import filelock
import jax

from experiments.config import ConfigError, DataError, Flags, Run, flag_name
from experiments.group import EpochMetrics

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
_PACKAGES = [
    "optax_radam",
    "jax",
    "jaxlib",
    "optax",
    "flax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
]
_PACKAGES += ["scikit-learn", "tensorflow-datasets", "pillow"]


def write_whole(path: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that its name never stands for a part of it.

    Args:
      path: the file.
      write: gets a binary file to write to.
    """
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        with part.open("xb") as file:  # never through somebody's link
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_out(path: pathlib.Path, *, overwrite: bool, resume: bool) -> None:
    """Refuses a directory that results must not, or cannot, be written to.

    Raises:
      ConfigError: if it is a file, not writable, not empty without `overwrite` and
        `resume`, has nothing to resume, or has other things than this program's.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"--out must be UTF-8, got {str(path)!r}.") from error
    existing = next(
        p for p in (path, *path.absolute().parents) if p.exists() or p.is_symlink()
    )
    if not existing.is_dir():
        raise ConfigError(f"--out must be a directory, got {path}: {existing} is none.")
    if not os.access(existing, os.W_OK):
        raise ConfigError(f"--out must be writable, got {path}: {existing} is not.")
    if resume and not (path / CONFIG_FILE).exists():
        raise ConfigError(
            f"--resume goes on with the experiment in --out, and {path} has none: "
            f"{path / CONFIG_FILE} is missing."
        )
    full = path.is_dir() and any(p.name != _LOCK_FILE for p in path.iterdir())
    if full and not (overwrite or resume):
        raise ConfigError(
            f"--out must be a new or an empty directory, got {path}, which has files "
            "in it. Name another, go on with its experiment by --resume, or replace "
            "its results with --overwrite."
        )
    if full and overwrite and not _is_ours(path / CONFIG_FILE):
        raise ConfigError(
            f"--overwrite replaces results of this program only, and {path} has other "
            f"files: {path / CONFIG_FILE} is missing or of another program. Name "
            "another --out."
        )


def _is_ours(path: pathlib.Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("program") == _PROGRAM


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out of a directory, which is made if it is not there.

    Raises:
      ConfigError: if another process trains into it.
    """
    path.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path / _LOCK_FILE, blocking=False):
            yield
    except filelock.Timeout as error:
        raise ConfigError(
            f"--out must not be in use, got {path}, into which another process trains."
        ) from error


def create(out: pathlib.Path, files: Sequence[str], folder: str) -> None:
    """Starts with no rows, without the results of an earlier experiment.

    Args:
      out: directory of the results.
      files: names of what the report has written there, which is deleted.
      folder: the same.
    """
    for name in files:
        (out / name).unlink(missing_ok=True)
    for name in (CHECKPOINT_FOLDER, folder):
        shutil.rmtree(out / name, ignore_errors=True)
    write_whole(out / METRICS_FILE, lambda file: None)


def recorded(flags: Flags) -> dict[str, Any]:
    """Flags and JAX settings that results depend on, as they stand in `config.json`.

    Results of experiments that differ in any of it must not be mixed.
    """
    content = {
        "grid": dataclasses.asdict(flags.grid),
        "training": dataclasses.asdict(flags.training),
        "jax_settings": {name: getattr(jax.config, name) for name in _SETTINGS},
    }
    as_read: dict[str, Any] = json.loads(json.dumps(content))
    return as_read


def spelled(content: dict[str, Any]) -> dict[str, Any]:
    """Flattens what `recorded` returns, by names of flags and of JAX's settings."""
    flags = {**content["grid"], **content["training"]}
    return {flag_name(k): v for k, v in flags.items()} | {**content["jax_settings"]}


class Data(NamedTuple):
    """Identity of the data that an experiment was run on."""

    description: str
    train_examples: int
    test_examples: int
    sha256: str  # of inputs and labels, in order


def write_config(
    flags: Flags,
    command: str,
    data: Data,
    steps_per_epoch: int,
    devices: Sequence[jax.Device],
) -> None:
    """Writes `config.json`: what `read_experiment` needs besides the rows, and more.

    Args:
      flags: what is run; the file goes into their `out`.
      command: what repeats it.
      data: which data it is run on.
      steps_per_epoch: of each run.
      devices: those that train.
    """
    task = {"name": flags.name, "unit": flags.unit, "classes": flags.classes}
    content = {
        "program": _PROGRAM,
        "command": command,
        "task": task,
        **recorded(flags),
        "steps_per_epoch": steps_per_epoch,
        "data": {
            "description": data.description,
            f"train_{flags.unit}": data.train_examples,
            f"test_{flags.unit}": data.test_examples,
            "sha256": data.sha256,
        },
        "machine": _machine(devices),
        "versions": _versions(),
    }
    text = json.dumps(content, indent=2) + "\n"
    write_whole(flags.out / CONFIG_FILE, lambda file: file.write(text.encode()))


def command_line(flags: Flags, base: Flags | None = None) -> str:
    """The command that repeats an experiment; `DIR` stands for the data directory.

    Args:
      flags: of the experiment.
      base: the preset that they began with, whose flags need not be repeated.
    """
    words = ["python", "-m", flags.module]
    if base is not None:
        words += ["--preset", getattr(base, "preset", "")]
    base = base or type(flags)()
    for part in ("grid", "training"):
        ours, theirs = getattr(flags, part), getattr(base, part)
        for field in dataclasses.fields(ours):
            value = getattr(ours, field.name)
            if value == getattr(theirs, field.name):
                continue
            if isinstance(value, bool):
                words.append(flag_name(field.name if value else f"no_{field.name}"))
            else:
                values = value if isinstance(value, tuple) else (value,)
                words += [flag_name(field.name), *map(str, values)]
    if getattr(flags.session, "data_dir", None) is not None:
        words += ["--data-dir", "DIR"]
    return shlex.join(words)


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


class Log:
    """The rows of `metrics.jsonl`, each a finished epoch of a run.

    Args:
      flags: of the experiment.
      writes: whether this process does; the others only know the rows.

    Raises:
      ConfigError: if this process does not see the file.
      DataError: if the file is damaged.
    """

    def __init__(self, flags: Flags, *, writes: bool) -> None:
        self._path, self._unit = flags.out / METRICS_FILE, flags.unit
        self._epochs, self._writes = flags.training.epochs, writes
        if not (flags.out / CONFIG_FILE).exists():
            raise ConfigError(
                "--out must be on a file system that all processes share: process 0 "
                f"has written {flags.out / CONFIG_FILE}, which is not there."
            )
        # As they were found; each group asks once, before it is trained.
        self._found: dict[str, set[int]] = {r.name: set() for r in flags.grid.runs()}
        for row in read_rows(self._path, self._found):
            self._found[row["run"]].add(row["epoch"])
        self._end = self._path.read_bytes().rfind(b"\n") + 1  # of whole rows

    def has_finished(self, runs: Sequence[Run]) -> bool:
        """True if every epoch of the runs is there."""
        return all(len(self._found[run.name]) >= self._epochs for run in runs)

    def keep(self, runs: Sequence[Run], epochs: int) -> None:
        """Drops the runs' rows after the first `epochs`, which are trained again.

        Raises:
          DataError: if one of those that are to be kept is missing.
        """
        names = {run.name for run in runs}
        kept = {*range(1, epochs + 1)}
        missing = sum(len(kept - self._found[name]) for name in names)
        if missing:
            raise DataError(
                f"{self._path} lacks {missing} of the {len(runs) * epochs} rows that "
                f"were written before the newest checkpoint of {runs[0].name}. Nothing "
                "was deleted; restore the file, or train again into another --out."
            )
        if not self._writes or all(self._found[name] == kept for name in names):
            return
        content = b"".join(
            _line(row)
            for row in read_rows(self._path, self._found)
            if row["run"] not in names or row["epoch"] in kept
        )
        write_whole(self._path, lambda file: file.write(content))
        self._end = len(content)

    def append(self, runs: Sequence[Run], metrics: Sequence[EpochMetrics]) -> None:
        """Adds a row for each run, all of which are on the disk when this returns.

        Raises:
          OSError: if the disk is full; the rows before are intact.
        """
        if not self._writes:
            return
        rows = zip(runs, metrics, strict=True)
        lines = b"".join(_line(columns(*of, self._unit)) for of in rows)
        with self._path.open("r+b", buffering=0) as file:
            file.truncate(self._end)
            file.seek(self._end)
            written = 0
            try:
                while written < len(lines):
                    written += file.write(lines[written:])
                os.fsync(file.fileno())
            except BaseException as error:  # Ctrl-C too
                file.truncate(self._end)
                if isinstance(error, OSError):
                    error.filename = str(self._path)
                raise
        self._end += written


def columns(run: Run, metrics: EpochMetrics, unit: str) -> dict[str, Any]:
    """A row as it stands in files; `unit` is that of the examples."""
    names = {
        "run": run.name,
        "optimizer": run.arm.optimizer,
        "schedule": run.arm.schedule,
        "learning_rate": run.learning_rate,
        "seed": run.seed,
    } | metrics._asdict()
    names[f"{unit}_per_second"] = names.pop("examples_per_second")
    return names


def _line(row: dict[str, Any]) -> bytes:
    # JSON has no word for a loss that is not finite.
    finite = {
        name: None if isinstance(x, float) and not math.isfinite(x) else x
        for name, x in row.items()
    }
    return json.dumps(finite, allow_nan=False).encode() + b"\n"


def read_rows(path: pathlib.Path, runs: Container[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file, each of one of the named runs.

    Raises:
      DataError: if something else is in it.
    """
    with read_errors(path):
        # What follows the last line break was being written as the power failed.
        *lines, _ = path.read_text().split("\n")
    for number, line in enumerate(lines, start=1):
        with read_errors(path, f", line {number}"):
            row = json.loads(line)
            if not isinstance(row["epoch"], int) or row["run"] not in runs:
                raise ValueError(f"no run of {CONFIG_FILE} is {row['run']!r}")
        yield row


def check_same(flags: Flags, data: Data, devices: Sequence[jax.Device]) -> list[str]:
    """Refuses to go on with an experiment under another configuration or data.

    Args:
      flags: that would go on with it.
      data: on which they would.
      devices: that would train.

    Returns:
      What differs and may matter: the machine and versions, then and now.

    Raises:
      ConfigError: if the configuration differs, with the differences.
      DataError: if the data does, or `config.json` cannot be read.
    """
    path = flags.out / CONFIG_FILE
    with read_errors(path):
        content = json.loads(path.read_text())
        there, here = spelled(content), spelled(recorded(flags))
        checksum = content["data"]["sha256"]
        before = {"machine": content["machine"]} | content["versions"]
    found = [
        f"  {name}: {there.get(name)!r} there, {here.get(name)!r} here"
        for name in sorted(there.keys() | here.keys())
        if repr(there.get(name)) != repr(here.get(name))
    ]
    if found:
        lines = "\n".join(found)
        raise ConfigError(
            f"--resume needs the configuration of {path}, which differs:\n{lines}"
        )
    if checksum != data.sha256:
        raise DataError(
            f"The data is not that of {path}: SHA-256 {checksum[:12]}... there, "
            f"{data.sha256[:12]}... here. Name its directory, or train again into "
            "another --out."
        )
    return [
        f"{name} {before.get(name)}, now {value}"
        for name, value in ({"machine": _machine(devices)} | _versions()).items()
        if before.get(name) != value
    ]


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }


def _machine(devices: Sequence[jax.Device]) -> str:
    """Device, processor and number of cores, as far as the system tells."""
    kind = devices[0].device_kind
    if jax.process_count() > 1:
        kind = f"{jax.process_count()} processes, {kind}"
    processor = platform.processor() or platform.machine()
    return f"{kind} ({len(devices)}); {processor}, {os.cpu_count()} cores"
