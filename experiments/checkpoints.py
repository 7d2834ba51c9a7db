"""States of groups of runs on disk, by Orbax: whole or not there, with checksums."""

import contextlib
import logging
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from experiments.config import DataError

# Orbax's: pages for an error of its threads, which it also raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class _Manager(ocp.CheckpointManager):  # type: ignore[misc]
    def reached_preemption(self, step: int) -> bool:
        """Leaves JAX's count of steps to `processes.have_sigterm`.

        JAX stops all processes after the highest number that it was asked about, plus
        one. Orbax would ask about epochs.
        """
        return False


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """The newest state of one group.

    Args:
      path: of the group's folder.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, cleanup_tmp_directories=True
        )
        self._manager = _Manager(self._path, options=options)

    @property
    def epoch(self) -> int:
        """After which the newest state was saved; 0 if there is none."""
        return self._manager.latest_step() or 0

    def save(self, epoch: int, state: Any) -> None:
        """Begins to write a state, which may be donated as soon as this returns.

        Raises:
          OSError: if it cannot be written, or the one before could not.
        """
        args: Any = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            checksums=ocp.args.JsonSave(_checksums(state)),
        )
        with self._errors():
            if not self._manager.save(epoch, args=args):
                raise OSError("a newer one is there")

    def restore(self, like: Any) -> Any:
        """The newest state.

        Args:
          like: a state of the same structure, shapes, types and shardings.

        Raises:
          DataError: if it cannot be read, or is not what was written.
        """
        where = self._path / str(self.epoch)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args: Any = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), checksums=ocp.args.JsonRestore()
        )
        # If an array fails, TensorStore prints tracebacks about the others, even later.
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            restored = self._manager.restore(self.epoch, args=args)
            sound = _checksums(restored.state) == restored.checksums
        except Exception as error:  # of many types, none of them documented
            raise _damaged(where, str(error)) from None
        if not sound:
            raise _damaged(where, "its arrays are not those that were saved")
        sys.unraisablehook = hook
        return restored.state

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of writing; TensorStore reports a full disk as a ValueError."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0][:300]
            raise OSError(f"A checkpoint in {self._path} failed: {reason}") from error

    def __exit__(self, *_: object) -> None:
        with self._errors():
            self._manager.close()  # waits for what is being written


def _damaged(where: pathlib.Path, reason: str) -> DataError:
    return DataError(
        f"The checkpoint {where} cannot be read: {reason.partition(chr(10))[0][:300]}\n"
        "Nothing was deleted. Train again into another --out, or restore it."
    )


def _checksums(state: Any) -> dict[str, int]:
    """A number for each array, which every flipped bit changes."""
    leaves = jax.tree.leaves_with_path(state)
    mesh = leaves[0][1].sharding.mesh
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    sums = jax.jit(_sums, out_shardings=everywhere)([leaf for _, leaf in leaves])
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    return {name: int(x) for name, x in zip(names, sums, strict=True)}


def _sums(arrays: list[jax.Array]) -> list[jax.Array]:
    """Each byte times an odd number, modulo 2**32: the same on any devices."""

    def of_array(x: jax.Array) -> jax.Array:
        octets = jax.lax.bitcast_convert_type(x, jnp.uint8).ravel()
        weights = 2 * jnp.arange(octets.size, dtype=jnp.uint32) + 1
        return jnp.sum(octets.astype(jnp.uint32) * weights, dtype=jnp.uint32)

    return [*map(of_array, arrays)]
