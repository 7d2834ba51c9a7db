"""Several processes as one: they meet, compare what they do, and stop together."""

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.config import ConfigError, DataError, Session

_START_SECONDS = 60.0
_HEARTBEAT_SECONDS = 30  # of silence, after which JAX ends the other processes


def initialize(session: Session) -> list[jax.Device]:
    """Joins the other processes, if there are any, and returns the devices of all.

    Where they do not meet within a minute, it prints why and ends this process with
    status 2: JAX itself would wait for five minutes and abort without a cause.

    Raises:
      ConfigError: if they cannot be found, or the port is taken.
    """
    if session.in_many_processes:
        _join(session)
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error) or "JAX finds no such device"
        raise ConfigError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')} cannot be used: {reason}"
        ) from error


def _join(session: Session) -> None:
    if session.coordinator is not None and session.process_id == 0:
        _check_port(session.coordinator)
    jax.config.update("jax_enable_preemption_service", True)
    late = threading.Timer(_START_SECONDS, _end_late, [session])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            session.coordinator,
            session.processes,
            session.process_id,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        if session.distributed:
            raise ConfigError(
                "--distributed must be started by what JAX knows, as Slurm's srun or "
                f"Open MPI's mpirun, which it did not find ({error}). Or name the "
                "processes: --coordinator HOST:PORT --processes N --process-id I."
            ) from error
        raise ConfigError(
            f"--coordinator {session.coordinator} cannot be used: {error}"
        ) from error
    finally:
        late.cancel()


def _check_port(coordinator: str) -> None:
    """Refuses a port that is taken, where jaxlib would end by SIGSEGV."""
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ConfigError(
            f"--coordinator {coordinator} cannot be used: port {port} of process 0 is "
            f"taken ({error}). Name another."
        ) from error


def _end_late(session: Session) -> None:
    print(
        f"error: the processes have not met within {_START_SECONDS:.0f} s. Is "
        f"--coordinator {session.coordinator} the address of process 0, are all "
        f"{session.processes or ''} processes started, each with a --process-id of its "
        f"own (this one has {session.process_id})?",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)  # the main thread waits in JAX


def is_first() -> bool:
    """True in process 0, which writes and talks."""
    return jax.process_index() == 0


def _meet(word: str) -> list[str]:
    """The words of all processes, in each of them."""
    if jax.process_count() == 1:
        return [word]
    mine = np.frombuffer(word.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(mine)))
    padded = np.zeros(max(lengths) + 1, np.uint8)
    padded[: len(mine)] = mine
    rows = multihost_utils.process_allgather(padded)
    return [bytes(r[:n]).decode() for r, n in zip(rows, lengths, strict=True)]


def compare(**facts: Any) -> None:
    """Refuses processes that have been told different things.

    Args:
      **facts: names and JSON values, which must be the same in all processes.

    Raises:
      ConfigError: in all of them, with the first difference.
    """
    first, *others = (json.loads(word) for word in _meet(json.dumps(facts)))
    for number, other in enumerate(others, start=1):
        for name in first:
            if repr(first[name]) != repr(other[name]):
                raise ConfigError(
                    f"All processes must be started alike, but {name} is "
                    f"{first[name]!r} in process 0 and {other[name]!r} in process "
                    f"{number}."
                )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Has all processes end where one of them meets an error in the block.

    Raises:
      ConfigError: where another one has met it.
    """
    caught: Exception | None = None
    try:
        yield
    except (ConfigError, DataError, OSError) as error:
        caught = error
    words = _meet("" if caught is None else str(caught))
    if caught is not None:
        raise caught
    for number, word in enumerate(words):
        if word:
            raise ConfigError(f"process {number} cannot go on: {word}")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Marks errors in the block, which other processes do not learn of, as `alone`."""
    try:
        yield
    except (DataError, OSError, KeyboardInterrupt) as error:
        error.alone = jax.process_count() > 1  # type: ignore[union-attr]
        raise


def first_says(answer: bool) -> bool:
    """The answer of process 0."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(answer)))


def have_sigterm(step: int) -> bool:
    """True if all processes stop after this step, since SIGTERM has come to one.

    Args:
      step: counted up by all of them in every step.
    """
    if jax.process_count() == 1:
        return False
    return multihost_utils.reached_preemption_sync_point(step)
