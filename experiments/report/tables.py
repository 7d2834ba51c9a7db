"""Tables of an experiment: files for other programs, and one for the terminal."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import rich.box
import rich.table

from experiments.report import statistics
from experiments.report.records import Experiment
from experiments.report.selection import Selection

_RUNS_IN_TERMINAL = 40  # more would scroll away


def metrics_csv(experiment: Experiment) -> str:
    """All rows; what was not evaluated is empty, a loss that is not finite is nan."""
    unit = experiment.unit
    return _csv([row.columns(unit) for row in experiment.rows])


def summary_csv(selection: Selection) -> str:
    """The final table: a line for each arm at each rate."""
    lines = []
    for arm in selection.arms:
        choice = selection.choices.get(arm)
        for point in selection.points(arm):
            chosen = choice is not None and choice.point is point
            line: dict[str, Any] = {
                "optimizer": arm.optimizer,
                "schedule": arm.schedule,
                "learning_rate": point.learning_rate,
                "finished": len(point.final("train_accuracy")),
                "diverged": len(point.diverged),
            }
            for metric in ("validation", "test", "best_test"):
                final = point.final(f"{metric}_accuracy")
                _, mean, deviation = statistics.summarize([*final.values()])
                line |= {
                    f"{metric}_accuracy_mean": mean,
                    f"{metric}_accuracy_sd": deviation,
                }
            changes = point.loss_changes(selection.part)
            line |= {
                f"{selection.part}_loss_late_change": statistics.summarize(
                    [change.late_mean for change in changes]
                ).mean,
                "chosen": chosen,
                "edge": choice.edge if choice is not None and chosen else None,
            }
            lines.append(line)
    return _csv(lines)


def _csv(lines: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def summary_table(experiment: Experiment) -> rich.table.Table:
    """What came out, for a terminal of 80 columns.

    Args:
      experiment: records with one row at least.

    Returns:
      Each run's last epoch or, of many runs, a line for each arm at each rate.
    """
    if len(experiment.runs) > _RUNS_IN_TERMINAL:
        return _points_table(experiment)
    selection = Selection(experiment)
    shown = selection.part
    columns = ("rate", "seed", "epoch", "train acc", f"{shown} loss", f"{shown} acc")
    table = _table(f"{experiment.name}, last epochs", columns)
    for run, metrics in experiment.final_rows():
        loss = getattr(metrics, f"{shown}_loss")
        table.add_row(
            *run.arm,
            f"{run.learning_rate:g}",
            str(run.seed),
            str(metrics.epoch),
            f"{metrics.train_accuracy:.4f}",
            "diverged" if run in selection.diverged else f"{loss:.4f}",
            f"{getattr(metrics, f'{shown}_accuracy'):.4f}",
        )
    return table


def _points_table(experiment: Experiment) -> rich.table.Table:
    selection = Selection(experiment)
    columns = ("rate", f"{selection.part} acc", "sd", "n", "diverged")
    table = _table(f"{experiment.name}, final accuracies; *: chosen", columns)
    for arm in selection.arms:
        choice = selection.choices.get(arm)
        for point in selection.points(arm):
            chosen = choice is not None and choice.point is point
            final = point.final(f"{selection.part}_accuracy")
            n, mean, deviation = statistics.summarize([*final.values()])
            table.add_row(
                *arm,
                f"{point.learning_rate:g}" + "*" * chosen,
                "-" if mean is None else f"{mean:.4f}",
                "-" if deviation is None else f"{deviation:.4f}",
                str(n),
                str(len(point.diverged)),
            )
    return table


def _table(title: str, columns: Iterable[str]) -> rich.table.Table:
    table = rich.table.Table(
        title=title, box=rich.box.SIMPLE_HEAD, padding=0, show_edge=False
    )
    for column in ("optimizer", "schedule"):
        table.add_column(column, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table
