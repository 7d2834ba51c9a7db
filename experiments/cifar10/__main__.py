"""The command line: `python -m experiments.cifar10 --help`."""

import sys
from collections.abc import Sequence

import tyro

from experiments.cifar10.config import Arm, Config, ConfigError, DataError


def main() -> int:
    """Runs the experiment that the flags describe; returns the exit status."""
    return run(tyro.cli(Config, prog="python -m experiments.cifar10"))


def run(
    config: Config, arms: Sequence[Arm] | None = None, command: str | None = None
) -> int:
    """`experiment.run_experiment` for a terminal: errors are a line, and a status.

    Args:
      config: what to run.
      arms: which of its arms; all by default.
      command: what repeats it, if not the command line of `config`.

    Returns:
      The exit status: 0, 1 if data or disk fail, 2 for a wrong flag, 130 on Ctrl-C.
    """
    try:
        # Imported here so that --help and wrong flags need not wait for JAX.
        from experiments.cifar10 import experiment, records

        arms = config.arms if arms is None else arms
        experiment.check(config, arms)
        experiment.run_experiment(config, arms, command or records.command_line(config))
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


if __name__ == "__main__":
    sys.exit(main())
