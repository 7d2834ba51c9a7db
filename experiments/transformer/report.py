"""The command line: `python -m experiments.transformer.report --help`."""

import sys

from experiments.comparison import report_command
from experiments.transformer.config import Config

if __name__ == "__main__":
    sys.exit(report_command.run_flags(Config))
