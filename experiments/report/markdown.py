"""Tables and numbers in Markdown."""

from collections.abc import Iterable, Sequence

from experiments.report import statistics

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int
) -> list[str]:
    """The lines of a table.

    Args:
      columns: their heads.
      rows: a cell for each of them.
      text_columns: the first so many are aligned to the left, the others, of numbers,
        to the right.
    """
    numbers = len(columns) - text_columns
    return [
        "| " + " | ".join(columns) + " |",
        "|---" * text_columns + "|---:" * numbers + "|",
        *("| " + " | ".join(cells) + " |" for cells in rows),
    ]


def number(value: float | None) -> str:
    """Four digits after the point, or a dash if there is no value."""
    return "-" if value is None else f"{value:.4f}"


def mean_and_deviation(values: Sequence[float]) -> str:
    """Both, or what there is of them."""
    _, mean, deviation = statistics.summarize(values)
    if deviation is None:
        return number(mean)
    return f"{number(mean)} {PLUS_MINUS} {number(deviation)}"
