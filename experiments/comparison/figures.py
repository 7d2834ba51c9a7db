"""Pictures of an experiment's records. Nothing is trained here."""

import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import optax_radam
from experiments.comparison import optimizers, records
from experiments.comparison.config import ScheduleName
from experiments.comparison.records import Experiment, Row

# Okabe and Ito's colours, told apart also by the colour-blind; marks help in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_SCHEDULE_LINES: dict[ScheduleName, str] = {
    "constant": "-",
    "untuned-linear-warmup": "--",
    "warmup-linear-decay": "-.",
}
_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 120,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


def write_figures(experiment: Experiment, out_dir: pathlib.Path) -> list[str]:
    """Draws every picture that the records allow.

    Args:
      experiment: records with one row at least.
      out_dir: where the PNG files go.

    Returns:
      The names of the files written.
    """
    figures: dict[str, Callable[[Experiment], Figure]] = {
        records.LEARNING_CURVES_FILE: draw_learning_curves
    }
    if len(experiment.config.learning_rates) > 1:
        figures[records.LEARNING_RATES_FILE] = draw_learning_rates
    with mpl.rc_context(_STYLE):
        for name, draw in figures.items():
            canvas = FigureCanvasAgg(draw(experiment))
            records.write_whole(out_dir / name, canvas.print_png)
    return list(figures)


def draw_learning_curves(experiment: Experiment) -> Figure:
    """Accuracy and loss over the epochs, a column per learning rate.

    Solid: test; dashed: training, with dropout. Lines are means over seeds, bands go
    from the lowest to the highest. Beneath: what scales the steps.
    """
    rates = experiment.config.learning_rates
    width = 7.0 if len(rates) == 1 else 3.2 * len(rates)
    figure = Figure(figsize=(width, 8.0), layout="constrained")
    axes = figure.subplots(3, len(rates), sharex="col", sharey="row", squeeze=False)
    for column, rate in enumerate(rates):
        accuracy, loss, factor = axes[:, column]
        for index, arm in enumerate(experiment.config.arms):
            rows = experiment.rows_of(arm, rate)
            _draw_curve(accuracy, rows, "accuracy", index)
            _draw_curve(loss, rows, "loss", index)
        _draw_factors(factor, experiment, rate, experiment.steps_per_epoch)
        accuracy.set_title(f"learning rate {rate:g}")
        factor.set_xlabel("epoch")
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("loss")
    axes[1, 0].set_ylim(bottom=0, top=_loss_ceiling(experiment))
    axes[2, 0].set_ylabel("$r_t$, share of the rate")
    figure.suptitle(f"{experiment.config.name}: solid test, dashed training")
    _add_legend(figure, axes[0, 0], axes[2, 0])
    return figure


def draw_learning_rates(experiment: Experiment) -> Figure:
    """Final test accuracy against the learning rate; beneath, what scales the steps."""
    figure = Figure(figsize=(7.0, 6.5), layout="constrained")
    accuracy, factor = figure.subplots(2, 1, height_ratios=(3, 2))
    rates = sorted(experiment.config.learning_rates)
    for index, arm in enumerate(experiment.config.arms):
        _draw_band(
            accuracy,
            rates,
            [experiment.final_test_accuracies(arm, rate) for rate in rates],
            label=arm.name,
            **_look(index),
        )
    accuracy.set_xscale("log")
    accuracy.set_xticks(rates, [f"{rate:g}" for rate in rates])
    accuracy.minorticks_off()
    accuracy.set_xlabel("learning rate")
    accuracy.set_ylabel("test accuracy after the last epoch")
    epochs = experiment.config.epochs
    accuracy.set_title(f"{experiment.config.name}, {epochs} epochs")
    _draw_factors(factor, experiment, rates[-1], steps_per_unit=1)
    factor.set_xlabel("step")
    factor.set_ylabel("$r_t$, share of the rate")
    if any(arm.schedule == "warmup-linear-decay" for arm in experiment.config.arms):
        factor.set_title(f"at learning rate {rates[-1]:g}")
    _add_legend(figure, accuracy, factor)
    return figure


