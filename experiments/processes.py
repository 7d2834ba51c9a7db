"""Several processes as one: they meet, compare settings, and stop together."""

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

from experiments.config import ConfigError, DataError, Session, differences

_START_SECONDS = 60.0
_HEARTBEAT_SECONDS = 30  # of silence, after which JAX ends the other processes


def initialize(session: Session) -> list[jax.Device]:
    """Joins the other processes, if there are any, and returns the devices of all.

    If they do not meet within a minute, prints why and ends this process with status 2:
    JAX itself would wait for five minutes and abort without giving a reason.
    """
    if session.distributed or session.coordinator is not None:
        _join(session)
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error) or "JAX finds no such device"
        raise ConfigError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')} cannot be used: {reason}"
        ) from error


def _join(session: Session) -> None:
    jax.config.update("jax_enable_preemption_service", True)
    late = threading.Timer(_START_SECONDS, _end_late, [session])
    late.daemon = True
    late.start()
    try:
        if session.coordinator is not None and session.process_id == 0:
            # If the port is in use, jaxlib would die of SIGSEGV.
            port = int(session.coordinator.rpartition(":")[2])
            socket.create_server(("", port)).close()
        jax.distributed.initialize(
            session.coordinator,
            session.processes,
            session.process_id,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"--coordinator {session.coordinator} cannot be used: {error}"
            if session.coordinator
            else "--distributed must be started by what JAX knows, as Slurm's srun or "
            f"Open MPI's mpirun, which it did not find ({error}). Or name the "
            "processes: --coordinator HOST:PORT --processes N --process-id I."
        ) from error
    finally:
        late.cancel()


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


@contextlib.contextmanager
def together() -> Iterator[dict[str, Any]]:
    """Stops all processes if one raises an error in the block, or if they differ.

    Yields a dictionary for facts: JSON values that must be the same in all processes.
    """
    facts: dict[str, Any] = {}
    caught: Exception | None = None
    try:
        yield facts
    except (ConfigError, DataError, OSError) as error:
        caught = error
    words = _gather([str(caught or ""), facts])
    if caught is not None:
        caught.everywhere = True  # type: ignore[attr-defined] # so `main` need not hurry
        raise caught
    for number, (reason, others) in enumerate(words):
        for name, there, here in differences(words[0][1], others):
            if name in words[0][1] and name in others:  # not if one raised an error
                raise ConfigError(
                    f"All processes must be started alike, but {name} is {there!r} in "
                    f"process 0 and {here!r} in process {number}."
                )
        if reason:
            raise ConfigError(f"process {number} cannot go on: {reason}")


def _gather(fact: Any) -> list[Any]:
    """Collects the JSON values of all processes in each of them."""
    if jax.process_count() == 1:
        return [fact]
    mine = np.frombuffer(json.dumps(fact).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(mine)))
    rows = multihost_utils.process_allgather(np.resize(mine, max(lengths)))
    pairs = zip(rows, lengths, strict=True)
    return [json.loads(bytes(row[:length])) for row, length in pairs]


def have_sigterm(step: int) -> bool:
    """Returns True if all processes stop after this step, because of a SIGTERM to one.

    All of them must call it with the same `step`, in every step.
    """
    several = jax.process_count() > 1
    return several and multihost_utils.reached_preemption_sync_point(step)
