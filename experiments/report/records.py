"""Records of one experiment, or of several comparable ones, read as one."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from experiments.config import (
    ConfigError,
    Flags,
    Grid,
    Run,
    Training,
    differences,
    flag_name,
)
from experiments.records import METRICS_FILE, Row, read_config, read_errors, read_rows


class Experiment(NamedTuple):
    """One recorded experiment, or several merged."""

    name: str  # of the data or the task
    unit: str
    classes: int
    training: Training
    steps_per_epoch: int
    command: str  # a line for each experiment
    data: str  # identity of the data
    facts: dict[str, Any]  # what results depend on besides the run
    machine: str
    versions: dict[str, str]
    rows: list[Row]  # each epoch of a run once
    runs: list[Run]  # all planned runs


def read_experiment(out: pathlib.Path, flags_class: type[Flags]) -> Experiment:
    """Reads an experiment's records; raises a `DataError` if they are damaged."""
    config = read_config(out, type(flags_class.training))
    data, unit, runs = config.data, config.task.unit, config.grid.runs()
    with read_errors(out):
        train, test = (f"{getattr(data, f'{of}_{unit}'):,}" for of in ("train", "test"))
    grid = {flag_name(field) for field in vars(Grid())}
    rows = read_rows(out / METRICS_FILE, {run.name for run in runs})
    return Experiment(
        **config.task.model_dump(),
        training=config.training,
        steps_per_epoch=config.steps_per_epoch,
        command=config.command,
        data=f"{data.description}; {train} training and {test} test {unit}, SHA-256 "
        f"{data.sha256[:12]}...",
        facts={name: x for name, x in config.facts().items() if name not in grid},
        machine=config.machine,
        versions=config.versions,
        rows=[*{(row.run, row.epoch): row for row in rows}.values()],
        runs=runs,
    )


def merge(experiments: Sequence[Experiment], names: Sequence[str]) -> Experiment:
    """Merges experiments, whose grids may differ; their `names` are for messages.

    A run may be in several of them if its results agree; if one was interrupted, the
    longer one is used. A `ConfigError` names differences that are not allowed.
    """
    first = experiments[0]
    known: dict[tuple[str, int], tuple[Row, str]] = {}
    for experiment, name in zip(experiments, names, strict=True):
        _refuse(names[0], name, "", differences(first.facts, experiment.facts))
        for row in experiment.rows:
            before, owner = known.setdefault((row.run, row.epoch), (row, name))
            what = f"{row.run} is in both and came out differently, epoch {row.epoch}: "
            _refuse(owner, name, what, differences(*map(_results, (before, row))))
    versions: dict[str, list[str]] = {}
    for package, version in (v for e in experiments for v in e.versions.items()):
        versions.setdefault(package, []).append(version)
    return first._replace(
        command="\n".join(dict.fromkeys(e.command for e in experiments)),
        machine=_joined(e.machine for e in experiments),
        versions={package: _joined(found) for package, found in versions.items()},
        rows=[row for row, _ in known.values()],
        runs=[*dict.fromkeys(run for e in experiments for run in e.runs)],
    )


def _results(row: Row) -> dict[str, Any]:
    """Fields of a row, except those that differ between any two trainings."""
    return {name: x for name, x in row.model_dump().items() if "second" not in name}


def _refuse(
    a: str, b: str, what: str, found: Iterable[tuple[str, object, object]]
) -> None:
    for name, there, here in found:
        raise ConfigError(
            f"{a} and {b} cannot be merged: {what}{name} is {there!r} in the one and "
            f"{here!r} in the other."
        )


def _joined(texts: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(texts))
