"""All files of a report."""

import pathlib

from experiments.comparison import files
from experiments.comparison.records import Experiment
from experiments.comparison.report import tables, text, web_page
from experiments.comparison.report.event_files import write_event_files
from experiments.comparison.report.figures import write_figures
from experiments.comparison.selection import Selection


def write_report(experiment: Experiment, out_dir: pathlib.Path) -> None:
    """Draws the pictures and writes text, page, tables and event files, each whole.

    Files of an earlier report that this one lacks are removed.

    Args:
      experiment: records with one row at least.
      out_dir: where the files go.

    Raises:
      OSError: if they cannot be written.
    """
    selection = Selection(experiment)
    pictures = write_figures(experiment, selection, out_dir)
    markdown = text.markdown(experiment, selection, pictures)
    title = markdown.partition("\n")[0].removeprefix("# ")
    embedded = {name: (out_dir / name).read_bytes() for name in pictures}
    texts = {
        files.REPORT_FILE: markdown,
        files.PAGE_FILE: web_page.page(markdown, title, embedded),
        files.METRICS_TABLE_FILE: tables.metrics_csv(experiment),
        files.SUMMARY_TABLE_FILE: tables.summary_csv(selection),
    }
    for name, content in texts.items():
        encoded = content.encode()
        files.write_whole(out_dir / name, lambda file, b=encoded: file.write(b))  # type: ignore[misc]
    write_event_files(experiment, out_dir)
    for name in {*files.REPORT_FILES} - {*pictures, *texts}:
        (out_dir / name).unlink(missing_ok=True)
