"""Times several ways of doing the same, and compares them round by round.

Ways are interleaved, so that other load on the machine affects all of them alike. Each
is compared with another of the same round: the ratio's median and quartiles are over
rounds.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import pandas as pd

Way = Callable[[], float]  # runs once or more; returns the seconds per run

_SHORTEST = 0.02  # seconds of a measurement, at least
_QUANTILES = {"": 0.5, " low": 0.25, " high": 0.75}


def seconds(call: Callable[[], object]) -> float:
    """Duration of a call, which waits for the device itself."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def repeated(run: Callable[[], object], wait: Callable[[], object]) -> Way:
    """A way that calls `run` often enough for the clock, then `wait` once.

    `run` may return before the device is done, and `wait` waits for it.
    """

    def many(calls: int) -> float:
        def all_calls() -> None:
            for _ in range(calls):
                run()
            wait()

        return seconds(all_calls) / calls

    many(2)  # the first compiles, or allocates
    calls = max(1, round(_SHORTEST / max(many(1), 1e-9)))
    return lambda: many(calls)


def iterated(step: Callable[..., Any], carry: Any, *arguments: Any) -> Way:
    """A way that replaces `carry`, arrays of JAX, by `step(carry, *arguments)`."""

    def run() -> None:
        nonlocal carry
        carry = step(carry, *arguments)

    return repeated(run, lambda: jax.block_until_ready(carry))


def interleave(ways: Mapping[Any, Way], rounds: int) -> pd.DataFrame:
    """Seconds of each way (columns) in each round (rows)."""
    times = [[way() for way in ways.values()] for _ in range(rounds)]
    return pd.DataFrame(times, columns=pd.Index([*ways]))


def summary(times: pd.DataFrame, reference: Hashable) -> pd.DataFrame:
    """Medians and quartiles of each way's seconds, and of its ratio to a reference."""
    ratios = times.div(times[reference], axis=0)
    return pd.DataFrame(
        {
            name + of: frame.quantile(quantile)
            for name, frame in (("seconds", times), ("ratio", ratios))
            for of, quantile in _QUANTILES.items()
        }
    )


def section(title: str, note: str, found: Mapping[str, pd.DataFrame]) -> str:
    """Markdown table of summaries by case; a case may have more columns."""
    rows = pd.concat(found, names=["case", "way"]).reset_index()
    cells = pd.DataFrame(
        {
            "case": rows["case"].mask(rows["case"].duplicated(), ""),
            "way": rows["way"],
            "time": rows["seconds"].map(duration),
            "ratio (quartiles)": [
                f"{row['ratio']:.2f} ({row['ratio low']:.2f}-{row['ratio high']:.2f})"
                for _, row in rows.iterrows()
            ],
        }
    )
    for name in rows.columns[2 + 2 * len(_QUANTILES) :]:
        cells[name] = rows[name].map(_three_figures, na_action="ignore").fillna("")
    return f"## {title}\n\n{note}\n\n{cells.to_markdown(index=False)}\n"


def _three_figures(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def duration(seconds: float) -> str:
    """Seconds, in the unit that gives them three figures."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.9995 * size:  # which is rounded to 1
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
