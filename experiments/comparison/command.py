"""A comparison from the command line: flags, and errors as a line and a status."""

import argparse
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from experiments.comparison import allocation
from experiments.comparison.config import ComparisonConfig, ConfigError, DataError
from experiments.comparison.interruption import Interrupted

if TYPE_CHECKING:  # --help and wrong flags need not wait for JAX
    from experiments.comparison.task import Task

C = TypeVar("C", bound=ComparisonConfig)


def run_flags(
    config_class: type[C],
    load_task: Callable[[C], "Task"],
    presets: Mapping[Any, C] = types.MappingProxyType({}),
) -> int:
    """`run` with the configuration that the flags on the command line describe.

    Args:
      config_class: whose fields are the flags.
      load_task: as in `run`.
      presets: configurations to begin with, by the value of --preset.
    """
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--preset")
    preset = before.parse_known_args()[0].preset
    prog = f"python -m {config_class.module}"
    if preset not in presets:  # tyro refuses an unknown one like any flag
        return run(tyro.cli(config_class, prog=prog), load_task)
    base = presets[preset]
    config = tyro.cli(config_class, prog=prog, default=base)
    return run(config, load_task, base=base)


def run(
    config: C,
    load_task: Callable[[C], "Task"],
    command: str | None = None,
    base: C | None = None,
) -> int:
    """`experiment.run_experiment` for a terminal.

    Args:
      config: what to run.
      load_task: reads or makes the data that the configuration names.
      command: what repeats it, if not the command line of `config`.
      base: the preset that the configuration began with.

    Returns:
      The exit status: 0, 1 if data or disk fail, 2 for a wrong flag, 130 on Ctrl-C,
      143 on SIGTERM. One of many processes may end with others: see `watching.watch`.
    """
    if not config.in_many_processes:
        return _run(config, load_task, command, base, lambda _: None)
    from experiments.comparison import watching

    if not watching.is_watched():
        return watching.watch(config.out_dir)
    return watching.as_child(
        config.out_dir, lambda tell: _run(config, load_task, command, base, tell)
    )


def _run(
    config: C,
    load_task: Callable[[C], "Task"],
    command: str | None,
    base: C | None,
    tell: Callable[[str], None],
) -> int:
    if config.deterministic:  # is read as JAX begins to use the device
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".lstrip()
    try:
        from experiments.comparison import experiment, processes, records

        allocation.keep_freed_memory()
        processes.initialize(config, tell)
        experiment.check(config)
        command = command or records.command_line(config, base)
        experiment.run_experiment(config, lambda: load_task(config), command, tell)
    except ConfigError as error:
        return fail(error, status=2)
    except (DataError, OSError) as error:
        return fail(error, status=1)
    except Interrupted as interrupted:
        kept = f"{interrupted}; --resume goes on where it stopped"
        return fail(kept, status=128 + interrupted.number)
    except KeyboardInterrupt:
        return fail("interrupted; the epochs finished before are kept", status=130)
    return 0


def fail(reason: object, *, status: int) -> int:
    """Says on one line what is wrong, and returns the exit status."""
    print(f"error: {reason}", file=sys.stderr)
    return status
