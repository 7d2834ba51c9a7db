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
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import jax

from experiments.comparison import files, optimizers
from experiments.comparison.config import (
    Arm,
    ComparisonConfig,
    ConfigError,
    DataError,
    Run,
    flag_name,
)
from experiments.comparison.states import EpochMetrics
from experiments.comparison.task import Dataset

# Of a machine or a session, not of results.
_LOCAL_FLAGS = {
    "data_dir",
    "out",
    "overwrite",
    "resume",
    "checkpoint_seconds",
    "mesh",
    "coordinator",
    "processes",
    "process_id",
    "distributed",
}
_PACKAGES = (
    "optax_radam",
    "jax",
    "jaxlib",
    "optax",
    "flax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    "scikit-learn",
    "tensorflow-datasets",
    "pillow",
)


class Row(NamedTuple):
    """A finished epoch of a run."""

    run: Run
    metrics: EpochMetrics

    def columns(self, unit: str) -> dict[str, Any]:
        """Names and values as in files; `unit` is what a batch consists of."""
        columns = {
            "run": self.run.name,
            "optimizer": self.run.arm.optimizer,
            "schedule": self.run.arm.schedule,
            "learning_rate": self.run.learning_rate,
            "seed": self.run.seed,
        } | self.metrics._asdict()
        columns[f"{unit}_per_second"] = columns.pop("examples_per_second")
        return columns


class Experiment(NamedTuple):
    """What was run, and what came out of it."""

    config: ComparisonConfig
    steps_per_epoch: int
    command: str
    data: str  # which data these are
    machine: str
    versions: dict[str, str]
    rows: list[Row]  # in the order in which the epochs finished
    runs: list[Run]  # all that were to be made

    def final_rows(self) -> list[Row]:
        """Each run's last finished epoch, in the order in which the runs were made."""
        return list({row.run: row for row in self.rows}.values())


class MetricsWriter(contextlib.AbstractContextManager["MetricsWriter"]):
    """Appends rows to `metrics.jsonl`, each at once, whole or not at all.

    Args:
      out_dir: where the file goes.
      unit: of what there are so many per second.
      rows: those that it begins with; others in the file are gone.
    """

    def __init__(
        self, out_dir: pathlib.Path, unit: str, rows: Sequence[Row] = ()
    ) -> None:
        self._unit = unit
        self._path = out_dir / files.METRICS_FILE
        lines = b"".join(map(self._line, rows))
        if not self._path.exists() or self._path.read_bytes() != lines:
            files.write_whole(self._path, lambda file: file.write(lines))
        self._file = self._path.open("r+b", buffering=0)
        self._file.seek(0, os.SEEK_END)

    def _line(self, row: Row) -> bytes:
        return (
            json.dumps(_row_as_dict(row, self._unit), allow_nan=False).encode() + b"\n"
        )

    def append(self, row: Row) -> None:
        """Writes one row.

        Raises:
          OSError: if the disk is full; the rows before are intact.
        """
        line = self._line(row)
        end = self._file.tell()
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())  # before any checkpoint that is newer
        except BaseException as error:  # Ctrl-C too
            self._file.truncate(end)
            if isinstance(error, OSError):
                error.filename = str(self._path)
            raise

    def close(self) -> None:
        """No row comes any more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_config(
    out_dir: pathlib.Path,
    config: ComparisonConfig,
    command: str,
    dataset: Dataset,
    steps_per_epoch: int,
    devices: int,
) -> None:
    """Writes `config.json`: what `read_experiment` needs besides the rows, and more.

    Args:
      out_dir: where it goes.
      config: what was run.
      command: what repeats it.
      dataset: on which data.
      steps_per_epoch: of each run.
      devices: how many trained.
    """
    content = {
        "command": command,
        "config": _shared_fields(config),
        "optimizer_settings": {
            arm.optimizer: optimizers.settings(arm.optimizer, config)
            for arm in config.arms
        },
        "steps_per_epoch": steps_per_epoch,
        "data": {
            "description": dataset.description,
            f"train_{config.unit}": len(dataset.train_labels),
            f"test_{config.unit}": len(dataset.test_labels),
            "sha256": dataset.checksum,
        },
        "machine": _machine(devices),
        "versions": _versions(),
    }
    text = json.dumps(content, indent=2) + "\n"
    files.write_whole(
        out_dir / files.CONFIG_FILE, lambda file: file.write(text.encode())
    )


def _shared_fields(config: ComparisonConfig) -> dict[str, Any]:
    """The flags that results depend on, as they stand in `config.json`."""
    fields = dataclasses.asdict(config)
    shared = {name: fields[name] for name in fields if name not in _LOCAL_FLAGS}
    as_read: dict[str, Any] = json.loads(json.dumps(shared))
    return as_read


def command_line(config: ComparisonConfig, base: ComparisonConfig | None = None) -> str:
    """The command that repeats an experiment; `DIR` stands for the data directory.

    Args:
      config: of the experiment.
      base: the preset that it began with, whose flags need not be repeated.
    """
    words = ["python", "-m", config.module]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = getattr(base, field.name, field.default)
        is_given = value != default or (field.name == "preset" and value is not None)
        if not is_given or field.name in _LOCAL_FLAGS - {"data_dir"}:
            continue
        if field.name == "data_dir":
            value = "DIR"
        if isinstance(value, bool):
            words.append(flag_name(field.name if value else f"no_{field.name}"))
            continue
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

    Raises:
      DataError: if a file is missing or was not written by them.
    """
    unit = config_class.unit
    path = out_dir / files.CONFIG_FILE
    with _read_errors(path):
        content = json.loads(path.read_text())
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content["config"].items()
        }
        data = content["data"]
        config = config_class(**fields)
        runs = config.runs()
        return Experiment(
            config=config,
            steps_per_epoch=content["steps_per_epoch"],
            command=content["command"],
            data=f"{data['description']}; {data[f'train_{unit}']:,} training and "
            f"{data[f'test_{unit}']:,} test {unit}, SHA-256 {data['sha256'][:12]}...",
            machine=content["machine"],
            versions=content["versions"],
            rows=_read_rows(out_dir / files.METRICS_FILE, unit, set(runs)),
            runs=runs,
        )


