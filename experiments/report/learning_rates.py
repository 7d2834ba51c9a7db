"""Final accuracy, and stability, against the learning rate."""

import statistics
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
from experiments.report.selection import GridPoint, Selection

_LABELLED_RATES = 10  # more would overlap


def draw_accuracies(experiment: Experiment, selection: Selection) -> Figure:
    """Final accuracy against the learning rate; beneath, what scales the steps.

    The accuracy is the one that rates are chosen by. Lines are means over seeds, bands
    go from the lowest to the highest; a ring marks the chosen rate, a cross the
    accuracy of a run that has diverged.
    """
    divided = facets(selection.arms)
    figure = Figure(figsize=(width_of(len(divided)), 6.0), layout="constrained")
    axes = figure.subplots(
        2, len(divided), height_ratios=(3, 2), sharey="row", squeeze=False
    )
    metric = f"{selection.part}_accuracy"
    for facet, (accuracy, factor) in zip(divided, axes.T, strict=True):
        _draw_lines(
            accuracy, selection, facet, lambda point: [*point.final(metric).values()]
        )
        accuracy.set_title(facet.title)
        accuracy.set_xlabel("learning rate")
        for index, (arm, look) in enumerate(facet.looks.items()):
            for point in selection.points(arm):
                final = point.final(metric)
                for seed in final.keys() & point.diverged:
                    place = (point.learning_rate, final[seed])
                    _mark(accuracy, place, look, "x", size=7)
            if arm in selection.choices:
                chosen = selection.choices[arm].point
                mean = statistics.fmean(chosen.final(metric).values())
                size = 10 + 1.2 * index  # around one another where arms agree
                _mark(accuracy, (chosen.learning_rate, mean), look, "o", size)
        highest = _rates(selection, facet)[-1]
        draw_factors(factor, experiment, facet.looks, highest, steps_per_unit=1)
        factor.set_xlabel("step")
        if any("warmup-linear-decay" in arm.schedule for arm in facet.looks):
            factor.set_title(f"at learning rate {highest:g}")
    axes[0, 0].set_ylabel(f"{selection.part} accuracy after the last epoch")
    axes[1, 0].set_ylabel("$r_t$, share of the rate")
    epochs = experiment.training.epochs
    title = f"{experiment.name}, {epochs} epochs; ring: chosen rate"
    if selection.diverged:
        title += "; cross: diverged run"
    figure.suptitle(title)
    add_legend(figure)
    return figure


def draw_stability(experiment: Experiment, selection: Selection) -> Figure:
    """Late variation of the loss from epoch to epoch against the learning rate.

    Lines are means over the seeds that have not diverged, bands go from the lowest to
    the highest. Beneath, if any run has diverged: how many have.
    """
    divided = facets(selection.arms)
    rows = 2 if selection.diverged else 1
    figure = Figure(
        figsize=(width_of(len(divided)), 2.6 + 1.4 * rows), layout="constrained"
    )
    axes = figure.subplots(
        rows,
        len(divided),
        height_ratios=(3, 1)[:rows],
        sharex="col",
        sharey="row",
        squeeze=False,
    )

    def variations(point: GridPoint) -> list[float]:
        return [change.late_mean for change in point.loss_changes(selection.part)]

    for facet, column in zip(divided, axes.T, strict=True):
        _draw_lines(column[0], selection, facet, variations)
        column[0].set_title(facet.title)
        if rows == 2:
            _draw_lines(column[1], selection, facet, _diverged_share)
        column[-1].set_xlabel("learning rate")
    points = [point for arm in selection.arms for point in selection.points(arm)]
    if all(value > 0 for point in points for value in variations(point)):
        axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylabel(f"change of the {selection.part} loss per epoch")
    if rows == 2:
        axes[1, 0].set_ylim(-0.1, 1.1)
        axes[1, 0].set_ylabel("diverged")
    figure.suptitle(f"{experiment.name}: mean change, up or down, in the second half")
    add_legend(figure)
    return figure


def _diverged_share(point: GridPoint) -> list[float]:
    return [len(point.diverged) / len(point.runs)] if point.runs else []


def _draw_lines(
    axes: Axes,
    selection: Selection,
    facet: Facet,
    values: Callable[[GridPoint], Sequence[float]],
) -> None:
    """A line and a band for each arm of a facet over its own rates."""
    for arm, look in facet.looks.items():
        grid = selection.points(arm)
        draw_band(
            axes,
            [point.learning_rate for point in grid],
            [values(point) for point in grid],
            look,
            label=look.label,
        )
    axes.set_xscale("log")
    rates = _rates(selection, facet)
    if len(rates) <= _LABELLED_RATES:
        labels = [f"{rate:g}" for rate in rates]
        axes.set_xticks(rates, labels, rotation=45 if len(rates) > 4 else 0)
        axes.minorticks_off()


def _rates(selection: Selection, facet: Facet) -> list[float]:
    """Those of a facet's arms, ascending."""
    grids = [selection.points(arm) for arm in facet.looks]
    return sorted({point.learning_rate for grid in grids for point in grid})


def _mark(
    axes: Axes, place: tuple[float, float], look: Look, marker: str, size: float
) -> None:
    axes.plot(
        *place,
        color=look.color,
        marker=marker,
        markersize=size,
        markerfacecolor="none",
        markeredgewidth=1.5,
        clip_on=False,
    )
