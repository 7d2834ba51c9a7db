"""`python -m benchmarks.accelerators`: the update as compiled for TPUs and GPUs.

Compiles ahead of time for described devices that this machine does not have, so nothing
is timed. Prints a Markdown table: bytes read and written for each parameter, and scalar
operations, of our update and of Optax's. `make accelerators` installs the compilers.
"""

import math
import os
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import hlo, trees

_H100 = (pathlib.Path(__file__).parent / "h100.txtpb").read_text()
# Platform, topology, and number of its devices to use.
_TOPOLOGIES = {
    "TPU v5e": ("tpu", "v5e:2x2", 1),
    "8 TPU v5e": ("tpu", "v5e:2x4", 8),
    "256 TPU v5e": ("tpu", "v5e:16x16", 256),
    "512 TPU v5p": ("tpu", "v5p:8x8x8", 512),
    "TPU v6e": ("tpu", "v6e:2x2", 1),
    "H100": ("cuda", "1x1x1", 1),
    "8 H100": ("cuda", "1x1x8", 8),
    "256 H100": ("cuda", "1x32x8", 256),
}
_TREES: dict[str, tuple[trees.Shapes, Any]] = {
    "25M, float32": ([(4096, 6144)], jnp.float32),
    "25M, bfloat16": ([(4096, 6144)], jnp.bfloat16),
    "GPT-2, float32": (trees.gpt2(), jnp.float32),
}


def mesh(name: str) -> Mesh:
    """A mesh of devices in `_TOPOLOGIES`, with the Auto axis "d", to compile for.

    Raises:
      RuntimeError: if there is no compiler for them.
    """
    platform, topology, count = _TOPOLOGIES[name]
    # Otherwise libtpu asks the network which TPU this machine has, and who uses it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options = {"topology": topology, "target_config": _H100}
    if platform == "tpu":
        options = {"topology_name": topology}
    try:
        described = topologies.get_topology_desc(platform=platform, **options)
    except Exception as error:  # many kinds, depending on what is missing
        raise RuntimeError(
            f"no compiler for {name} ({type(error).__name__}: {error}); "
            "`make accelerators` installs those for TPUs and NVIDIA's GPUs"
        ) from error
    return Mesh(described.devices[:count], ("d",), axis_types=(AxisType.Auto,))


def spread(shapes: trees.Shapes, mesh: Mesh, dtype: Any = jnp.float32) -> Any:
    """Abstract parameters, each split along its last dimension that allows it."""

    def place(shape: tuple[int, ...]) -> NamedSharding:
        for index in reversed(range(len(shape))):
            if shape[index] % mesh.size == 0:
                return NamedSharding(mesh, P(*[None] * index, "d"))
        return NamedSharding(mesh, P())

    return {
        f"{index:03}": jax.ShapeDtypeStruct(shape, dtype, sharding=place(shape))
        for index, shape in enumerate(shapes)
    }


def state_beside(
    params: Any, mesh: Mesh, optimizer: optax.GradientTransformation
) -> Any:
    """The abstract state: moments sharded like their parameter, scalars replicated."""

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        whole = NamedSharding(mesh, P())
        sharding = params[path[-1].key].sharding if leaf.ndim else whole
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.eval_shape(optimizer.init, params)
    return jax.tree_util.tree_map_with_path(place, state)


class Update(NamedTuple):
    """A compiled update, and the bytes that it moves per parameter on a device."""

    compiled: Any
    kernels: list[hlo.Kernel]  # without those of scalars
    scalar_operations: int
    read: float  # bytes
    written: float


def compile_update(
    optimizer: optax.GradientTransformation, params: Any, mesh: Mesh
) -> Update:
    """Compiles an update with its addition to the parameters; both are donated."""
    carry = params, state_beside(params, mesh, optimizer)
    compiled = trees.jitted_step(optimizer).lower(carry, params).compile()
    found = hlo.kernels(compiled.as_text())
    large = [kernel for kernel in found if not kernel.is_scalar]
    on_a_device = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in params.values()
    )
    return Update(
        compiled,
        large,
        len(found) - len(large),
        sum(kernel.read for kernel in large) / on_a_device,
        sum(kernel.written for kernel in large) / on_a_device,
    )


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_platforms", "cpu")  # nothing runs elsewhere
    print(f"jax {jax.__version__}, optax {optax.__version__}\n")
    header = ["devices", "parameters"]
    header += [f"`{name}`, bytes" for name in trees.OPTIMIZERS]
    header += [f"`{name}`, scalar operations" for name in trees.OPTIMIZERS]
    print("|", " | ".join(header), "|")
    print("|---|---|" + "---:|" * (len(header) - 2))
    for devices in ("TPU v5e", "TPU v6e", "H100", "8 TPU v5e", "8 H100"):
        try:
            there = mesh(devices)
        except RuntimeError as error:
            sys.exit(f"error: {error}.")
        for tree, (shapes, dtype) in _TREES.items():
            params = spread(shapes, there, dtype)
            updates = [
                compile_update(optimizer, params, there)
                for optimizer in trees.OPTIMIZERS.values()
            ]
            row = [devices, tree]
            row += [f"{update.read:g} + {update.written:g}" for update in updates]
            row += [f"{update.scalar_operations}" for update in updates]
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
