"""The files of an experiment's directory: their names, and how they are written."""

import contextlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO

import filelock

from experiments.comparison.config import ConfigError

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FOLDER = "checkpoints"
REPORT_FILE = "report.md"
PAGE_FILE = "report.html"
LEARNING_CURVES_FILE = "learning_curves.png"
LEARNING_RATES_FILE = "accuracy_by_learning_rate.png"
STABILITY_FILE = "stability.png"
METRICS_TABLE_FILE = "metrics.csv"
SUMMARY_TABLE_FILE = "summary.csv"
EVENT_FOLDER = "tensorboard"
_LOCK_FILE = ".lock"  # stays; the lock itself goes with its process
_WORDS = ".ended-"  # and what is unique: why a process of many has ended
REPORT_FILES = (
    REPORT_FILE,
    PAGE_FILE,
    LEARNING_CURVES_FILE,
    LEARNING_RATES_FILE,
    STABILITY_FILE,
    METRICS_TABLE_FILE,
    SUMMARY_TABLE_FILE,
)


def check_out_dir(path: pathlib.Path, *, overwrite: bool, resume: bool) -> None:
    """Refuses a directory that results must not, or cannot, be written to.

    Raises:
      ConfigError: if it is a file, not writable, or not empty without `overwrite` and
        `resume`, or has nothing to resume.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out must be a directory, got the file {path}.")
    if resume and not (path / CONFIG_FILE).exists():
        raise ConfigError(
            f"--resume goes on with the experiment in --out, and {path} has none: "
            f"{path / CONFIG_FILE} is missing."
        )
    if path.is_dir() and _has_files(path) and not (overwrite or resume):
        raise ConfigError(
            f"--out must be a new or an empty directory, got {path}, which has files "
            "in it. Name another, go on with its experiment by --resume, or replace "
            "its results with --overwrite."
        )
    foreign = [
        folder
        for folder in (CHECKPOINT_FOLDER, EVENT_FOLDER)
        if (path / folder).exists()
    ]
    if overwrite and foreign and not (path / CONFIG_FILE).exists():
        raise ConfigError(
            f"--overwrite would delete {path / foreign[0]}, which is no experiment's: "
            f"{path / CONFIG_FILE} is missing. Name another --out."
        )
    existing = next(
        parent for parent in (path, *path.absolute().parents) if parent.exists()
    )
    if not existing.is_dir():
        raise ConfigError(f"--out must be a directory, got {path}: {existing} is none.")
    if not os.access(existing, os.W_OK):
        raise ConfigError(f"--out must be writable, got {path}: {existing} is not.")


def _has_files(path: pathlib.Path) -> bool:
    own = (_LOCK_FILE, _WORDS)
    return any(not entry.name.startswith(own) for entry in path.iterdir())


def create_out_dir(path: pathlib.Path) -> None:
    """Makes the directory, without the results of an earlier experiment in it."""
    path.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_FILE, METRICS_FILE, *REPORT_FILES):
        (path / name).unlink(missing_ok=True)
    for folder in (CHECKPOINT_FOLDER, EVENT_FOLDER):
        if (path / folder).exists():
            shutil.rmtree(path / folder)


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


def new_word_path(path: pathlib.Path) -> pathlib.Path:
    """Where one of many processes can leave word of its end."""
    return path / f"{_WORDS}{uuid.uuid4().hex}"


def words_left(path: pathlib.Path) -> list[pathlib.Path]:
    """The words that processes have left."""
    return [found for found in path.glob(f"{_WORDS}*") if found.suffix != ".part"]


def write_whole(path: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that its name never stands for a part of it.

    Args:
      path: the file.
      write: gets a binary file to write to.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
