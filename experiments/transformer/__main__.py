"""The command line: `python -m experiments.transformer --help`."""

import sys
from typing import TYPE_CHECKING

from experiments.comparison import command
from experiments.transformer.config import Config

if TYPE_CHECKING:
    from experiments.comparison.task import Task


def load_task(config: Config) -> "Task":
    """`task.make`, imported late: --help and wrong flags need not wait for JAX."""
    from experiments.transformer import task

    return task.make()


def main() -> int:
    """Runs the experiment that the flags describe; returns the exit status."""
    return command.run_flags(Config, load_task)


if __name__ == "__main__":
    sys.exit(main())
