"""Results on disk: written whole or not at all, and read back for reports.

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
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, Self

import jax

from experiments.comparison import optimizers
from experiments.comparison.config import (
    Arm,
    ComparisonConfig,
    ConfigError,
    Run,
    flag_name,
)
from experiments.comparison.task import Dataset
from experiments.comparison.training import EpochMetrics

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
REPORT_FILE = "report.md"
LEARNING_CURVES_FILE = "learning_curves.png"
LEARNING_RATES_FILE = "accuracy_by_learning_rate.png"
_ALL_FILES = (
    CONFIG_FILE,
    METRICS_FILE,
    REPORT_FILE,
    LEARNING_CURVES_FILE,
    LEARNING_RATES_FILE,
)
_LOCAL_FLAGS = {"data_dir", "out", "overwrite"}  # of a machine, not of results
_PACKAGES = (
    "optax_radam",
    "jax",
    "jaxlib",
    "optax",
    "flax",
    "numpy",
    "scikit-learn",
    "tensorflow-datasets",
    "pillow",
)


class Row(NamedTuple):
    """A finished epoch of a run."""

    run: Run
    metrics: EpochMetrics


class Experiment(NamedTuple):
    """What was run, and what came out of it."""

    config: ComparisonConfig
    steps_per_epoch: int
    command: str
    data: str  # which data these are
    machine: str
    versions: dict[str, str]
    rows: list[Row]  # in the order in which the epochs finished

    def final_rows(self) -> list[Row]:
        """Each run's last finished epoch, in the order in which the runs were made."""
        return list({row.run: row for row in self.rows}.values())

    def rows_of(self, arm: Arm, learning_rate: float) -> list[Row]:
        """The rows of an arm at a rate, of every seed."""
        return [row for row in self.rows if row.run[:2] == (arm, learning_rate)]

    def final_test_accuracies(self, arm: Arm, learning_rate: float) -> list[float]:
        """After the last epoch, of every seed; an interrupted run has none."""
        return [
            row.metrics.test_accuracy
            for row in self.rows_of(arm, learning_rate)
            if row.metrics.epoch == self.config.epochs
        ]


