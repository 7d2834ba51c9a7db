"""The command line: `python -m experiments.cifar10 --help`."""

import sys
from typing import TYPE_CHECKING

from experiments import main
from experiments.cifar10.config import Flags
from experiments.cifar10.presets import PRESETS

if TYPE_CHECKING:
    from experiments.train import Task


def load(flags: Flags) -> "Task":
    """`data.load`, imported late: --help and wrong flags need not wait for JAX."""
    from experiments.cifar10 import data

    return data.load(flags)


if __name__ == "__main__":
    sys.exit(main.main(Flags, load, PRESETS))
