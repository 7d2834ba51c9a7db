"""Reads what an experiment has written, for its report."""

import json
import math
import pathlib
from typing import Any, NamedTuple

from experiments.config import Flags, Grid, Run, Training
from experiments.records import CONFIG_FILE, METRICS_FILE, read_errors, read_rows


class EpochMetrics(NamedTuple):
    """A finished epoch of a run."""

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    best_epoch: int | None
    best_test_accuracy: float | None
    seconds: float
    examples_per_second: float


class Row(NamedTuple):
    """A finished epoch of a run."""

    run: Run
    metrics: EpochMetrics

    def columns(self, unit: str) -> dict[str, Any]:
        """Names and values as in files; `unit` is that of the examples."""
        names = {
            "run": self.run.name,
            **self.run.arm._asdict(),
            "learning_rate": self.run.learning_rate,
            "seed": self.run.seed,
        } | self.metrics._asdict()
        names[f"{unit}_per_second"] = names.pop("examples_per_second")
        return names


class Experiment(NamedTuple):
    """An experiment as recorded: settings, circumstances and rows."""

    name: str  # of the data or the task
    unit: str
    classes: int
    grid: Grid
    training: Training
    steps_per_epoch: int
    command: str
    data: str  # which data these are
    settings: dict[str, Any]  # of JAX, that results depend on
    machine: str
    versions: dict[str, str]
    rows: list[Row]  # in the order in which the epochs finished
    runs: list[Run]  # all that were to be made

    def final_rows(self) -> list[Row]:
        """Each run's last finished epoch, in the order in which the runs were made."""
        return list({row.run: row for row in self.rows}.values())


def read_experiment(out: pathlib.Path, flags_class: type[Flags]) -> Experiment:
    """Reads back what `write_config` and `Log` have written.

    Args:
      out: where they have written it.
      flags_class: of the experiment that was run.

    Raises:
      DataError: if a file is missing or was not written by them.
    """
    path = out / CONFIG_FILE
    with read_errors(path):
        content = json.loads(path.read_text())
        task, data, unit = content["task"], content["data"], content["task"]["unit"]
        grid = _parsed(type(flags_class.grid), content["grid"])
        training = _parsed(type(flags_class.training), content["training"])
        runs = grid.runs()
        return Experiment(
            name=task["name"],
            unit=unit,
            classes=task["classes"],
            grid=grid,
            training=training,
            steps_per_epoch=content["steps_per_epoch"],
            command=content["command"],
            data=f"{data['description']}; {data[f'train_{unit}']:,} training and "
            f"{data[f'test_{unit}']:,} test {unit}, SHA-256 {data['sha256'][:12]}...",
            settings=content["jax_settings"],
            machine=content["machine"],
            versions=content["versions"],
            rows=_read_rows(out / METRICS_FILE, unit, runs),
            runs=runs,
        )


def _parsed(kind: Any, fields: dict[str, Any]) -> Any:
    return kind(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    )


def _read_rows(path: pathlib.Path, unit: str, runs: list[Run]) -> list[Row]:
    by_name, rows = {run.name: run for run in runs}, []
    for number, row in enumerate(read_rows(path, by_name), start=1):
        with read_errors(path, f", line {number}"):
            row["examples_per_second"] = row.pop(f"{unit}_per_second")
            # Older records lack the columns of held-out examples.
            metrics: dict[str, Any] = {m: row.get(m) for m in EpochMetrics._fields}
            for part in ("train", "validation", "test"):
                evaluated = metrics[f"{part}_accuracy"] is not None
                if evaluated and metrics[f"{part}_loss"] is None:
                    metrics[f"{part}_loss"] = math.nan  # JSON has no word for it
            rows.append(Row(by_name[row["run"]], EpochMetrics(**metrics)))
    return rows
