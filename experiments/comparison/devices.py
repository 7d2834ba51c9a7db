"""The devices that a comparison trains on, and what lies on which of them.

They form a mesh of one axis. A group of runs that they divide is shared out: each
device trains runs of its own, and nothing passes between them. Otherwise each device
takes its share of every batch: the compiler divides the step, as one program for all of
them, so that order of batches, dropout masks and BatchNorm are those of one device; and
weights and optimizer states are the same everywhere.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.comparison import population
from experiments.comparison.config import ComparisonConfig, ConfigError

AXIS = "data"

T = TypeVar("T")


class Devices:
    """A mesh, and what belongs where on it.

    Args:
      config: of the comparison; has `mesh`.

    Raises:
      ConfigError: if there are not so many devices, or they do not divide the batches
        or the groups of runs.
    """

    def __init__(self, config: ComparisonConfig) -> None:
        self.mesh = Mesh(np.array(_chosen(config)), AXIS, axis_types=(AxisType.Auto,))
        self._everywhere = NamedSharding(self.mesh, PartitionSpec())
        self._shared_out = NamedSharding(self.mesh, PartitionSpec(AXIS))
        self._check_division(config)

    def padded(self, batch_size: int) -> int:
        """The next size of a batch that the devices divide."""
        return -(-batch_size // self.mesh.size) * self.mesh.size

    def put(self, tree: T) -> T:
        """Arrays of the host, on every device."""
        placed: T = jax.tree.map(lambda array: _put(array, self._everywhere), tree)
        return placed

    def put_runs(self, array: np.ndarray[Any, Any]) -> jax.Array:
        """An array of the host with an axis of runs, as groups lie."""
        return _put(array, self._of_runs(len(array)))

    def over_runs(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Maps over the leading axis of all arguments but the first.

        Args:
          function: from what all runs share, and one run's arguments.

        Returns:
          A function, to be compiled, of the same arguments with an axis of runs in all
          but the first, and in what it returns.
        """

        def mapped(common: Any, *of_runs: Any) -> Any:
            return population.over_runs(lambda *one: function(common, *one))(*of_runs)

        def on_devices(common: Any, *of_runs: Any) -> Any:
            sharding = self._of_runs(len(jax.tree.leaves(of_runs)[0]))
            if sharding is self._everywhere:
                with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                    results = mapped(common, *of_runs)
                return jax.lax.with_sharding_constraint(results, sharding)
            return jax.shard_map(
                mapped,
                mesh=self.mesh,
                in_specs=(PartitionSpec(), *[sharding.spec] * len(of_runs)),
                out_specs=sharding.spec,
                check_vma=False,  # nothing passes between the devices
            )(common, *of_runs)

        return on_devices

    def _of_runs(self, runs: int) -> NamedSharding:
        return self._everywhere if runs % self.mesh.size else self._shared_out

    def _check_division(self, config: ComparisonConfig) -> None:
        count = self.mesh.size
        if config.population > 1 and config.population % count:
            raise ConfigError(
                f"--population must be 1 or a multiple of {count}, the devices to "
                f"train on, got {config.population}. Fewer devices: --mesh {AXIS}=N."
            )
        alone = [len(group) for group in config.groups() if len(group) % count]
        if alone and config.batch_size % count:
            raise ConfigError(
                f"--batch-size must be a multiple of {count}, the devices to train on, "
                f"which share the batches of {min(alone)} runs at once, got "
                f"{config.batch_size}. Fewer devices: --mesh {AXIS}=N."
            )


def _chosen(config: ComparisonConfig) -> list[jax.Device]:
    """The first devices of each process, as many of one as of the other."""
    if config.mesh is None:
        return jax.devices()
    wanted, processes = int(config.mesh.partition("=")[2]), jax.process_count()
    chosen = [
        device
        for process in range(processes)
        for device in jax.local_devices(process)[: wanted // processes]
    ]
    if len(chosen) != wanted:
        raise ConfigError(
            f"--mesh must be {AXIS}=N with N at most {jax.device_count()}, the devices "
            f"there are, and a multiple of {processes}, the processes that they belong "
            f"to, got {config.mesh}."
        )
    return chosen


def _put(array: np.ndarray[Any, Any], sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def share_batches() -> bool:
    """Whether what is being traced is divided among devices by the compiler."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return types.get(AXIS) == AxisType.Auto


def share_out(batch: jax.Array) -> jax.Array:
    """Has each device compute its share of a batch, if they share batches."""
    if not share_batches():
        return batch
    shared: jax.Array = jax.lax.with_sharding_constraint(batch, PartitionSpec(AXIS))
    return shared
