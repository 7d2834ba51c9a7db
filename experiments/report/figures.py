"""Figures of an experiment's tables."""

import io
import math
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.report.records import Experiment
from experiments.report.tables import POINT, Tables, factors

_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 120,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.markersize": 5,
}
# Okabe and Ito's colours suit the colour-blind; markers help in print.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LOOKS = [{"color": c, "marker": m} for c, m in zip(_COLORS, "osD^vP", strict=True)]


def draw(experiment: Experiment, tables: Tables) -> dict[str, bytes]:
    """Draws every figure that the records allow: PNG files by name."""
    pictures = {}
    with mpl.rc_context(_STYLE), np.errstate(all="ignore"):
        figures = {"learning_curves.png": draw_curves(experiment, tables)}
        if tables.summary.chosen.any() and tables.summary.arm.duplicated().any():
            figures["final_accuracies.png"] = draw_final(tables)
        for name, figure in figures.items():
            figure.savefig(file := io.BytesIO(), format="png")
            pictures[name] = file.getvalue()
    return pictures


def _panels(tables: Tables, rows: int, height: float) -> tuple[Figure, Any, Any]:
    """A figure, its axes, and the arms of each column: at most six look different."""
    arms, most = [*tables.arms], len(_LOOKS)
    groups = [arms[start : start + most] for start in range(0, len(arms), most)]
    width = max(7.0 / len(groups), 3.6, 1.2 + 0.09 * max(map(len, arms)))  # legends
    figure = Figure(figsize=(width * len(groups), height))
    grid = figure.subplots(rows, len(groups), squeeze=False, sharex="col", sharey="row")
    return figure, grid, groups


def draw_final(tables: Tables) -> Figure:
    """Final accuracy against the learning rate, on the examples that choose the rate.

    A ring marks the chosen rate; a cross marks a run that diverged or never learnt.
    """
    accuracy = f"{tables.part}_accuracy"
    figure, (row,), groups = _panels(tables, 1, height=4.2)
    for axes, arms in zip(row, groups, strict=True):
        for index, (arm, look) in enumerate(zip(arms, _LOOKS, strict=False)):
            final = tables.runs[tables.runs.finished & (tables.runs.arm == arm)]
            _draw_band(axes, final, "learning_rate", accuracy, arm, look)
            lost = final[final.diverged | final.untrained]
            _mark(axes, lost.learning_rate, lost[accuracy], look, "x", 7)
            chosen = tables.summary[tables.summary.chosen & (tables.summary.arm == arm)]
            mean, size = chosen[f"{accuracy}_mean"], 10 + 1.2 * index
            _mark(axes, chosen.learning_rate, mean, look, "o", size)
        axes.set(xlabel="learning rate", xscale="log")
        rates = sorted({*tables.summary.learning_rate[tables.summary.arm.isin(arms)]})
        if len(rates) <= 10:
            axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
            axes.minorticks_off()
        _add_legend(axes, 2 if len(groups) == 1 else 1)
    row[0].set_ylabel(f"final {tables.part} accuracy")
    return figure


def draw_curves(experiment: Experiment, tables: Tables) -> Figure:
    """Accuracy and loss over the epochs at the chosen rates, and the steps' factors.

    A cross on the upper edge marks where a run diverged.
    """
    shown = {tables.part: tables.part, "train": "training"}
    metrics = {
        f"{k}_{m}": f"{v} {m}" for m in ("accuracy", "loss") for k, v in shown.items()
    }
    rows = tables.metrics.merge(tables.summary[tables.summary.shown][POINT])
    per_epoch = experiment.config.steps_per_epoch
    updates = per_epoch * int(tables.metrics.epoch.max())
    steps = range(0, updates, max(1, updates // 300))
    figure, grid, groups = _panels(tables, 5, height=10.0)
    for column, arms in zip(grid.T, groups, strict=True):
        for arm, look in zip(arms, _LOOKS, strict=False):
            found = rows[rows.arm == arm]
            for axes, metric in zip(column, metrics, strict=False):
                _draw_band(axes, found, "epoch", metric, arm, look)
            broken = found[found.diverged].groupby("run").epoch.min()
            for axes in column[2:4]:
                edge = axes.get_xaxis_transform()
                _mark(axes, broken, [1] * len(broken), look, "x", 7, transform=edge)
            if len(found):
                rate = found.learning_rate.iloc[0]
                share, r_t = factors(experiment, tables.arms[arm], rate, steps)
                at = (np.array(steps) + 1) / per_epoch
                column[-1].plot(at, share * r_t, color=look["color"])
        column[-1].set_xlabel("epoch")
        column[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        _add_legend(column[0], 2 if len(groups) == 1 else 1)
    for axes, label in zip(
        grid[:, 0], [*metrics.values(), "schedule times r_t"], strict=True
    ):
        axes.set_ylabel(label)
    # Twice the loss of guessing: a run above must not flatten the others.
    ceiling = 2 * math.log(experiment.config.task.classes)
    for axes in grid[2:4, 0]:
        axes.set_ylim(0, min(axes.get_ylim()[1], ceiling))
    return figure


def _draw_band(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, label: str, look: dict[str, Any]
) -> None:
    """Means over seeds as a line, lowest to highest as a band.

    Both end where a seed has diverged.
    """
    seeds = rows.pivot(index=x, columns="seed", values=y).dropna(how="all")
    drawn = [seeds.mean(axis=1), seeds.min(axis=1), seeds.max(axis=1)]
    mean, low, high = (values.where(values.abs() < 1e6) for values in drawn)
    every = max(1, len(seeds) // 10)
    axes.plot(seeds.index, mean, label=label, markevery=every, **look)
    axes.fill_between(seeds.index, low, high, color=look["color"], alpha=0.12, lw=0)


def _mark(
    axes: Axes, x: Any, y: Any, look: Any, marker: str, size: float, **more: Any
) -> None:
    line = {"color": look["color"], "marker": marker, "markersize": size}
    x, y = np.asarray(x, float), np.asarray(y, float)
    drawn = np.abs(y) < 1e6
    if drawn.any():  # or constrained layout would fail
        line |= {"fillstyle": "none", "linestyle": "none", "clip_on": False}
        axes.plot(x[drawn], y[drawn], **line, **more)


def _add_legend(axes: Axes, columns: int) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
