"""`python -m benchmarks.regressions results.json`: what moved since the baseline.

Compares the ratios of a fresh `python -m benchmarks` with those of
`benchmarks/baseline.json` and prints those that moved beyond the noise: their quartiles
do not overlap, and their medians differ by more than 15%. Ratios to a peer in the same
run mean the same on a faster machine, where times do not; but the baseline names the
machine and the versions that it is of, and a ratio of another kind of device, or to
another version of a peer, is another ratio.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Annotated, Any, NamedTuple

import tyro

from benchmarks.measuring import Spread
from experiments.records import write_whole

BASELINE = pathlib.Path(__file__).with_name("baseline.json")
_NOISE = 0.15

Key = tuple[str, str, str]  # table, case, way


class Move(NamedTuple):
    """A ratio before and now."""

    key: Key
    reference: str
    before: Spread
    now: Spread


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What to compare.

    Attributes:
      results: the results.json of a run of `python -m benchmarks`.
      accept: make its ratios the baseline instead.
    """

    results: Annotated[pathlib.Path, tyro.conf.Positional]
    accept: bool = False


def ratios(content: dict[str, Any]) -> dict[Key, tuple[str, Spread]]:
    """Reference and ratio of each row but the references' own."""
    return {
        (title, row["case"], row["way"]): (row["reference"], Spread(**row["ratio"]))
        for title, rows in content["tables"].items()
        for row in rows
        if row["way"] != row["reference"]
    }


def moved(before: dict[str, Any], now: dict[str, Any]) -> list[Move]:
    """Ratios of both that differ beyond the noise."""
    old, moves = ratios(before), []
    for key, (reference, new) in ratios(now).items():
        if key not in old or old[key][0] != reference:
            continue
        was = old[key][1]
        apart = new.low > was.high or new.high < was.low
        if apart and abs(new.median / was.median - 1) > _NOISE:
            moves.append(Move(key, reference, was, new))
    return moves


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    """What a baseline keeps."""
    tables = {
        title: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        for title, rows in content["tables"].items()
    }
    return {"environment": content["environment"], "tables": tables}


def read(path: pathlib.Path) -> dict[str, Any]:
    """Results or a baseline.

    Raises:
      ValueError: if there is none.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        ratios(content)
    except FileNotFoundError:
        raise ValueError(
            f"no results at {path}; make some: python -m benchmarks --out DIR"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} must be the results.json of `python -m benchmarks`: {error!r}"
        ) from error
    return content


def _told(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} - {spread.high:.2f})"


def report(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What moved, as Markdown, and what could not be compared."""
    lines = []
    for name, value in now["environment"].items():
        was = before["environment"].get(name, "none")
        if name != "date" and was != value:
            lines.append(f"{name}: {was} in the baseline, {value} now")
    moves = moved(before, now)
    if moves:
        lines.append("\n| | | | baseline | now | |\n|---|---|---|---:|---:|---|")
    for (title, case, way), reference, was, new in moves:
        word = "slower" if new.median > was.median else "faster"
        cells = (title, case, f"{way} / {reference}", _told(was), _told(new), word)
        lines.append("| " + " | ".join(cells) + " |")
    old, new_keys = set(ratios(before)), set(ratios(now))
    lines.append(
        f"\n{len(moves)} of {len(old & new_keys)} ratios moved beyond the noise; "
        f"{len(old - new_keys)} of the baseline were not measured now, and "
        f"{len(new_keys - old)} are not in it."
    )
    return "\n".join(lines)


def main(comparison: Comparison) -> None:
    """Prints the report, or replaces the baseline."""
    now = read(comparison.results)
    if comparison.accept:
        text = json.dumps(without_times(now), indent=1) + "\n"
        write_whole(BASELINE, lambda file: file.write(text.encode()))
        print(f"the ratios of {comparison.results} are the baseline now")
    else:
        print(report(read(BASELINE), now))


if __name__ == "__main__":
    try:
        main(tyro.cli(Comparison, description=__doc__))
    except ValueError as error:
        sys.exit(f"error: {error}")
