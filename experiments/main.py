"""Command line of every experiment: flags, error messages and exit statuses."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from typing import Any

import tyro

from experiments.config import ConfigError, DataError, Flags, Terminated, flag_name

_STATUS = {ConfigError: 2, KeyboardInterrupt: 130, Terminated: 143}


def main(flags_class: type[Flags], presets: Mapping[Any, Flags] | None = None) -> int:
    """Runs the command line, and returns the exit status.

    `presets` has the flags to begin with, by the value of --preset.
    """
    arguments = sys.argv[1:]
    if arguments[:1] == ["report"]:
        from experiments.report.command import report_main

        return report_main(flags_class, arguments[1:])
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--preset")
    preset = before.parse_known_args(arguments)[0].preset
    flags = tyro.cli(
        flags_class,
        prog=f"python -m {flags_class.module}",
        default=(presets or {}).get(preset, flags_class()),  # refuses an unknown one
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return run(flags, command_line(flags, arguments))


def command_line(flags: Flags, arguments: list[str]) -> str:
    """The typed command without the session's flags; `DIR` stands for --data-dir's."""
    session = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for field in vars(flags.session):
        session.add_argument(flag_name(field), f"--{field}", dest=field, nargs="?")
    typed, rest = session.parse_known_args(arguments)
    data = ["--data-dir", "DIR"] if getattr(typed, "data_dir", None) else []
    return shlex.join(["python", "-m", flags.module, *rest, *data])


def run(flags: Flags, command: str, max_devices: int | None = None) -> int:
    """Runs an experiment, on the first `max_devices`, in a terminal.

    Returns the exit status: 0, 1 if data or disk fail, 2 for a wrong flag, 130 on
    Ctrl-C, 143 on SIGTERM. `command`, which repeats the experiment, is recorded.
    """
    # In many processes, JAX replaces this when they meet.
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        # --help and wrong flags need not wait for JAX.
        from experiments import allocation, processes
        from experiments.run import run_experiment

        allocation.keep_freed_memory()
        devices = processes.initialize(flags.session)[:max_devices]
        run_experiment(flags, command, devices)
    except (DataError, OSError, *_STATUS) as error:
        status = _STATUS.get(type(error), 1)
        report = shlex.join(["python", "-m", flags.module, "report", str(flags.out)])
        stopped = (
            f"stopped by {'Ctrl-C' if status == 130 else 'SIGTERM'}; finished epochs "
            "are kept. --resume goes on after the last checkpoint; "
            f"{report} draws what there is."
        )
        print(f"error: {str(error) or stopped}", file=sys.stderr)
        several = flags.session.distributed or flags.session.processes
        if several and not getattr(error, "everywhere", False):
            os._exit(status)  # without it, JAX waits for the other processes
        return status
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _terminate(*_: Any) -> None:
    raise Terminated