def _read_rows(path: pathlib.Path, unit: str, runs: set[Run]) -> list[Row]:
    with _read_errors(path):
        # What follows the last line break was being written as the power failed.
        *lines, _ = path.read_text().split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        with _read_errors(path, f", line {number}"):
            row = _row_from_dict(json.loads(line), unit)
            if not isinstance(row.metrics.epoch, int):
                raise ValueError("no epoch")
            if row.run not in runs:
                raise ValueError(f"no run of {files.CONFIG_FILE} is {row.run.name!r}")
            rows.append(row)
    return rows


@contextlib.contextmanager
def _read_errors(path: pathlib.Path, place: str = "") -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"{path}{place} cannot be read ({type(error).__name__}: {error}): it is "
            "damaged, or not from this experiment. Nothing was deleted; restore it, "
            "or train anew into another --out."
        ) from error


def check_same(
    out_dir: pathlib.Path, config: ComparisonConfig, dataset: Dataset, devices: int
) -> list[str]:
    """Refuses to go on with an experiment under another configuration or data.

    Args:
      out_dir: of the experiment to go on with.
      config: that would go on with it.
      dataset: on which it would.
      devices: how many would train.

    Returns:
      What differs and may matter: the machine and versions, then and now.

    Raises:
      ConfigError: if the configuration differs, with the differences.
      DataError: if the data does, or `config.json` cannot be read.
    """
    path = out_dir / files.CONFIG_FILE
    with _read_errors(path):
        content = json.loads(path.read_text())
        then, checksum = dict(content["config"]), content["data"]["sha256"]
        before = {"machine": content["machine"]} | content["versions"]
    now = _shared_fields(config)
    differences = [
        f"  {flag_name(name)}: {then.get(name)!r} there, {now.get(name)!r} here"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if differences:
        lines = "\n".join(differences)
        raise ConfigError(
            f"--resume needs the configuration of {path}, which differs:\n{lines}"
        )
    if checksum != dataset.checksum:
        raise DataError(
            f"The data is not that of {path}: SHA-256 {checksum[:12]}... there, "
            f"{dataset.checksum[:12]}... here. Name its directory, or train anew into "
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


def _machine(devices: int) -> str:
    """Device, processor and number of cores, as far as the system tells."""
    kind = jax.devices()[0].device_kind
    if jax.process_count() > 1:
        kind = f"{jax.process_count()} processes, {kind}"
    processor = platform.processor() or platform.machine()
    return f"{kind} ({devices}); {processor}, {os.cpu_count()} cores"


def _row_as_dict(row: Row, unit: str) -> dict[str, Any]:
    # JSON has no word for a loss that is not finite.
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.columns(unit).items()
    }


def _row_from_dict(columns: dict[str, Any], unit: str) -> Row:
    columns["examples_per_second"] = columns.pop(f"{unit}_per_second")
    run = Run(
        Arm(columns["optimizer"], columns["schedule"]),
        columns["learning_rate"],
        columns["seed"],
    )
    # Older records lack the columns of held-out examples.
    metrics: dict[str, Any] = {name: columns.get(name) for name in EpochMetrics._fields}
    for part in ("train", "validation", "test"):
        if metrics[f"{part}_loss"] is None and metrics[f"{part}_accuracy"] is not None:
            metrics[f"{part}_loss"] = math.nan  # it was evaluated, and not finite
    return Row(run, EpochMetrics(**metrics))