def check_out_dir(path: pathlib.Path, overwrite: bool) -> None:
    """Refuses a directory that results must not, or cannot, be written to.

    Raises:
      ConfigError: if it is a file, not writable, or not empty without `overwrite`.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out must be a directory, got the file {path}.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ConfigError(
            f"--out must be a new or an empty directory, got {path}, which has files "
            "in it. Name another, or replace its results with --overwrite."
        )
    existing = next(
        parent for parent in (path, *path.absolute().parents) if parent.exists()
    )
    if not existing.is_dir():
        raise ConfigError(f"--out must be a directory, got {path}: {existing} is none.")
    if not os.access(existing, os.W_OK):
        raise ConfigError(f"--out must be writable, got {path}: {existing} is not.")


def create_out_dir(path: pathlib.Path) -> None:
    """Makes the directory, without the results of an earlier experiment in it."""
    path.mkdir(parents=True, exist_ok=True)
    for name in _ALL_FILES:
        (path / name).unlink(missing_ok=True)


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
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class MetricsWriter(contextlib.AbstractContextManager["MetricsWriter"]):
    """Appends rows to `metrics.jsonl`, each at once, whole or not at all.

    Args:
      out_dir: where the file goes; it must not be there yet.
      unit: of what there are so many per second.
    """

    def __init__(self, out_dir: pathlib.Path, unit: str) -> None:
        self._unit = unit
        self._path = out_dir / METRICS_FILE
        self._file = self._path.open("xb", buffering=0)

    def append(self, row: Row) -> None:
        """Writes one row.

        Raises:
          OSError: if the disk is full; the rows before are intact.
        """
        line = (
            json.dumps(_row_as_dict(row, self._unit), allow_nan=False).encode() + b"\n"
        )
        end = self._file.tell()
        try:
            while line:
                line = line[self._file.write(line) :]
        except BaseException as error:  # Ctrl-C too
            self._file.truncate(end)
            if isinstance(error, OSError):
                error.filename = str(self._path)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def write_config(
    out_dir: pathlib.Path,
    config: ComparisonConfig,
    command: str,
    dataset: Dataset,
    steps_per_epoch: int,
) -> None:
    """Writes `config.json`: what `read_experiment` needs besides the rows, and more."""
    fields = dataclasses.asdict(config)
    for local in _LOCAL_FLAGS & fields.keys():
        del fields[local]
    content = {
        "command": command,
        "config": fields,
        "optimizer_settings": {
            arm.optimizer: optimizers.settings(arm.optimizer, config.b2)
            for arm in config.arms
        },
        "steps_per_epoch": steps_per_epoch,
        "data": {
            "description": dataset.description,
            f"train_{config.unit}": len(dataset.train_labels),
            f"test_{config.unit}": len(dataset.test_labels),
            "sha256": dataset.checksum,
        },
        "machine": _machine(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    text = json.dumps(content, indent=2) + "\n"
    write_whole(out_dir / CONFIG_FILE, lambda file: file.write(text.encode()))


def command_line(config: ComparisonConfig) -> str:
    """The command that repeats an experiment; `DIR` stands for the data directory."""
    words = ["python", "-m", config.module]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default or field.name in ("out", "overwrite"):
            continue
        if field.name == "data_dir":
            value = "DIR"
        values = value if isinstance(value, tuple) else (value,)
        words += [flag_name(field.name), *map(str, values)]
    return shlex.join(words)


def read_experiment(
    out_dir: pathlib.Path, config_class: type[ComparisonConfig]
) -> Experiment:
    """Reads back what `write_config` and `MetricsWriter` have written.

    Args:
      out_dir: where they have written it.
      config_class: of the comparison that was run.
    """
    unit = config_class.unit
    content = json.loads((out_dir / CONFIG_FILE).read_text())
    fields = content["config"]
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = tuple(value)
    data = content["data"]
    with (out_dir / METRICS_FILE).open() as file:
        rows = [_row_from_dict(json.loads(line), unit) for line in file]
    return Experiment(
        config=config_class(**fields),
        steps_per_epoch=content["steps_per_epoch"],
        command=content["command"],
        data=f"{data['description']}; {data[f'train_{unit}']:,} training and "
        f"{data[f'test_{unit}']:,} test {unit}, SHA-256 {data['sha256'][:12]}...",
        machine=content["machine"],
        versions=content["versions"],
        rows=rows,
    )


def _machine() -> str:
    """Device, processor and number of cores, as far as the system tells."""
    kind = jax.devices()[0].device_kind
    processor = platform.processor() or platform.machine()
    return f"{kind} ({jax.device_count()}); {processor}, {os.cpu_count()} cores"


def _row_as_dict(row: Row, unit: str) -> dict[str, Any]:
    columns = {
        "run": row.run.name,
        "optimizer": row.run.arm.optimizer,
        "schedule": row.run.arm.schedule,
        "learning_rate": row.run.learning_rate,
        "seed": row.run.seed,
    } | row.metrics._asdict()
    columns[f"{unit}_per_second"] = columns.pop("examples_per_second")
    # JSON has no word for a loss that is not finite.
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in columns.items()
    }


def _row_from_dict(columns: dict[str, Any], unit: str) -> Row:
    columns["examples_per_second"] = columns.pop(f"{unit}_per_second")
    run = Run(
        Arm(columns["optimizer"], columns["schedule"]),
        columns["learning_rate"],
        columns["seed"],
    )
    metrics: dict[str, Any] = {
        name: math.nan if columns[name] is None else columns[name]
        for name in EpochMetrics._fields
    }
    return Row(run, EpochMetrics(**metrics))
