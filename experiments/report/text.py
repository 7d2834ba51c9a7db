"""The report's text, in Markdown."""

from collections.abc import Iterable, Sequence

from experiments.report import accuracies, comparisons, files, statistics
from experiments.report.markdown import (
    PLUS_MINUS,
    mean_and_deviation,
    number,
    table,
)
from experiments.report.records import Experiment
from experiments.report.selection import Selection

_ARMS_IN_TITLE = 6
_RUNS_IN_TEXT = 100  # the others are in the CSV file


def markdown(
    experiment: Experiment, selection: Selection, pictures: Sequence[str]
) -> str:
    """The whole text.

    Args:
      experiment: records with one row at least.
      selection: of them.
      pictures: names of the files to show.
    """
    sections = (
        _head(experiment, selection),
        accuracies.section(experiment, selection),
        _picture(pictures, files.LEARNING_RATES_FILE, "Accuracy by learning rate"),
        _picture(pictures, files.LEARNING_CURVES_FILE, "Learning curves"),
        comparisons.section(selection),
        _stability(selection),
        _picture(pictures, files.STABILITY_FILE, "Stability by learning rate"),
        _throughput(experiment, selection),
        _runs(experiment, selection),
    )
    return "\n".join(line for section in sections for line in section)


def _head(experiment: Experiment, selection: Selection) -> list[str]:
    names = [arm.name for arm in selection.arms]
    many = len(names) > _ARMS_IN_TITLE
    title = f"{len(names)} arms" if many else ", ".join(names)
    versions = ", ".join(f"{name} {v}" for name, v in experiment.versions.items())
    ends = experiment.final_rows()
    epochs = [row.metrics.epoch for row in ends]
    finished, planned = epochs.count(experiment.training.epochs), len(experiment.runs)
    return [
        f"# {experiment.name}: {title}",
        "",
        *(f"- Command: `{line}`" for line in experiment.command.splitlines()),
        f"- Data: {experiment.data}",
        f"- Machine: {experiment.machine}",
        f"- Versions: {versions}",
        *(
            [f"- Interrupted: {finished} of {planned} runs are finished."]
            if finished < planned
            else []
        ),
        _diverged(experiment, selection),
        "",
        "Training figures are means over each epoch's batches as they were trained on,",
        "with dropout if the model has any; all others are over all the",
        f"{experiment.unit} in question, after the epoch. As files for other",
        f"programs: [every row]({files.METRICS_TABLE_FILE}) and the",
        f"[final accuracies]({files.SUMMARY_TABLE_FILE}); TensorBoard reads the",
        f"folder `{files.EVENT_FOLDER}`.",
        "",
    ]


def _diverged(experiment: Experiment, selection: Selection) -> str:
    """How many runs have, and which; they are counted in every mean of accuracies."""
    if not selection.diverged:
        return "- Diverged (a loss was not finite): none."
    named = [
        f"{point.name} with seed{'s' * (len(point.diverged) > 1)} "
        + ", ".join(map(str, point.diverged))
        for arm in selection.arms
        for point in selection.points(arm)
        if point.diverged
    ]
    return (
        f"- Diverged (a loss was not finite): {len(selection.diverged)} of "
        f"{len(experiment.final_rows())} runs, whose accuracies are counted all the "
        f"same: {'; '.join(named)}."
    )


def _stability(selection: Selection) -> list[str]:
    rows = []
    for arm, (point, _) in selection.choices.items():
        changes = point.loss_changes(selection.part)
        if changes or point.diverged:
            rows.append(
                [
                    *arm,
                    f"{point.learning_rate:g}",
                    mean_and_deviation([change.late_mean for change in changes]),
                    mean_and_deviation([change.largest_rise for change in changes]),
                    str(len(changes)),
                    str(len(point.diverged)),
                ]
            )
    if not rows:
        return []
    columns = ["optimizer", "schedule", "learning rate"]
    columns += ["late change", "largest rise", "n", "diverged"]
    return [
        "## Stability",
        "",
        f"How much the {selection.part} loss changes from an epoch to the next, up or",
        "down, in the second half of a run, and by how much it rises at most in all of",
        f"it: mean {PLUS_MINUS} standard deviation over the n runs at the chosen rate",
        "that have not diverged. A run that learns nothing varies little, too.",
        "",
        *table(columns, rows, text_columns=2),
        "",
    ]


def _throughput(experiment: Experiment, selection: Selection) -> list[str]:
    population = experiment.training.population
    rows = []
    for arm in selection.arms:
        speeds = [
            metrics.examples_per_second
            for point in selection.points(arm)
            for run in point.runs.values()
            for metrics in run
        ]
        if speeds:
            low, middle, high = statistics.quartiles(speeds)
            speeds_text = [f"{speed:,.0f}" for speed in (middle, low, high)]
            rows.append([*arm, *speeds_text, str(len(speeds))])
    per_second = f"{experiment.unit}/s"
    together = (
        f" Up to {population} runs train together; the figure is of all of them."
        if population > 1
        else ""
    )
    return [
        "## Throughput",
        "",
        f"Training alone, without evaluation and compilation, in {per_second}: median",
        f"and quartiles over the epochs of all runs of an arm.{together}",
        "",
        *table(
            ["optimizer", "schedule", per_second, "25%", "75%", "epochs"],
            rows,
            text_columns=2,
        ),
        "",
    ]


def _runs(experiment: Experiment, selection: Selection) -> list[str]:
    if len(experiment.runs) > _RUNS_IN_TEXT:
        return []
    part = selection.part
    columns = ["run", "epochs", "steps", "train loss", "train accuracy"]
    parts = ["test"] if part == "test" else ["validation", "test"]
    columns += [f"{part} {metric}" for part in parts for metric in ("loss", "accuracy")]
    rows = []
    for run, metrics in experiment.final_rows():
        values = [
            getattr(metrics, f"{part}_{metric}")
            for part in ("train", *parts)
            for metric in ("loss", "accuracy")
        ]
        rows.append(
            [
                run.name,
                str(metrics.epoch),
                f"{metrics.step:,}",
                *map(number, values),
                f"{metrics.examples_per_second:,.0f}",
                "diverged" if run in selection.diverged else "",
            ]
        )
    columns += [f"{experiment.unit}/s", ""]
    return ["## Every run's last epoch", "", *table(columns, rows, text_columns=1), ""]


def _picture(pictures: Iterable[str], name: str, title: str) -> list[str]:
    return [f"![{title}]({name})", ""] if name in pictures else []
