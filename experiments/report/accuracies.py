"""The report's section of final accuracies, in Markdown."""

from experiments.report.markdown import (
    PLUS_MINUS,
    mean_and_deviation,
    table,
)
from experiments.report.records import Experiment
from experiments.report.selection import Choice, GridPoint, Selection

_HEADS = {
    "validation": "validation accuracy",
    "test": "test accuracy",
    "best_test": "best checkpoint",
}


def section(experiment: Experiment, selection: Selection) -> list[str]:
    """Every arm at every rate; which rates are chosen, how, and which lie at edges."""
    kinds = [*_HEADS] if experiment.training.validation else ["test"]
    rows = []
    for arm in selection.arms:
        choice = selection.choices.get(arm)
        for point in selection.points(arm):
            finals = [point.final(f"{kind}_accuracy") for kind in kinds]
            rows.append(
                [
                    *arm,
                    f"{point.learning_rate:g}",
                    str(len(point.final("train_accuracy"))),
                    *(mean_and_deviation([*final.values()]) for final in finals),
                    str(len(point.diverged)),
                    _note(point, choice),
                ]
            )
    heads = [_HEADS[kind] for kind in kinds]
    columns = [
        "optimizer",
        "schedule",
        "learning rate",
        "n",
        *heads,
        "diverged",
        "note",
    ]
    return [
        "## Final accuracies",
        "",
        f"After the last epoch: mean {PLUS_MINUS} standard deviation over n seeds.",
        *_how_chosen(experiment),
        "",
        *table(columns, rows, text_columns=2),
        "",
        *_edges(selection),
    ]


def _how_chosen(experiment: Experiment) -> list[str]:
    held_out = experiment.training.validation
    if not held_out:
        return [
            "Rates are chosen by the best mean, on the test data itself: accuracies of",
            "the chosen rates are flattering.",
        ]
    return [
        "Rates are chosen by the best mean accuracy on",
        f"{held_out:,} held-out training {experiment.unit}; the test data was",
        "read once, after the last epoch. The best checkpoint is that after the epoch",
        "with the best validation accuracy, and its accuracy that on the test data.",
    ]


def _note(point: GridPoint, choice: Choice | None) -> str:
    if choice is None or choice.point is not point:
        return ""
    return "chosen" if choice.edge is None else f"chosen, the {choice.edge}"


def _edges(selection: Selection) -> list[str]:
    at_edge = [
        f"- {choice.point.name} is the {choice.edge} rate of its grid."
        for choice in selection.choices.values()
        if choice.edge is not None
    ]
    if not at_edge:
        return []
    return ["A better rate may lie beyond the grid:", "", *at_edge, ""]
