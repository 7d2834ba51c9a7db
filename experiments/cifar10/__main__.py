"""The command line: `python -m experiments.cifar10 --help`."""

import sys

from experiments import main
from experiments.cifar10.config import Flags
from experiments.cifar10.presets import PRESETS

if __name__ == "__main__":
    sys.exit(main.main(Flags, PRESETS))
