"""The report of an experiment: text, a page for the browser, pictures, tables.

Importing it is quick: JAX and Matplotlib are imported when a report is written.
"""

import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from experiments.report import files

if TYPE_CHECKING:
    from experiments.report.records import Experiment


def write_report(experiment: "Experiment", out_dir: pathlib.Path) -> None:
    """Draws the pictures and writes text, page, tables and event files, each whole.

    Files of an earlier report that this one lacks are removed.

    Args:
      experiment: records with one row at least.
      out_dir: where the files go.

    Raises:
      OSError: if they cannot be written.
    """
    from experiments import records
    from experiments.report import (
        event_files,
        figures,
        selection,
        tables,
        text,
        web_page,
    )

    selected = selection.Selection(experiment)
    pictures = figures.write_figures(experiment, selected, out_dir)
    markdown = text.markdown(experiment, selected, pictures)
    title = markdown.partition("\n")[0].removeprefix("# ")
    embedded = {name: (out_dir / name).read_bytes() for name in pictures}
    texts = {
        files.REPORT_FILE: markdown,
        files.PAGE_FILE: web_page.page(markdown, title, embedded),
        files.METRICS_TABLE_FILE: tables.metrics_csv(experiment),
        files.SUMMARY_TABLE_FILE: tables.summary_csv(selected),
    }
    for name, content in texts.items():
        records.write_whole(out_dir / name, content.encode())
    event_files.write_event_files(experiment, out_dir)
    for name in {*files.REPORT_FILES} - {*pictures, *texts}:
        (out_dir / name).unlink(missing_ok=True)


def announce(out_dir: pathlib.Path, *tables: Any) -> None:
    """Prints tables, and where the report is, to whoever still reads.

    Args:
      out_dir: where it is.
      *tables: of rich.
    """
    import rich.console

    console = rich.console.Console()
    with console.capture() as text:
        for table in tables:
            console.print(table)
    try:
        print(f"{text.get()}Report: {out_dir / files.REPORT_FILE}", flush=True)
    except BrokenPipeError:  # of `| head`; what is left must not be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
