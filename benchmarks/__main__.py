"""`python -m benchmarks`: the tables of docs/performance.md, and a file to compare.

Prints the tables, and writes them, `results.json` and the figures into `--out`. The
short form takes under ten minutes on two cores; `--full` has more cases and rounds.
"""

import dataclasses
import os
import pathlib
import sys
import time
from typing import Literal, get_args

import tyro

from experiments import allocation

Part = Literal["update", "first-step", "eager", "training", "growth"]


@dataclasses.dataclass(frozen=True)
class Benchmarks:
    """What to measure.

    Attributes:
      out: the directory for tables.md, results.json and the figures.
      only: the parts to measure.
      full: more cases, and more rounds.
    """

    out: pathlib.Path = pathlib.Path("runs/bench")
    only: tuple[Part, ...] = get_args(Part)
    full: bool = False


def main(settings: Benchmarks) -> None:
    """Measures, and tells the progress on stderr."""
    if settings.out.exists() and not settings.out.is_dir():
        sys.exit(f"error: --out must be a directory, got the file {settings.out}.")
    # Before JAX starts: peers need room on a GPU, and each core is to be a device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    allocation.keep_freed_memory()  # as the experiment does; peers have it, too
    import jax

    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)

    from benchmarks import parts, results

    settings.out.mkdir(parents=True, exist_ok=True)
    sections = []
    for name in settings.only:
        start = time.perf_counter()
        for section in parts.PARTS[name](settings.full, settings.out):
            seconds = time.perf_counter() - start
            print(f"{section.title}: {seconds:.0f} s", file=sys.stderr, flush=True)
            sections.append(section)
            start = time.perf_counter()
    results.write(settings.out, sections)
    print(results.report(sections))


if __name__ == "__main__":
    main(tyro.cli(Benchmarks, description=__doc__))
