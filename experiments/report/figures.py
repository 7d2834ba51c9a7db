"""The pictures of an experiment's records. Nothing is trained here."""

import io
import pathlib
from collections.abc import Callable

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.records import write_whole
from experiments.report import drawing, files
from experiments.report.learning_curves import draw_learning_curves
from experiments.report.learning_rates import (
    draw_accuracies,
    draw_stability,
)
from experiments.report.records import Experiment
from experiments.report.selection import Selection


def write_figures(
    experiment: Experiment, selection: Selection, out_dir: pathlib.Path
) -> list[str]:
    """Draws every picture that the records allow.

    Args:
      experiment: records with one row at least.
      selection: of them.
      out_dir: where the PNG files go.

    Returns:
      The names of the files written.
    """
    figures: dict[str, Callable[[Experiment, Selection], Figure]] = {
        files.LEARNING_CURVES_FILE: draw_learning_curves
    }
    if any(len(selection.points(arm)) > 1 for arm in selection.arms):
        figures[files.LEARNING_RATES_FILE] = draw_accuracies
        if experiment.training.epochs > 1:
            figures[files.STABILITY_FILE] = draw_stability
    with mpl.rc_context(drawing.STYLE):
        for name, draw in figures.items():
            buffer = io.BytesIO()
            FigureCanvasAgg(draw(experiment, selection)).print_png(buffer)
            write_whole(out_dir / name, buffer.getvalue())
    return list(figures)
