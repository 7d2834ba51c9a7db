"""What a benchmark found: rows for a table to read and a file to compare."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from benchmarks.measuring import Spread, ratio, spread
from experiments.records import write_whole

_PACKAGES = (
    "optax_radam",
    "jax",
    "jaxlib",
    "optax",
    "flax",
    "numpy",
    "torch",
    "keras",
    "tensorflow-cpu",
    "tensorflow",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One way in one case.

    Attributes:
      case: what is done: the tree, the model, the number of runs.
      way: by what.
      seconds: that it takes once.
      ratio: of its seconds to those of the case's reference, in the same rounds.
      reference: the way that the ratio is to.
    """

    case: str
    way: str
    seconds: Spread
    ratio: Spread
    reference: str


@dataclasses.dataclass(frozen=True)
class Page:
    """What is told in words and figures alone, and is the same on any machine.

    Attributes:
      title: of the section.
      text: Markdown.
    """

    title: str
    text: str

    def markdown(self) -> str:
        """The section."""
        return f"## {self.title}\n\n{self.text}\n"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows on one subject.

    Attributes:
      title: of the table, and its name in the file.
      note: what a reader must know to read it.
      rows: cases in order, the ways of each together.
      columns: more cells for each row, by column and (case, way).
    """

    title: str
    note: str
    rows: Sequence[Row]
    columns: Mapping[str, Mapping[tuple[str, str], str]] = dataclasses.field(
        default_factory=dict
    )

    def markdown(self) -> str:
        """The section."""
        heads = ["", "", "time", "quartiles", "ratio", "quartiles", *self.columns]
        lines = [
            f"## {self.title}\n\n{self.note}\n",
            "| " + " | ".join(heads) + " |",
            "|---|---|" + "---:|" * (len(heads) - 2),
        ]
        case = None
        for row in self.rows:
            cells = [
                "" if row.case == case else row.case,
                row.way,
                duration(row.seconds.median),
                f"{duration(row.seconds.low)} - {duration(row.seconds.high)}",
                f"{row.ratio.median:.2f}",
                f"{row.ratio.low:.2f} - {row.ratio.high:.2f}",
                *(
                    cells.get((row.case, row.way), "")
                    for cells in self.columns.values()
                ),
            ]
            lines.append("| " + " | ".join(cells) + " |")
            case = row.case
        return "\n".join(lines) + "\n"


def rows(case: str, times: Mapping[str, Sequence[float]], reference: str) -> list[Row]:
    """One row for each way of `interleave`."""
    return [
        Row(case, way, spread(values), ratio(values, times[reference]), reference)
        for way, values in times.items()
    ]


def environment() -> dict[str, str]:
    """Machine and versions, for the head of a report."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        **found,
    }


def duration(seconds: float) -> str:
    """In the unit that gives it three figures."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def report(sections: Sequence[Table | Page]) -> str:
    """Environment and sections, as Markdown."""
    head = ", ".join(f"{name} {value}" for name, value in environment().items())
    texts = [section.markdown() for section in sections]
    return "\n".join([f"# Benchmarks\n\n{head}\n", *texts])


def write(directory: pathlib.Path, sections: Sequence[Table | Page]) -> None:
    """Writes `tables.md`, and `results.json` with the rows of the tables."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "environment": environment(),
        "tables": {
            section.title: [_record(row) for row in section.rows]
            for section in sections
            if isinstance(section, Table)
        },
    }
    text = json.dumps(content, indent=1) + "\n"
    write_whole(directory / "results.json", lambda f: f.write(text.encode()))
    page = report(sections)
    write_whole(directory / "tables.md", lambda f: f.write(page.encode()))


def _record(row: Row) -> dict[str, Any]:
    record = dataclasses.asdict(row)
    record["seconds"], record["ratio"] = row.seconds._asdict(), row.ratio._asdict()
    return record
