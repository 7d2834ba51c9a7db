"""The command line: `python -m experiments.cifar10 --help`."""

import sys

import tyro

from experiments.cifar10.config import Config


def main() -> int:
    """Runs the experiment that the flags describe; returns the exit status."""
    config = tyro.cli(Config, prog="python -m experiments.cifar10")
    # Imported here so that --help and wrong flags need not wait for JAX.
    from experiments.cifar10 import data, experiment

    try:
        experiment.run_experiment(config)
    except ValueError as error:
        return _fail(error, status=2)
    except (data.DataError, OSError) as error:
        return _fail(error, status=1)
    except KeyboardInterrupt:
        return _fail("interrupted; the epochs finished before are kept", status=130)
    return 0


def _fail(reason: object, *, status: int) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
