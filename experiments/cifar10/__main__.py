"""The command line: `python -m experiments.cifar10 --help`."""

import sys
from typing import TYPE_CHECKING

from experiments.cifar10.config import Config
from experiments.cifar10.presets import PRESETS
from experiments.comparison import command

if TYPE_CHECKING:
    from experiments.comparison.task import Task


def load_task(config: Config) -> "Task":
    """`task.load`, imported late: --help and wrong flags need not wait for JAX."""
    from experiments.cifar10 import task

    return task.load(config)


def main() -> int:
    """Runs the experiment that the flags describe; returns the exit status."""
    return command.run_flags(Config, load_task, PRESETS)


if __name__ == "__main__":
    sys.exit(main())
