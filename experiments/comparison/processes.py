"""What one process of many needs of the others, by JAX's distributed runtime."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.comparison.config import ComparisonConfig, ConfigError

# Of silence, after which a process is taken for dead; JAX then ends the others.
_HEARTBEAT_SECONDS = 30
_AGREE_SECONDS = 0.5
_AGREE_CALLS_LIMIT = 10_000

Arrays = tuple[np.ndarray[Any, Any], ...]


def initialize(config: ComparisonConfig, tell: Callable[[str], None]) -> None:
    """Joins the other processes, if there are any; before JAX uses a device.

    Args:
      config: says which they are.
      tell: is told the name of this one.

    Raises:
      ConfigError: if they are to be found and are not.
    """
    if not config.in_many_processes:
        return
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process_id,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        if not config.distributed:
            raise
        raise ConfigError(
            "--distributed must be started by what JAX knows, as Slurm's srun or Open "
            f"MPI's mpirun, which it did not find ({error}). Or name the processes: "
            "--coordinator HOST:PORT --processes N --process-id I."
        ) from error
    tell(name())


def name() -> str:
    """What to call this process."""
    return f"process {jax.process_index()} of {jax.process_count()}"


def is_first() -> bool:
    """Whether this process is the one that writes and talks."""
    return jax.process_index() == 0


def share(size: int) -> range:
    """The part of so many examples that this process reads."""
    bounds = [
        size * (jax.process_index() + end) // jax.process_count() for end in (0, 1)
    ]
    return range(*bounds)


def gather(size: int, part: Arrays) -> Arrays:
    """Puts together the parts that the processes have read.

    Args:
      size: of the whole.
      part: arrays of the examples of `share(size)`.

    Returns:
      The whole arrays, in every process.
    """
    if jax.process_count() == 1:
        return part
    # Equal sizes, as the exchange needs them: rows past the end of a part are dropped.
    rows = -(-size // jax.process_count())
    padded = [
        np.pad(array, [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1))
        for array in part
    ]
    lengths = multihost_utils.process_allgather(np.int32(len(part[0])))
    return tuple(
        np.concatenate([a[:n] for a, n in zip(parts, lengths, strict=True)])
        for parts in multihost_utils.process_allgather(padded)
    )


def from_first(number: int) -> int:
    """The number that process 0 calls this with."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def wait_for_all() -> None:
    """Returns when all have called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("wait_for_all")


def local(array: jax.Array) -> np.ndarray[Any, Any]:
    """The part of an array with an axis of runs that lies in this process."""
    if array.is_fully_replicated:
        return np.asarray(array)
    return np.concatenate([np.asarray(s.data) for s in array.addressable_shards])


def fetch(tree: Any) -> Any:
    """All of the arrays, in every process; they all must call it at the same point."""

    def whole(array: jax.Array) -> Any:
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(whole, tree)


class Decision(NamedTuple):
    """What all processes do after a call of the compiled steps."""

    save: bool
    signal_number: int  # of the signal to stop by, or 0: none


class Agreement:
    """Has all processes save, or stop, after the same call of the compiled steps.

    They exchange what they want about twice a second, after a number of calls that
    process 0 has told them the last time. A process alone always agrees with itself.
    """

    def __init__(self) -> None:
        self._calls = self._left = 1
        self._since = time.monotonic()

    def after_call(self, *, save: bool, signal_number: int, now: bool) -> Decision:
        """To be called by all processes after each call.

        Args:
          save: whether this process wants to save; that of process 0 counts.
          signal_number: of the signal that has come here, or 0; any process's counts.
          now: whether to agree after this call in any case; the same in all.
        """
        if jax.process_count() == 1:
            return Decision(save, signal_number)
        self._left -= 1
        if self._left and not now:
            return Decision(save=False, signal_number=0)
        seconds = max(time.monotonic() - self._since, 1e-3)
        calls = int((self._calls - self._left) * _AGREE_SECONDS / seconds)
        calls = min(max(calls, 1), _AGREE_CALLS_LIMIT)
        told = multihost_utils.process_allgather(
            np.array([save, signal_number, calls], np.int32)
        )
        self._calls = self._left = int(told[0, 2])
        self._since = time.monotonic()
        return Decision(bool(told[0, 0]), int(told[:, 1].max()))
