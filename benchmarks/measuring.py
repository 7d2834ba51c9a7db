"""Times ways of doing the same, one after the other, again and again.

Ways are interleaved, so that whatever else the machine does falls on all of them, and
each is compared with another of the same round: the ratio's median and quartiles are
over rounds.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

Way = Callable[
    [], float
]  # does it once or more, and returns the seconds that once took

_SHORTEST = 0.02  # seconds that a measurement lasts at least


class Spread(NamedTuple):
    """Median and quartiles over rounds."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """Of numbers, one from each round."""
    low, median, high = np.quantile(list(values), [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high))


def seconds(call: Callable[[], object]) -> float:
    """What the call takes; it waits for the device itself."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def repeated(run: Callable[[], object], wait: Callable[[], object]) -> Way:
    """A way that calls `run` so often that the clock is fine enough, and waits once.

    Args:
      run: does it once; may return before the device is done.
      wait: waits until the device is done.
    """

    def many(calls: int) -> float:
        def all_calls() -> None:
            for _ in range(calls):
                run()
            wait()

        return seconds(all_calls) / calls

    many(2)  # the first compiles, or allocates
    once = max(many(1), 1e-9)
    calls = max(1, round(_SHORTEST / once))
    return lambda: many(calls)


def interleave(ways: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(way())
    return times


def ratio(numerator: Iterable[float], denominator: Iterable[float]) -> Spread:
    """Of two ways, round by round."""
    return spread(n / d for n, d in zip(numerator, denominator, strict=True))
