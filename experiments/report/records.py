"""Records of one experiment, or of several comparable ones, read as one."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from experiments.config import ConfigError, Flags, Run, Training, differences
from experiments.records import (
    METRICS_FILE,
    Config,
    Row,
    read_config,
    read_errors,
    read_rows,
)


class Experiment(NamedTuple):
    """One recorded experiment, or several merged."""

    config: Config[Training]  # merged: command, machine and versions of all
    data: str  # identity of the data
    rows: list[Row]  # each epoch of a run once
    runs: list[Run]  # all planned runs


def read_experiment(out: pathlib.Path, flags_class: type[Flags]) -> Experiment:
    """Reads an experiment's records; raises a `DataError` if they are damaged."""
    config = read_config(out, type(flags_class.training))
    data, unit, runs = config.data, config.task.unit, config.grid.runs()
    with read_errors(out):
        train, test = (f"{getattr(data, f'{of}_{unit}'):,}" for of in ("train", "test"))
    rows = read_rows(out / METRICS_FILE, {run.name for run in runs})
    return Experiment(
        config,
        f"{data.description}; {train} training and {test} test {unit}, SHA-256 "
        f"{data.sha256[:12]}...",
        [*{(row.run, row.epoch): row for row in rows}.values()],
        runs,
    )


def merge(experiments: Sequence[Experiment], names: Sequence[str]) -> Experiment:
    """Merges experiments, whose grids may differ; their `names` are for messages.

    A run may be in several of them if its results agree; if one was interrupted, the
    longer one is used. A `ConfigError` names differences that are not allowed.
    """
    first, configs = experiments[0], [e.config for e in experiments]
    known: dict[tuple[str, int], tuple[Row, str]] = {}
    for experiment, name in zip(experiments, names, strict=True):
        facts = (e.config.facts("training") for e in (first, experiment))
        _refuse(names[0], name, "", differences(*facts))
        for row in experiment.rows:
            before, owner = known.setdefault((row.run, row.epoch), (row, name))
            what = f"{row.run} is in both and came out differently, epoch {row.epoch}: "
            _refuse(owner, name, what, differences(*map(_results, (before, row))))
    versions: dict[str, list[str]] = {}
    for package, version in (v for c in configs for v in c.versions.items()):
        versions.setdefault(package, []).append(version)
    joined = {
        "command": "\n".join(dict.fromkeys(c.command for c in configs)),
        "machine": _joined(c.machine for c in configs),
        "versions": {package: _joined(found) for package, found in versions.items()},
    }
    return first._replace(
        config=first.config.model_copy(update=joined),
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
