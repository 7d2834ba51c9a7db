"""A comparison from the command line: flags, and errors as a line and a status."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import tyro

from experiments.comparison.config import ComparisonConfig, ConfigError, DataError

if TYPE_CHECKING:  # --help and wrong flags need not wait for JAX
    from experiments.comparison.task import Task

C = TypeVar("C", bound=ComparisonConfig)


def run_flags(config_class: type[C], load_task: Callable[[C], "Task"]) -> int:
    """`run` with the configuration that the flags on the command line describe."""
    config = tyro.cli(config_class, prog=f"python -m {config_class.module}")
    return run(config, load_task)


def run(config: C, load_task: Callable[[C], "Task"], command: str | None = None) -> int:
    """`experiment.run_experiment` for a terminal.

    Args:
      config: what to run.
      load_task: reads or makes the data that the configuration names.
      command: what repeats it, if not the command line of `config`.

    Returns:
      The exit status: 0, 1 if data or disk fail, 2 for a wrong flag, 130 on Ctrl-C.
    """
    try:
        from experiments.comparison import experiment, records

        experiment.check(config)
        command = command or records.command_line(config)
        experiment.run_experiment(config, lambda: load_task(config), command)
    except ConfigError as error:
        return _fail(error, status=2)
    except (DataError, OSError) as error:
        return _fail(error, status=1)
    except KeyboardInterrupt:
        return _fail("interrupted; the epochs finished before are kept", status=130)
    return 0


def _fail(reason: object, *, status: int) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return status
