"""The report's section of paired comparisons, in Markdown."""

from experiments.report import statistics
from experiments.report.markdown import table
from experiments.report.selection import Comparison, Selection
from experiments.report.statistics import Interval


def section(selection: Selection) -> list[str]:
    """Every comparison with its intervals, and every pair of runs behind them."""
    comparisons = selection.comparisons
    if not comparisons:
        return []
    has_bootstrap = any(c.differences.bootstrap for c in comparisons)
    columns = ["arms (rates)", "n", "mean difference", "95% interval"]
    columns += ["95% bootstrap"] * has_bootstrap
    columns.append("could have shown")
    return [
        "## Paired comparisons",
        "",
        *_explanation(comparisons),
        "",
        *table(
            columns,
            [_cells(comparison, has_bootstrap) for comparison in comparisons],
            text_columns=1,
        ),
        "",
        "Every pair, as a - b = difference:",
        "",
        *_pairs(comparisons),
        "",
    ]


def _explanation(comparisons: list[Comparison]) -> list[str]:
    return [
        "Final test accuracy of the first arm less that of the second, each at its",
        "chosen rate, within seeds: runs of one seed share initial weights, order of",
        "batches and dropout masks. Arms are compared that differ in one thing, and",
        "each with the first arm. Intervals are Student's, of the mean difference;",
        f"from {statistics.BOOTSTRAP_FROM} pairs on, a percentile bootstrap is beside",
        "them.",
        "",
        'Under "could have shown" is the smallest true difference that so many pairs,',
        "with such a spread, would have told from none in four of five experiments;",
        "smaller ones may be there unseen. Where nothing differs, about one interval",
        f"in twenty leaves out zero all the same; there are {len(comparisons)} here.",
    ]


def _cells(comparison: Comparison, has_bootstrap: bool) -> list[str]:
    differences = comparison.differences
    n, mean, _ = differences.summary
    detectable = differences.detectable
    cells = [
        _name(comparison),
        str(n),
        "-" if mean is None else f"{mean:+.4f}",
        "none: one pair" if n == 1 else _bounds(differences.student),
    ]
    cells += [_bounds(differences.bootstrap)] * has_bootstrap
    return [*cells, "-" if detectable is None else f"{detectable:.4f}"]


def _bounds(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:+.4f} to {interval.high:+.4f}"


def _pairs(comparisons: list[Comparison]) -> list[str]:
    """A row for each comparison, a column for each seed."""
    seeds = sorted({p.seed for c in comparisons for p in c.differences.pairs})
    rows = []
    for comparison in comparisons:
        pairs = {pair.seed: pair for pair in comparison.differences.pairs}
        cells = [
            f"{pair.a:.4f} - {pair.b:.4f} = {pair.difference:+.4f}"
            if (pair := pairs.get(seed)) is not None
            else "-"
            for seed in seeds
        ]
        rows.append([_name(comparison), *cells])
    columns = ["arms (rates)", *(f"seed {seed}" for seed in seeds)]
    return table(columns, rows, text_columns=1)


def _name(comparison: Comparison) -> str:
    return f"{comparison.a.name} - {comparison.b.name}"
