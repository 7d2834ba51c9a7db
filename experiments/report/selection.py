"""Which learning rate each arm gets, and what the arms differ by at those rates."""

import functools
import itertools
import math
from typing import Literal, NamedTuple

from experiments.config import Arm, Run
from experiments.report import statistics
from experiments.report.records import EpochMetrics, Experiment

Part = Literal["train", "validation", "test"]
Edge = Literal["lowest", "highest"]


def has_diverged(metrics: EpochMetrics) -> bool:
    """Whether a loss is not finite; one that was not evaluated says nothing."""
    losses = (metrics.train_loss, metrics.validation_loss, metrics.test_loss)
    return not all(loss is None or math.isfinite(loss) for loss in losses)


class GridPoint(NamedTuple):
    """An arm at one of its learning rates, over all seeds."""

    arm: Arm
    learning_rate: float
    epochs: int  # of a finished run
    runs: dict[int, list[EpochMetrics]]  # each seed's epochs so far, in order

    @property
    def name(self) -> str:
        """As it stands in tables."""
        return f"{self.arm.name} ({self.learning_rate:g})"

    @property
    def diverged(self) -> list[int]:
        """The seeds with which it has."""
        return [seed for seed, run in self.runs.items() if any(map(has_diverged, run))]

    def final(self, metric: str) -> dict[int, float]:
        """A metric after the last epoch, by seed; diverged runs have one as well."""
        ends = {seed: run[-1] for seed, run in self.runs.items()}
        return {
            seed: getattr(end, metric)
            for seed, end in ends.items()
            if end.epoch == self.epochs and getattr(end, metric) is not None
        }

    def loss_changes(self, part: Part) -> list[statistics.LossChanges]:
        """Of each run of two epochs or more that has not diverged."""
        losses = [
            [loss for m in run if (loss := getattr(m, f"{part}_loss")) is not None]
            for run in self.runs.values()
            if not any(map(has_diverged, run))
        ]
        changes = map(statistics.loss_changes, losses)
        return [change for change in changes if change is not None]


class Choice(NamedTuple):
    """The grid point that stands for an arm in comparisons."""

    point: GridPoint
    edge: Edge | None  # where the best of several rates lies at an end of them


class Comparison(NamedTuple):
    """Two arms, each at its chosen rate: final test accuracies of `a` over `b`."""

    a: GridPoint
    b: GridPoint
    differences: statistics.PairedDifferences


class Selection:
    """An experiment's rows by arm and rate, and the best rate of each arm.

    Args:
      experiment: the records.
    """

    def __init__(self, experiment: Experiment) -> None:
        epochs = experiment.training.epochs
        self._points: dict[tuple[Arm, float], GridPoint] = {}
        for arm, rate, _ in sorted(experiment.runs, key=lambda run: run.learning_rate):
            self._points[arm, rate] = GridPoint(arm, rate, epochs, {})
        for row in experiment.rows:
            point = self._points[row.run.arm, row.run.learning_rate]
            point.runs.setdefault(row.run.seed, []).append(row.metrics)
        self.arms = list(dict.fromkeys(run.arm for run in experiment.runs))
        self.part: Part = "validation" if experiment.training.validation else "test"
        """What rates are chosen by, and what is known after every epoch."""

    def points(self, arm: Arm) -> list[GridPoint]:
        """The arm's whole grid, rates ascending."""
        return [point for point in self._points.values() if point.arm == arm]

    @functools.cached_property
    def diverged(self) -> set[Run]:
        """The runs that have."""
        return {
            Run(point.arm, point.learning_rate, seed)
            for point in self._points.values()
            for seed in point.diverged
        }

    @functools.cached_property
    def choices(self) -> dict[Arm, Choice]:
        """For each arm of which a run is finished, the rate with the best mean.

        The mean is that of the final accuracies of all seeds, on the held-out examples
        or, where there are none, on the test data.
        """
        choices = {}
        for arm in self.arms:
            grid = self.points(arm)
            means = {
                point.learning_rate: sum(final.values()) / len(final)
                for point in grid
                if (final := point.final(f"{self.part}_accuracy"))
            }
            if means:
                best = max(means, key=lambda rate: means[rate])
                point = self._points[arm, best]
                choices[arm] = Choice(
                    point, _edge(best, [p.learning_rate for p in grid])
                )
        return choices

    @functools.cached_property
    def comparisons(self) -> list[Comparison]:
        """Arms that differ in one thing, and each with the first arm.

        In this order: optimizers under each schedule, schedules of each optimizer, and
        what differs from the first arm in both.
        """
        pairs = list(itertools.combinations(self.arms, 2))
        schedules = dict.fromkeys(arm.schedule for arm in self.arms)
        optimizers = dict.fromkeys(arm.optimizer for arm in self.arms)
        ordered = [
            *(
                (b, a)
                for s in schedules
                for b, a in pairs
                if b.schedule == a.schedule == s
            ),
            *(
                (b, a)
                for o in optimizers
                for b, a in pairs
                if b.optimizer == a.optimizer == o
            ),
            *((b, a) for b, a in pairs if b == self.arms[0] and _differ_in_both(a, b)),
        ]
        return [
            self._compare(self.choices[a].point, self.choices[b].point)
            for b, a in ordered
            if a in self.choices and b in self.choices
        ]

    def _compare(self, a: GridPoint, b: GridPoint) -> Comparison:
        accuracies = (point.final("test_accuracy") for point in (a, b))
        return Comparison(a, b, statistics.paired_differences(*accuracies))


def _differ_in_both(a: Arm, b: Arm) -> bool:
    return a.optimizer != b.optimizer and a.schedule != b.schedule


def _edge(best: float, grid: list[float]) -> Edge | None:
    """Where in its ascending grid the best rate lies, if there is a choice at all."""
    if len(grid) == 1 or grid[0] < best < grid[-1]:
        return None
    return "lowest" if best == grid[0] else "highest"
