"""The report of an experiment: text, a page for the browser, pictures, tables."""

from experiments.comparison.report.files import write_report
from experiments.comparison.report.tables import summary_table

__all__ = ["summary_table", "write_report"]
