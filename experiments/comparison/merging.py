"""Several experiments as one, where they ask the same question."""

import dataclasses
from collections.abc import Iterable, Sequence

from experiments.comparison.config import ConfigError, Run, flag_name
from experiments.comparison.records import Experiment, Row
from experiments.comparison.states import EpochMetrics

# Which runs there are, and how that was said; a run itself depends on none of them.
_FREE_FIELDS = {
    "optimizers",
    "schedules",
    "learning_rates",
    "rates_of",
    "seeds",
    "preset",
}


def merge(experiments: Sequence[Experiment], names: Sequence[str]) -> Experiment:
    """Joins the runs of experiments on the same data in the same circumstances.

    A run may be in several of them if it came out the same; where it was interrupted
    in one, the longer one is taken.

    Args:
      experiments: one at least.
      names: of them, for messages.

    Returns:
      An experiment whose `runs` and `rows` are those of all, with a line for each
      command. The lists in its `config` are those of the first and mean nothing.

    Raises:
      ConfigError: if they differ in data or in a setting, or a run differs between
        two; it says in what.
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
    """What must not differ, and does: its name and both values."""
    if a.data != b.data:
        yield "the data", a.data, b.data
    for field in dataclasses.fields(a.config):
        if field.name not in _FREE_FIELDS:
            values = getattr(a.config, field.name), getattr(b.config, field.name)
            if values[0] != values[1]:
                yield flag_name(field.name), *values


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
    """All that differs but the time that it took."""
    fields = (a._asdict(), b._asdict())
    for name in EpochMetrics._fields:
        if name not in {"seconds", "examples_per_second"}:
            values = [of[name] for of in fields]
            if repr(values[0]) != repr(values[1]):  # nan is nan
                yield name, *values
