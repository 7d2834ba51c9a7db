"""Joins experiments that ran on the same data under the same settings."""

import dataclasses
from collections.abc import Iterable, Sequence

from experiments.config import ConfigError, Run, flag_name
from experiments.report.records import EpochMetrics, Experiment, Row


def merge(experiments: Sequence[Experiment], names: Sequence[str]) -> Experiment:
    """Joins the runs of several experiments, whose grids may differ.

    A run may be in several of them if its results agree; where it was interrupted in
    one, the longer one is taken.

    Args:
      experiments: at least one.
      names: their names in messages.

    Returns:
      An experiment with all `runs` and `rows`, and a line for each command. Its `grid`
      is the first's and does not describe them.

    Raises:
      ConfigError: if data, a flag of training or one of JAX's settings differ, or the
        results of a run; names it and both values.
    """
    first, first_name = experiments[0], names[0]
    for other, name in zip(experiments[1:], names[1:], strict=True):
        for what, there, here in _differences(first, other):
            raise ConfigError(
                f"{first_name} and {name} cannot be merged: {what} is {there} in the "
                f"one and {here} in the other."
            )
    return first._replace(
        command="\n".join(dict.fromkeys(e.command for e in experiments)),
        machine=" and ".join(dict.fromkeys(e.machine for e in experiments)),
        versions=_joined_versions(experiments),
        rows=_joined_rows(experiments, names),
        runs=list(dict.fromkeys(run for e in experiments for run in e.runs)),
    )


def _differences(a: Experiment, b: Experiment) -> Iterable[tuple[str, object, object]]:
    """Each difference that forbids merging: its name and both values."""
    there, here = map(_circumstances, (a, b))
    for name in there | here:
        if there.get(name) != here.get(name):
            yield name, there.get(name), here.get(name)


def _circumstances(experiment: Experiment) -> dict[str, object]:
    """Everything that results depend on besides the run, by the names in messages."""
    flags = dataclasses.asdict(experiment.training)
    return {
        "the data": experiment.data,
        **{flag_name(field): value for field, value in flags.items()},
        **experiment.settings,
    }


def _joined_versions(experiments: Iterable[Experiment]) -> dict[str, str]:
    """Each package's versions, several of them joined by "and"."""
    versions: dict[str, dict[str, None]] = {}
    for experiment in experiments:
        for package, version in experiment.versions.items():
            versions.setdefault(package, {})[version] = None
    return {package: " and ".join(found) for package, found in versions.items()}


def _joined_rows(experiments: Sequence[Experiment], names: Sequence[str]) -> list[Row]:
    """Every run's rows once, in order; those that two experiments have must agree."""
    rows: dict[Run, dict[int, tuple[EpochMetrics, str]]] = {}
    for experiment, name in zip(experiments, names, strict=True):
        for run, metrics in experiment.rows:
            known = rows.setdefault(run, {})
            if metrics.epoch not in known:
                known[metrics.epoch] = metrics, name
                continue
            before, before_name = known[metrics.epoch]
            for field, there, here in _differing_metrics(before, metrics):
                raise ConfigError(
                    f"{before_name} and {name} cannot be merged: {run.name} is in both "
                    f"and came out differently, {field} after epoch {metrics.epoch} is "
                    f"{there!r} in the one and {here!r} in the other."
                )
    return [
        Row(run, metrics)
        for run, epochs in rows.items()
        for _, (metrics, _) in sorted(epochs.items())
    ]


def _differing_metrics(
    a: EpochMetrics, b: EpochMetrics
) -> Iterable[tuple[str, object, object]]:
    """Each metric that differs, except times."""
    fields = (a._asdict(), b._asdict())
    for name in EpochMetrics._fields:
        if name not in {"seconds", "examples_per_second"}:
            values = [of[name] for of in fields]
            if repr(values[0]) != repr(values[1]):  # nan is nan
                yield name, *values
