"""Accuracy and loss over the epochs, with r_t and the learning rate beneath."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.config import Arm
from experiments.report.drawing import (
    Facet,
    Look,
    add_legend,
    draw_band,
    draw_factors,
    facets,
    width_of,
)
from experiments.report.records import Experiment
from experiments.report.selection import (
    GridPoint,
    Part,
    Selection,
    has_diverged,
)

_RATES_PER_FIGURE = 4
_CHOSEN = "each arm at its chosen learning rate"


class _Column(NamedTuple):
    title: str
    points: list[GridPoint]
    facet: Facet


def draw_learning_curves(experiment: Experiment, selection: Selection) -> Figure:
    """Draws a column per learning rate, or each arm at its chosen rate.

    Every rate is shown where the arms share a few and fit into one panel. Solid: test
    or, where examples are held out, validation; dashed: training, with dropout. Lines
    are means over seeds, bands go from the lowest to the highest. A cross on the upper
    edge marks where a run has diverged.
    """
    columns = _columns(selection)
    figure = Figure(figsize=(width_of(len(columns)), 7.4), layout="constrained")
    axes = figure.subplots(3, len(columns), sharex="col", sharey="row", squeeze=False)
    for (title, points, facet), (accuracy, loss, factor) in zip(
        columns, axes.T, strict=True
    ):
        for point in points:
            look = facet.looks[point.arm]
            _draw_curves(accuracy, point, "accuracy", selection.part, look)
            _draw_curves(loss, point, "loss", selection.part, look)
        rate = max((point.learning_rate for point in points), default=1.0)
        draw_factors(factor, experiment, facet.looks, rate, experiment.steps_per_epoch)
        accuracy.set_title(title)
        factor.set_xlabel("epoch")
        factor.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("loss")
    axes[1, 0].set_ylim(bottom=0, top=_loss_ceiling(experiment, columns))
    axes[2, 0].set_ylabel("$r_t$, share of the rate")
    title = f"{experiment.name}: solid {selection.part}, dashed training"
    if len(columns) > 1 and columns[0].facet.title:
        title += f"; {_CHOSEN}"
    figure.suptitle(title)
    add_legend(figure)
    return figure


def _columns(selection: Selection) -> list[_Column]:
    divided = facets(selection.arms)
    grids = {
        tuple(point.learning_rate for point in selection.points(arm))
        for arm in selection.arms
    }
    shared = next(iter(grids))
    if len(divided) == 1 and len(grids) == 1 and len(shared) <= _RATES_PER_FIGURE:
        by_rate = zip(*map(selection.points, selection.arms), strict=True)
        return [
            _Column(f"learning rate {rate:g}", list(points), divided[0])
            for rate, points in zip(shared, by_rate, strict=True)
        ]
    return [
        _Column(
            facet.title or _CHOSEN,
            [_shown(selection, arm) for arm in facet.looks],
            facet,
        )
        for facet in divided
    ]


def _shown(selection: Selection, arm: Arm) -> GridPoint:
    """The arm's choice or, while none of its runs is finished, where most rows are."""
    if arm in selection.choices:
        return selection.choices[arm].point
    return max(
        selection.points(arm), key=lambda point: sum(map(len, point.runs.values()))
    )


def _draw_curves(
    axes: Axes, point: GridPoint, metric: str, part: Part, look: Look
) -> None:
    """One arm's curves over the epochs: after them, and in training."""
    epochs = sorted({m.epoch for run in point.runs.values() for m in run})
    marked = max(1, len(epochs) // 10)
    for shown, line, label in ((part, "-", look.label), ("train", "--", None)):
        draw_band(
            axes,
            epochs,
            [_values(point, epoch, f"{shown}_{metric}") for epoch in epochs],
            look,
            label=label,
            linestyle=line,
            markersize=4,
            markevery=marked,
        )
    if metric == "loss":
        _mark_divergence(axes, point, look)


def _values(point: GridPoint, epoch: int, metric: str) -> Sequence[float]:
    """A metric after an epoch, of every seed that has it."""
    values = [
        getattr(metrics, metric)
        for run in point.runs.values()
        for metrics in run
        if metrics.epoch == epoch
    ]
    return [value for value in values if value is not None]


def _loss_ceiling(experiment: Experiment, columns: list[_Column]) -> float | None:
    """Twice the loss of guessing: a run beyond it must not flatten the others."""
    ceiling = 2 * math.log(experiment.classes)
    losses = [
        loss
        for column in columns
        for point in column.points
        for run in point.runs.values()
        for m in run
        for loss in (m.train_loss, m.validation_loss, m.test_loss)
        if loss is not None and math.isfinite(loss)
    ]
    return ceiling if losses and max(losses) > ceiling else None


def _mark_divergence(axes: Axes, point: GridPoint, look: Look) -> None:
    for run in point.runs.values():
        epoch = next((m.epoch for m in run if has_diverged(m)), None)
        if epoch is not None:
            axes.plot(
                [epoch],
                [1],
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                color=look.color,
                marker="x",
                markeredgewidth=2,
            )
