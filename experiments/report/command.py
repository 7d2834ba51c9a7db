"""`report RUN...`: redraws an experiment's report, or merges several experiments."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from experiments.config import ConfigError, DataError, Flags, check


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """Redraw the report of RUN from its records, or merge several into one report."""

    runs: Annotated[
        tuple[pathlib.Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")
    ]
    """Directories with the config.json and metrics.jsonl of an experiment."""
    out: pathlib.Path | None = None
    """Directory for the report. None: RUN itself, if there is only one."""
    overwrite: bool = False
    """Replace an earlier report in --out."""


def report_main(flags_class: type[Flags], arguments: Sequence[str]) -> int:
    """Writes the report that the words after `report` ask for.

    Returns the exit status: 0, 1 if records or disk fail, 2 for a wrong argument.
    """
    program = f"python -m {flags_class.module} report"
    flags = tyro.cli(ReportFlags, prog=program, args=arguments)
    try:
        _write_report(flags_class, flags)
    except (ConfigError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def _write_report(flags_class: type[Flags], flags: ReportFlags) -> None:
    out = _checked_out(flags)
    # --help and wrong flags need not wait for JAX.
    from experiments.records import CONFIG_FILE
    from experiments.report.pages import write_report
    from experiments.report.records import merge, read_experiment

    for path in (run / CONFIG_FILE for run in flags.runs):
        if not path.is_file():
            raise ConfigError(
                f"RUN must be an experiment's directory, got {path.parent}: "
                f"{path} is missing."
            )
    experiment = merge(
        [read_experiment(run, flags_class) for run in flags.runs],
        [str(run) for run in flags.runs],
    )
    if not experiment.rows:
        raise ConfigError("RUN has nothing to report: no epoch of any run is finished.")
    out.mkdir(parents=True, exist_ok=True)
    write_report(experiment, out)


def _checked_out(flags: ReportFlags) -> pathlib.Path:
    """The directory for the report; refuses it if in use, or one of those merged."""
    resolved = {run.resolve() for run in flags.runs}
    if not flags.runs or len(resolved) < len(flags.runs):
        got = " ".join(map(str, flags.runs)) or "none"
        raise ConfigError(f"RUN must be one directory or different ones, got {got}.")
    if flags.out is None:
        if len(flags.runs) > 1:
            raise ConfigError("--out is needed: where does the merged report go?")
        return flags.runs[0]
    out, files = flags.out, [*flags.out.iterdir()] if flags.out.is_dir() else []
    check("out", str(out), "a directory", out.is_dir() or not out.exists())
    allowed = "a new or an empty directory (--overwrite replaces the report in it)"
    check("out", str(out), allowed, flags.overwrite or not files)
    allowed = "another directory than those merged, whose reports stay"
    merged = len(flags.runs) > 1 and out.resolve() in resolved
    check("out", str(out), allowed, not merged)
    return out
