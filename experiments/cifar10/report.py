"""The command line: `python -m experiments.cifar10.report --help`."""

import sys

from experiments.cifar10.config import Config
from experiments.comparison import report_command

if __name__ == "__main__":
    sys.exit(report_command.run_flags(Config))
