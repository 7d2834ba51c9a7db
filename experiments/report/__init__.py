"""The report of an experiment: text, a page for the browser, pictures, tables.

The import is fast: pandas and Matplotlib are imported when a report is written.
"""

import os
import pathlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.report.records import Experiment

EVENT_FOLDER = "tensorboard"
PAGE_FILE = "report.html"
FILES = (
    PAGE_FILE,
    "report.md",
    "final_accuracies.png",
    "learning_curves.png",
    "metrics.csv",
    "runs.csv",
    "summary.csv",
    "comparisons.csv",
    "endings.csv",
    "throughput.csv",
)


def write_report(experiment: "Experiment", out_dir: pathlib.Path) -> None:
    """Writes text, page, pictures, tables and events, each completely or not at all.

    Files of an earlier report that this one lacks are removed.

    Args:
      experiment: records with at least one row.
      out_dir: where the files go.

    Raises:
      OSError: if they cannot be written.
    """
    from experiments import records
    from experiments.report import figures, pages, tables

    found = tables.make_tables(experiment)
    pictures = figures.draw(experiment, found)
    contents = pictures | pages.render(experiment, found, pictures)
    for name, content in contents.items():
        records.write_whole(out_dir / name, content)
    pages.write_events(found.rows, out_dir / EVENT_FOLDER)
    for name in {*FILES} - {*contents}:
        (out_dir / name).unlink(missing_ok=True)


def announce(experiment: "Experiment", out_dir: pathlib.Path) -> None:
    """Prints the final accuracies and the page's path, if the output is still open."""
    import rich.box
    import rich.console
    import rich.table

    from experiments.report import pages, tables

    found = tables.make_tables(experiment)
    accuracy = f"{found.part}_accuracy"
    names = ("arm", "learning_rate", "n", accuracy, "note")
    columns = pages.cells(found.summary, *names)
    shown = rich.table.Table(*columns, box=rich.box.SIMPLE_HEAD, show_edge=False)
    for line in zip(*columns.values(), strict=True):
        shown.add_row(*line)
    console = rich.console.Console(markup=False)
    with console.capture() as text:
        console.print(shown)
    try:
        print(f"{text.get()}Report: {out_dir / PAGE_FILE}", flush=True)
    except BrokenPipeError:  # of `| head`; the rest must not be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
