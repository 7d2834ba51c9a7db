"""Checkpoints of groups of runs, by Orbax: complete or absent, with checksums."""

import contextlib
import logging
import pathlib
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import save_decision_policy

from experiments.config import DataError

# Orbax's: pages for an error of its threads, which it also raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def newest(path: pathlib.Path) -> int:
    """The epoch of the newest state in a group's folder; 0 if there is none."""
    names = [p.name for p in path.iterdir()] if path.exists() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


class Checkpoints(ocp.CheckpointManager):  # type: ignore[misc]
    """The newest state of one group, in a folder of its own.

    No other is written until it is `seconds` old, by process 0's clock.
    """

    def __init__(self, path: pathlib.Path, seconds: float) -> None:
        policy = save_decision_policy.ContinuousCheckpointingPolicy(
            minimum_interval_secs=seconds
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            cleanup_tmp_directories=True,
            save_decision_policy=policy,
            enable_should_save_is_saving_in_progress_check=False,
        )
        super().__init__(path.absolute(), options=options)

    def reached_preemption(self, step: int) -> bool:
        """Leaves JAX's count of steps to `processes.have_sigterm`.

        JAX stops all processes one step after the highest step that it was asked about.
        Orbax would ask about epochs.
        """
        return False

    def save_state(self, epoch: int, state: Any, *, last: bool) -> None:
        """Begins to write a state, which may be donated as soon as this returns."""
        with self._errors():
            if last or self.should_save(epoch):
                args: Any = ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    checksums=ocp.args.JsonSave(_checksums(state)),
                )
                self.save(epoch, args=args, force=True)

    def restore_state(self, epoch: int, like: Any) -> Any:
        """Reads the state after an epoch, with another's structure, types, shardings.

        Raises a `DataError` if it cannot be read, or differs from what was written.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args: Any = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), checksums=ocp.args.JsonRestore()
        )
        # If an array fails, TensorStore prints tracebacks about the others, even later.
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            restored = self.restore(epoch, args=args)
            if _checksums(restored.state) != restored.checksums:
                raise ValueError("its arrays are not those that were saved")
        except Exception as error:  # of many types, none of them documented
            raise DataError(
                f"The checkpoint {self.directory / str(epoch)} cannot be read: "
                f"{str(error).partition(chr(10))[0][:300]}\nNothing was deleted. "
                "Train again into another --out, or restore it."
            ) from None
        sys.unraisablehook = hook
        return restored.state

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of writing; TensorStore reports a full disk as a ValueError."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0][:300]
            raise OSError(
                f"A checkpoint in {self.directory} failed: {reason}"
            ) from error

    def close(self) -> None:
        """Waits for what is being written."""
        with self._errors():
            super().close()


def _checksums(state: Any) -> dict[str, int]:
    """A checksum for each array, which changes with every flipped bit."""
    whole = multihost_utils.process_allgather(state, tiled=True)
    return {
        jax.tree_util.keystr(path): zlib.crc32(array.tobytes())
        for path, array in jax.tree.leaves_with_path(whole)
    }
