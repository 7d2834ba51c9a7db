"""Redraws the report of an experiment, or of several as one, from the command line."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated

import tyro

from experiments.comparison import command, files
from experiments.comparison.config import ComparisonConfig, ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """Redraw the report of RUN from its records, or merge several into one report."""

    runs: Annotated[
        tuple[pathlib.Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")
    ]
    """Directories with the config.json and metrics.jsonl of an experiment."""
    out: pathlib.Path | None = None
    """Directory for the report. None: RUN itself, if there is but one."""
    overwrite: bool = False
    """Replace an earlier report in --out."""


def run_flags(
    config_class: type[ComparisonConfig], arguments: Sequence[str] | None = None
) -> int:
    """Writes the report that the flags on the command line ask for.

    Args:
      config_class: of the comparison that was run.
      arguments: the command line's. None: those of this process.

    Returns:
      The exit status: 0, 1 if records are damaged or the disk fails, 2 for a wrong
      argument.
    """
    flags = tyro.cli(
        ReportFlags, prog=f"python -m {config_class.module}.report", args=arguments
    )
    try:
        _write_report(config_class, flags)
    except ConfigError as error:
        return command.fail(error, status=2)
    except (DataError, OSError) as error:
        return command.fail(error, status=1)
    return 0


def _write_report(config_class: type[ComparisonConfig], flags: ReportFlags) -> None:
    """Reads, merges and writes.

    Raises:
      ConfigError: if directories are missing, taken or cannot be merged.
      DataError: if records are damaged.
      OSError: if the report cannot be written.
    """
    _check(flags)
    # --help and wrong flags need not wait for JAX.
    from experiments.comparison import merging, records, report

    for run in flags.runs:
        if not (run / files.CONFIG_FILE).is_file():
            raise ConfigError(
                f"RUN must be an experiment's directory, got {run}: "
                f"{run / files.CONFIG_FILE} is missing."
            )
    experiment = merging.merge(
        [records.read_experiment(run, config_class) for run in flags.runs],
        [str(run) for run in flags.runs],
    )
    if not experiment.rows:
        raise ConfigError(
            "There is nothing to report: no epoch of any run is finished."
        )
    out = flags.out or flags.runs[0]
    out.mkdir(parents=True, exist_ok=True)
    report.write_report(experiment, out)
    print(f"Report: {out / files.REPORT_FILE}")


def _check(flags: ReportFlags) -> None:
    if not flags.runs:
        raise ConfigError("RUN must be one directory at least, got none.")
    if len({run.resolve() for run in flags.runs}) < len(flags.runs):
        raise ConfigError("RUN must not repeat a directory.")
    out = flags.out
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out must be a directory, got the file {out}.")
    if out is not None and out.is_dir() and any(out.iterdir()) and not flags.overwrite:
        raise ConfigError(
            f"--out must be a new or an empty directory, got {out}, which has files in "
            "it. Name another, or replace the report in it with --overwrite."
        )
    if len(flags.runs) > 1:
        if out is None:
            raise ConfigError("--out is needed: where does the merged report go?")
        if out.resolve() in {run.resolve() for run in flags.runs}:
            raise ConfigError(
                f"--out must be another directory than those merged, got {out}, "
                "whose own report it would replace."
            )
