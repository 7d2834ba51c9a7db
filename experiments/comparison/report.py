"""The report of an experiment: a table for the terminal, and Markdown with pictures."""

import pathlib
import statistics

import rich.box
import rich.table

from experiments.comparison import figures, records
from experiments.comparison.records import Experiment, Row

_COLUMNS = (
    "run",
    "epochs",
    "steps",
    "train loss",
    "train accuracy",
    "test loss",
    "test accuracy",
)


def write_report(experiment: Experiment, out_dir: pathlib.Path) -> None:
    """Draws the pictures and writes `report.md`.

    Args:
      experiment: records with one row at least.
      out_dir: where the files go.
    """
    pictures = figures.write_figures(experiment, out_dir)
    text = _markdown(experiment, pictures)
    records.write_whole(
        out_dir / records.REPORT_FILE, lambda file: file.write(text.encode())
    )


def summary_table(experiment: Experiment) -> rich.table.Table:
    """The final rows, a line each in a terminal of 80 columns."""
    table = rich.table.Table(
        title=f"{experiment.config.name}, last epochs",
        box=rich.box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    for column in ("optimizer", "schedule"):
        table.add_column(column, overflow="fold")
    for column in ("rate", "seed", "epoch", "train acc", "test loss", "test acc"):
        table.add_column(column, justify="right")
    for run, metrics in experiment.final_rows():
        table.add_row(
            run.arm.optimizer,
            run.arm.schedule,
            f"{run.learning_rate:g}",
            str(run.seed),
            str(metrics.epoch),
            f"{metrics.train_accuracy:.4f}",
            f"{metrics.test_loss:.4f}",
            f"{metrics.test_accuracy:.4f}",
        )
    return table


def _cells(row: Row) -> tuple[str, ...]:
    metrics = row.metrics
    return (
        row.run.name,
        str(metrics.epoch),
        f"{metrics.step:,}",
        f"{metrics.train_loss:.4f}",
        f"{metrics.train_accuracy:.4f}",
        f"{metrics.test_loss:.4f}",
        f"{metrics.test_accuracy:.4f}",
        f"{metrics.examples_per_second:,.0f}",
    )


def _markdown(experiment: Experiment, pictures: list[str]) -> str:
    expected = len(experiment.config.runs())
    epochs = [row.metrics.epoch for row in experiment.final_rows()]
    finished = epochs.count(experiment.config.epochs)
    versions = ", ".join(f"{name} {v}" for name, v in experiment.versions.items())
    arms = ", ".join(arm.name for arm in experiment.config.arms)
    lines = [
        f"# {experiment.config.name}: {arms}",
        "",
        f"- Command: `{experiment.command}`",
        f"- Data: {experiment.data}",
        f"- Machine: {experiment.machine}",
        f"- Versions: {versions}",
    ]
    if finished < expected:
        lines.append(f"- Interrupted: {finished} of {expected} runs are finished.")
    columns = (*_COLUMNS, f"{experiment.config.unit}/s")
    lines += [
        "",
        "Training figures are means over each epoch's batches as they were trained on,",
        "with dropout if the model has any; test figures are over all test",
        f"{experiment.config.unit}, after the epoch.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" + "|---:" * (len(columns) - 1) + "|",
    ]
    for row in experiment.final_rows():
        lines.append("| " + " | ".join(_cells(row)) + " |")
    lines += ["", *_best_rates(experiment), ""]
    lines += [f"![{pathlib.Path(name).stem}]({name})\n" for name in pictures]
    return "\n".join(lines)


def _best_rates(experiment: Experiment) -> list[str]:
    """Each arm's best rate; none where there is no choice."""
    if len(experiment.config.learning_rates) == 1:
        return []
    lines = [
        "Best rates, by the mean final test accuracy over seeds (chosen on the test",
        "data itself, so these accuracies are flattering):",
        "",
    ]
    for arm in experiment.config.arms:
        means = {}
        for rate in experiment.config.learning_rates:
            if accuracies := experiment.final_test_accuracies(arm, rate):
                means[rate] = statistics.fmean(accuracies)
        if means:
            best = max(means, key=lambda rate: means[rate])
            lines.append(f"- {arm.name}: {means[best]:.4f} at {best:g}")
    return lines