def _look(index: int) -> dict[str, str]:
    """Colour and marker of an arm; no two of the first 49 share both."""
    rounds, colour = divmod(index, len(_COLOURS))
    marker = (colour + rounds) % len(_MARKERS)
    return {"color": _COLOURS[colour], "marker": _MARKERS[marker]}


def _draw_curve(axes: Axes, rows: list[Row], metric: str, index: int) -> None:
    """One arm's test and training curve over the epochs, at one rate."""
    epochs = sorted({row.metrics.epoch for row in rows})
    arm = rows[0].run.arm.name if rows else ""
    for part, line, label in (("test", "-", arm), ("train", "--", None)):
        values: list[list[float]] = [[] for _ in epochs]
        for row in rows:
            value = getattr(row.metrics, f"{part}_{metric}")
            values[epochs.index(row.metrics.epoch)].append(value)
        _draw_band(
            axes,
            epochs,
            values,
            label=label,
            linestyle=line,
            markersize=4,
            **_look(index),
        )


def _draw_band(
    axes: Axes,
    x: Iterable[float],
    values: list[list[float]],
    *,
    color: str,
    **line: Any,
) -> None:
    """Means as a line, lowest to highest as a band; both leave out where none are."""
    points = [(at, group) for at, group in zip(x, values, strict=True) if group]
    if not points:
        return
    positions = [at for at, _ in points]
    axes.plot(positions, [np.mean(group) for _, group in points], color=color, **line)
    lowest = [min(group) for _, group in points]
    highest = [max(group) for _, group in points]
    axes.fill_between(positions, lowest, highest, color=color, alpha=0.15, linewidth=0)


def _draw_factors(
    axes: Axes, experiment: Experiment, rate: float, steps_per_unit: int
) -> None:
    """r_t, and each schedule's share of the learning rate, over the run's steps."""
    config = experiment.config
    run_steps = config.epochs * experiment.steps_per_epoch
    counts = np.unique(np.linspace(0, run_steps - 1, 2000).astype(np.int32))
    x = (counts + 1) / steps_per_unit
    for schedule in dict.fromkeys(arm.schedule for arm in experiment.config.arms):
        arm = next(arm for arm in experiment.config.arms if arm.schedule == schedule)
        learning_rate = optimizers.make_schedule(arm, rate, config, run_steps)
        values = np.broadcast_to(np.asarray(learning_rate(counts)) / rate, counts.shape)
        axes.plot(
            x,
            values,
            label=f"learning rate, {schedule}",
            color="0.6",
            linestyle=_SCHEDULE_LINES[schedule],
        )
    rectified = {arm.optimizer for arm in config.arms if "radam" in arm.optimizer}
    for shifted, optimizers_ in (
        (False, rectified - {"radam-shifted"}),
        (True, rectified & {"radam-shifted"}),
    ):
        if not optimizers_:
            continue
        schedule = optax_radam.rectification_schedule(config.b2, shifted=shifted)
        # Nothing until it is tractable: no step is rectified before.
        factor = np.asarray(schedule(counts))
        axes.plot(
            x,
            np.where(factor == 0, np.nan, factor),
            label=f"$r_t$, b2 = {config.b2:g}" + (", shifted" if shifted else ""),
            color="black",
            linestyle=(0, (1, 3)) if shifted else ":",
        )
    axes.set_ylim(-0.03, 1.05)


def _loss_ceiling(experiment: Experiment) -> float | None:
    """Twice the loss of guessing: a diverged run must not flatten the others."""
    ceiling = 2 * math.log(experiment.config.classes)
    metrics = [row.metrics for row in experiment.rows]
    losses = [loss for m in metrics for loss in (m.train_loss, m.test_loss)]
    return None if all(loss < ceiling for loss in losses) else ceiling


def _add_legend(figure: Figure, *axes: Axes) -> None:
    """One legend below the panels, for all of them."""
    handles, labels = [], []
    for each in axes:
        more_handles, more_labels = each.get_legend_handles_labels()
        handles += more_handles
        labels += more_labels
    for columns in (3, 2, 1):
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=columns
        )
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            return
        legend.remove()
