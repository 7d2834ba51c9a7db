"""The command line of every experiment: flags, and errors as a line and a status."""

import argparse
import os
import shlex
import signal
import sys
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tyro

from experiments.config import ConfigError, DataError, Flags, Terminated

if TYPE_CHECKING:  # --help and wrong flags need not wait for JAX
    from experiments.train import Task


def main(
    flags_class: type[Flags],
    load_task: Callable[[Any], "Task"],
    presets: Mapping[Any, Flags] = types.MappingProxyType({}),
) -> int:
    """Runs what the command line says; `report RUN...` only redraws reports.

    Args:
      flags_class: of the experiment.
      load_task: reads or makes the data that the flags name.
      presets: flags to begin with, by the value of --preset.

    Returns:
      The exit status; see `run`.
    """
    if sys.argv[1:2] == ["report"]:
        from experiments.report.command import report_main

        return report_main(flags_class, sys.argv[2:])
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--preset")
    # tyro refuses an unknown one like any flag
    base = presets.get(before.parse_known_args()[0].preset)
    flags = tyro.cli(
        flags_class,
        prog=f"python -m {flags_class.module}",
        default=flags_class() if base is None else base,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return run(flags, load_task, base=base)


def run(
    flags: Flags,
    load_task: Callable[[Any], "Task"],
    *,
    command: str | None = None,
    base: Flags | None = None,
    max_devices: int | None = None,
) -> int:
    """Runs an experiment in a terminal.

    Args:
      flags: what to run.
      load_task: reads or makes the data that the flags name.
      command: what repeats it, if not the command line of `flags`.
      base: the preset that the flags began with.
      max_devices: the first so many are trained on. None: all.

    Returns:
      The exit status: 0, 1 if data or disk fail, 2 for a wrong flag, 130 on Ctrl-C,
      143 on SIGTERM.
    """
    # In many processes, JAX replaces this when they meet.
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        from experiments import allocation

        allocation.keep_freed_memory()
        from experiments import processes, records
        from experiments.run import run_experiment

        devices = processes.initialize(flags.session)[:max_devices]
        command = command or records.command_line(flags, base)
        run_experiment(flags, load_task, command, devices)
    except ConfigError as error:
        return fail(error, status=2)
    except (DataError, OSError) as error:
        return _end(error, fail(error, status=1))
    except KeyboardInterrupt as error:
        return _end(error, fail(_kept(flags, "Ctrl-C"), status=130))
    except Terminated:
        return fail(_kept(flags, "SIGTERM"), status=143)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _terminate(*_: Any) -> None:
    raise Terminated


def _end(error: BaseException, status: int) -> int:
    if getattr(error, "alone", False):
        os._exit(status)  # JAX would wait for the other processes, and they for it
    return status


def _kept(flags: Flags, reason: str) -> str:
    report = shlex.join(["python", "-m", flags.module, "report", str(flags.out)])
    return (
        f"stopped by {reason}; finished epochs are kept. --resume goes on after the "
        f"last checkpoint; {report} draws what there is."
    )


def fail(reason: object, *, status: int) -> int:
    """Says on one line what is wrong, and returns the exit status."""
    print(f"error: {reason}", file=sys.stderr)
    return status
