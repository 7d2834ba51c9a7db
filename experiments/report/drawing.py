"""What the pictures share: looks of the arms, panels, bands, factors, the legend."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import optax_radam
from experiments import schedules
from experiments.config import Arm
from experiments.report.records import Experiment

STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 120,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
# Okabe and Ito's colours, told apart also by the colour-blind; marks help in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_SCHEDULE_LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
_SCHEDULE_GREYS = ("0.6", "0.35", "0.8")
_ARMS_PER_PANEL = 8  # more cannot be told apart
_POOLED = 2  # so few arms get no panel of their own

_Group = tuple[str, list[tuple[Arm, str]]]  # a title, and arms with labels


class Look(NamedTuple):
    """What an arm is called in the legend, and drawn with."""

    label: str
    color: str
    marker: str
    fill: str  # of the marker
    shade: float  # opacity of the band


class Facet(NamedTuple):
    """The arms that share a panel, or a column of panels."""

    title: str
    looks: dict[Arm, Look]


def facets(arms: Sequence[Arm]) -> list[Facet]:
    """Divides arms so that each panel stays legible.

    Args:
      arms: all there are.

    Returns:
      One facet without a title if all fit into it. Otherwise one for each schedule, or,
      if those are fewer, for each optimizer; two or more where even that is too much,
      and common ones for those of one or two arms. A label looks the same in all.
    """
    if len(arms) <= _ARMS_PER_PANEL:
        return _facets_of([("", [(arm, arm.name) for arm in arms])])
    return min(
        _facets_of(_groups([(arm.schedule, arm.optimizer, arm) for arm in arms])),
        _facets_of(_groups([(arm.optimizer, arm.schedule, arm) for arm in arms])),
        key=len,
    )


def _groups(arms: Sequence[tuple[str, str, Arm]]) -> list[_Group]:
    """Arms by title, each with its title and its label there."""
    groups: list[_Group] = []
    others: list[tuple[Arm, str]] = []
    for title in dict.fromkeys(title for title, _, _ in arms):
        group = [(arm, label) for of, label, arm in arms if of == title]
        if len(group) <= _POOLED:
            others += [(arm, arm.name) for arm, _ in group]
        else:
            groups.append((title, group))
    return [*groups, ("others", others)] if others else groups


def _facets_of(groups: Sequence[_Group]) -> list[Facet]:
    labels = list(dict.fromkeys(label for _, group in groups for _, label in group))
    return [
        Facet(
            title,
            {
                arm: _look(labels.index(label), label, len(group))
                for arm, label in group[start : start + _ARMS_PER_PANEL]
            },
        )
        for title, group in groups
        for start in range(0, len(group), _ARMS_PER_PANEL)
    ]


def _look(index: int, label: str, of: int) -> Look:
    """Colour and marker; no two of the first 49 share both. The first 7 are filled."""
    rounds, colour = divmod(index, len(_COLOURS))
    marker = (colour + rounds) % len(_MARKERS)
    fill = "white" if rounds else _COLOURS[colour]
    shade = 0.6 / max(4, min(of, _ARMS_PER_PANEL))
    return Look(label, _COLOURS[colour], _MARKERS[marker], fill, shade)


def width_of(columns: int) -> float:
    """Of a figure, in inches."""
    return 7.0 if columns == 1 else 3.4 * columns


def draw_band(
    axes: Axes,
    x: Iterable[float],
    values: Iterable[Sequence[float]],
    look: Look,
    *,
    label: str | None,
    **line: Any,
) -> None:
    """Means as a line, lowest to highest as a band; both end where one is not finite.

    Args:
      axes: where to draw.
      x: positions.
      values: those of all seeds, at each position; where none are, it is left out.
      look: of the arm.
      label: in the legend; None: not there.
      **line: more of the line's properties.
    """
    points = [(at, group) for at, group in zip(x, values, strict=True) if group]
    if not points:
        return
    positions = [at for at, _ in points]
    axes.plot(
        positions,
        [np.mean(group) for _, group in points],
        color=look.color,
        marker=look.marker,
        markerfacecolor=look.fill,
        label=label,
        **line,
    )
    axes.fill_between(
        positions,
        [np.min(group) for _, group in points],
        [np.max(group) for _, group in points],
        color=look.color,
        alpha=look.shade,
        linewidth=0,
    )


def draw_factors(
    axes: Axes,
    experiment: Experiment,
    arms: Iterable[Arm],
    rate: float,
    steps_per_unit: int,
) -> None:
    """r_t, and each schedule's share of the learning rate, over the run's steps.

    Args:
      axes: where to draw.
      experiment: how long its runs are, and under which settings.
      arms: whose schedules and rectification to draw.
      rate: the peak that the schedules get.
      steps_per_unit: of the horizontal axis.
    """
    training, arms = experiment.training, set(arms)
    run_steps = training.epochs * experiment.steps_per_epoch
    counts = np.unique(np.linspace(0, run_steps - 1, 2000).astype(np.int32))
    x = (counts + 1) / steps_per_unit
    # Of all arms: a schedule looks the same in every panel.
    names = dict.fromkeys(run.arm.schedule for run in experiment.runs)
    looks = itertools.cycle(itertools.product(_SCHEDULE_GREYS, _SCHEDULE_LINES))
    for name, (grey, line) in zip(names, looks, strict=False):
        if name in {arm.schedule for arm in arms}:
            rates = schedules.learning_rates(name, rate, training, run_steps)
            axes.plot(
                x,
                rates[counts] / rate,
                label=f"learning rate, {name}",
                color=grey,
                linestyle=line,
            )
    rectified = {arm.optimizer for arm in arms if "radam" in arm.optimizer}
    for shifted, optimizers in (
        (False, rectified - {"radam-shifted"}),
        (True, rectified & {"radam-shifted"}),
    ):
        if not optimizers:
            continue
        schedule = optax_radam.rectification_schedule(training.b2, shifted=shifted)
        # Nothing until it is tractable: no step is rectified before.
        factor = np.asarray(schedule(counts))
        axes.plot(
            x,
            np.where(factor == 0, np.nan, factor),
            label=f"$r_t$, b2 = {training.b2:g}" + (", shifted" if shifted else ""),
            color="black",
            linestyle=(0, (1, 3)) if shifted else ":",
        )
    axes.set_ylim(-0.03, 1.05)


def add_legend(figure: Figure) -> None:
    """One legend below the panels, for all of them; a label stands there once.

    The figure grows by its height.
    """
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    for columns in (3, 2, 1):
        legend = figure.legend(
            entries.values(), entries, loc="outside lower center", ncols=columns
        )
        box = legend.get_window_extent()
        if columns == 1 or box.width < figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)
            return
        legend.remove()
