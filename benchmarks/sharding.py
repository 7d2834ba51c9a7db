"""`python -m benchmarks.sharding`: memory and traffic of each layout.

RAdam trains a block with LayerNorm and two dense layers, and the experiment's CNN, on
eight devices, which the host simulates if there are none. Nothing is timed: memory is
read from the shards, traffic from the compiled programs. Prints Markdown.
"""

import collections
import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
import pandas as pd
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_radam
from benchmarks import cnn, collectives

WIDTH = 256
BATCH = 64
DEVICES = 8


class Layout(NamedTuple):
    """A mesh, with or without parameters spread over it."""

    name: str
    data: int  # devices along the axis that batches are split over
    model: int
    spread: bool = True


LAYOUTS = (
    Layout("replicated (data-parallel)", DEVICES, 1, spread=False),
    Layout("fully sharded", DEVICES, 1),
    Layout("tensor-parallel", 1, DEVICES),
    Layout("mix of both", DEVICES // 2, 2),
)


class Training(NamedTuple):
    """The parts of a training, on their devices."""

    params: Any
    batch: jax.Array
    gradient: Callable[[Any, jax.Array], Any]  # (params, batch)
    step: Callable[[Any, Any, jax.Array], Any]  # (params, state, batch)


def _block() -> nnx.Module:
    """A function of x, down(relu(up(norm(x)))), annotated for any mesh."""
    kernel, bias = nnx.initializers.lecun_normal(), nnx.initializers.zeros
    on, rngs = nnx.with_partitioning, nnx.Rngs(0)
    norm = nnx.LayerNorm(
        WIDTH,
        scale_init=on(nnx.initializers.ones, ("data",)),
        bias_init=on(bias, ("data",)),
        rngs=rngs,
    )
    up = nnx.Linear(
        WIDTH,
        4 * WIDTH,
        kernel_init=on(kernel, ("data", "model")),
        bias_init=on(bias, (("model", "data"),)),
        rngs=rngs,
    )
    down = nnx.Linear(
        4 * WIDTH,
        WIDTH,
        kernel_init=on(kernel, ("model", "data")),
        bias_init=on(bias, ("data",)),
        rngs=rngs,
    )
    return nnx.Sequential(norm, up, nnx.relu, down)


def training(layout: Layout, optimizer: optax.GradientTransformation) -> Training:
    """Parameters made on their devices, a batch, and the step functions."""
    mesh = jax.make_mesh(
        (layout.data, layout.model), ("data", "model"), (AxisType.Auto,) * 2
    )
    with jax.set_mesh(mesh):
        graph, params = nnx.split(nnx.jit(_block)())
    if not layout.spread:
        params = jax.device_put(params, NamedSharding(mesh, P()))
    batch = jax.random.normal(jax.random.key(1), (BATCH, WIDTH))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        y = x + nnx.merge(graph, params)(x)
        return jnp.mean((y - jnp.flip(x, 1)) ** 2)

    def step(params: Any, state: Any, batch: jax.Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradient(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    gradient = jax.grad(loss)
    batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
    return Training(params, batch, gradient, step)


def bytes_on_one_device(tree: Any) -> int:
    """Bytes of a tree's arrays on the device with most of them."""
    held: collections.Counter[jax.Device] = collections.Counter()
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values())


def traffic(function: Callable[..., Any], *arguments: Any) -> collections.Counter[str]:
    """Bytes sent by one call, by operation."""
    total: collections.Counter[str] = collections.Counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    for operation, num_bytes in collectives.of(compiled.as_text() or ""):
        total[operation] += num_bytes
    return total


def _of_layout(layout: Layout) -> dict[str, object]:
    """Bytes for each parameter on a device, and bytes sent by a step."""
    optimizer = optax_radam.radam(1e-3, fallback="skip")
    params, batch, _, step = training(layout, optimizer)
    state = jax.jit(optimizer.init)(params)
    trees = {name: optax.tree.get(state, name) for name in ("mu", "nu")}
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    memory = {
        name: bytes_on_one_device(tree) / count
        for name, tree in {"parameters": params, **trees}.items()
    }
    sent = traffic(step, params, state, batch)
    return {
        "layout": layout.name,
        "mesh": f"{layout.data} x {layout.model}",
        **memory,
        "together": sum(memory.values()),
        "all-gather": sent.pop("all-gather", 0),
        "all-reduce": sent.pop("all-reduce", 0),
        "other": sent.total(),
        "by the update": traffic(optimizer.update, params, state, params).total(),
    }


def _of_experiment(what: str, runs: int) -> dict[str, object]:
    """Bytes of the experiment's step, on all devices."""
    step, arguments = cnn.step_and_arguments(runs, DEVICES, BATCH)
    state = arguments[1]
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // runs
    return {
        "the experiment's CNN": what,
        "parameters of a run": count,
        "bytes for each": bytes_on_one_device((state.params, state.opt_state)) / count,
        "all-reduce": traffic(step, *arguments).total(),
    }


def main() -> None:
    """Prints the tables."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", DEVICES)
    if jax.device_count() < DEVICES:
        raise SystemExit(f"{DEVICES} devices are needed, not {jax.device_count()}.")
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (jax, flax, optax))
    print(f"{jax.devices()[0].device_kind}, {versions}; {DEVICES=}, {WIDTH=}, {BATCH=}")
    layouts = map(_of_layout, LAYOUTS)
    one, many = ("one run, batches shared", 1), (f"{DEVICES} runs, shared out", DEVICES)
    for rows in layouts, itertools.starmap(_of_experiment, (one, many)):
        table = pd.DataFrame(rows)
        print("", table.to_markdown(index=False, floatfmt=".2f", intfmt=","), sep="\n")


if __name__ == "__main__":
    main()
