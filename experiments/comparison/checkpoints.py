"""States of groups of runs on disk, by Orbax: asynchronous, and whole or not there."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from experiments.comparison import files
from experiments.comparison.config import DataError
from experiments.comparison.states import GroupState, steps_made


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """The newest state of one group: its last weights, and the best where there are.

    Args:
      out_dir: of the experiment.
      group: number of the group in it.
    """

    def __init__(self, out_dir: pathlib.Path, group: int) -> None:
        self._path = out_dir.absolute() / files.CHECKPOINT_FOLDER / f"group-{group:04d}"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._path, options=options)

    def save(self, state: GroupState) -> None:
        """Begins to write a state; it may be donated as soon as this returns.

        Raises:
          OSError: if it cannot be written, or the one before could not.
        """
        step = steps_made(state)
        with self._errors():
            if not self._manager.save(step, args=ocp.args.StandardSave(state)):
                raise OSError("a newer one is there")

    def restore(self, like: GroupState) -> GroupState | None:
        """The newest state, or None if there is none.

        Args:
          like: a state of the same structure, shapes and types.

        Raises:
          DataError: if it cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            args: Any = ocp.args.StandardRestore(abstract)
            state: GroupState = self._manager.restore(step, args=args)
        except Exception as error:  # of many types, none of them documented
            reason = str(error).partition("\n")[0][:300]
            raise DataError(
                f"The checkpoint {self._path / str(step)} cannot be read: {reason}\n"
                "Nothing was deleted. Train anew into another --out, or restore it."
            ) from None
        return state

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Of writing; TensorStore reports a full disk as a ValueError."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0][:300]
            raise OSError(f"A checkpoint in {self._path} failed: {reason}") from error

    def __exit__(self, *_: object) -> None:
        with self._errors():
            self._manager.close()  # waits for what is being written
