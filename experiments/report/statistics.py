"""What differences between runs are worth: numbers in, numbers out.

Runs of one seed share initial weights, order of batches and dropout masks, so two arms
are compared by the differences within seeds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

CONFIDENCE = 0.95
POWER = 0.8
# Resampling fewer values than this yields intervals that are much too narrow.
BOOTSTRAP_FROM = 8
_RESAMPLES = 9999


class Summary(NamedTuple):
    """Values of several seeds."""

    n: int
    mean: float | None  # None of no values
    deviation: float | None  # standard, of the sample; None of fewer than two


class Interval(NamedTuple):
    """Bounds of a confidence interval."""

    low: float
    high: float


class Pair(NamedTuple):
    """What two arms reached with one seed."""

    seed: int
    a: float
    b: float

    @property
    def difference(self) -> float:
        """Of `a` over `b`."""
        return self.a - self.b


class PairedDifferences(NamedTuple):
    """What the seeds that two arms share say about them."""

    pairs: tuple[Pair, ...]  # by seed
    summary: Summary  # of the differences
    student: Interval | None  # of their mean; None of fewer than two
    bootstrap: Interval | None  # of their mean; None of fewer than `BOOTSTRAP_FROM`
    detectable: float | None  # None of fewer than two


class LossChanges(NamedTuple):
    """How much a loss varies from an epoch to the next."""

    late_mean: float  # up or down, in the second half: early on, all losses fall
    largest_rise: float  # 0 if it only falls


def summarize(values: Sequence[float]) -> Summary:
    """Number, mean and sample standard deviation."""
    n = len(values)
    return Summary(
        n,
        statistics.fmean(values) if n else None,
        statistics.stdev(values) if n > 1 else None,
    )


def paired_differences(
    a: Mapping[int, float], b: Mapping[int, float]
) -> PairedDifferences:
    """Compares two arms over the seeds that both have.

    Args:
      a: a value for each seed.
      b: the same, of the arm to be subtracted.
    """
    pairs = tuple(Pair(seed, a[seed], b[seed]) for seed in sorted(a.keys() & b.keys()))
    differences = [pair.difference for pair in pairs]
    summary = summarize(differences)
    student = detectable = None
    if summary.mean is not None and summary.deviation is not None:
        student = student_interval(summary.mean, summary.deviation, summary.n)
        detectable = detectable_difference(summary.deviation, summary.n)
    return PairedDifferences(
        pairs=pairs,
        summary=summary,
        student=student,
        bootstrap=(
            bootstrap_interval(differences) if summary.n >= BOOTSTRAP_FROM else None
        ),
        detectable=detectable,
    )


def student_interval(mean: float, deviation: float, n: int) -> Interval:
    """Student's confidence interval of a mean.

    Args:
      mean: of the sample.
      deviation: its standard deviation.
      n: its size, at least 2.
    """
    half = _student_quantile((1 + CONFIDENCE) / 2, n) * deviation / math.sqrt(n)
    return Interval(mean - half, mean + half)


def detectable_difference(deviation: float, n: int) -> float:
    """The smallest true mean that such samples would mostly have told from zero.

    At it, an interval of `CONFIDENCE` leaves zero out in a share `POWER` of all
    samples: `(t_0.975 + t_0.8) deviation / sqrt(n)`.

    Args:
      deviation: standard deviation of the sample.
      n: its size, at least 2.
    """
    quantiles = _student_quantile((1 + CONFIDENCE) / 2, n) + _student_quantile(POWER, n)
    return quantiles * deviation / math.sqrt(n)


def bootstrap_interval(values: Sequence[float]) -> Interval:
    """The percentile bootstrap's confidence interval of a mean, always the same one."""
    result = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    bounds = result.confidence_interval
    return Interval(float(bounds.low), float(bounds.high))


def loss_changes(losses: Sequence[float]) -> LossChanges | None:
    """How a loss changes from an epoch to the next.

    Args:
      losses: finite, of each epoch.

    Returns:
      None of fewer than two epochs.
    """
    if len(losses) < 2:
        return None
    changes = np.diff(losses)
    return LossChanges(
        late_mean=float(np.mean(np.abs(changes[len(changes) // 2 :]))),
        largest_rise=float(np.max(changes, initial=0.0)),
    )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Of one value at least."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(low), float(middle), float(high)


def _student_quantile(probability: float, n: int) -> float:
    return float(scipy.stats.t.ppf(probability, n - 1))
