"""`python -m benchmarks.sharding`: what each layout costs in memory and in traffic.

A block of a network with LayerNorm and two dense layers, trained by RAdam on eight
devices, which the host pretends to have where there are none; and the experiment's CNN.
Nothing is timed: memory is read from the shards, traffic from the compiled programs.
Prints Markdown.
"""

import collections
import functools
import math
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_radam
from benchmarks import cnn, collectives
from experiments.group import initial_state, make_programs

WIDTH = 256
BATCH = 64
DEVICES = 8

_Initializer = Callable[..., jax.Array]


class Layout(NamedTuple):
    """A mesh, and whether parameters are spread over it."""

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


class Block(nnx.Module):
    """y = x + down(relu(up(norm(x)))), its parameters annotated for any mesh."""

    def __init__(self, spread: bool, rngs: nnx.Rngs):
        def on(init: _Initializer, *axes: Any) -> Any:
            return nnx.with_partitioning(init, axes) if spread else init

        kernel, ones, zeros = (
            nnx.initializers.lecun_normal(),
            nnx.initializers.ones,
            nnx.initializers.zeros,
        )
        self.norm = nnx.LayerNorm(
            WIDTH,
            scale_init=on(ones, "data"),
            bias_init=on(zeros, "data"),
            rngs=rngs,
        )
        self.up = nnx.Linear(
            WIDTH,
            4 * WIDTH,
            kernel_init=on(kernel, "data", "model"),
            bias_init=on(zeros, ("model", "data")),
            rngs=rngs,
        )
        self.down = nnx.Linear(
            4 * WIDTH,
            WIDTH,
            kernel_init=on(kernel, "model", "data"),
            bias_init=on(zeros, "data"),
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """The block of a batch, (batch, width)."""
        return x + self.down(nnx.relu(self.up(self.norm(x))))


class Training(NamedTuple):
    """The parts of a training, on their devices."""

    params: Any
    batch: jax.Array
    optimizer: optax.GradientTransformation
    gradient: Callable[[Any, jax.Array], Any]  # (params, batch)

    def step(
        self, params: Any, state: optax.OptState, batch: jax.Array
    ) -> tuple[Any, optax.OptState]:
        """Parameters and state after one step."""
        gradients = self.gradient(params, batch)
        updates, state = self.optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state


def training(layout: Layout, optimizer: optax.GradientTransformation) -> Training:
    """Parameters made in their places, a batch, and how to go on."""
    mesh = jax.make_mesh(
        (layout.data, layout.model), ("data", "model"), (AxisType.Auto,) * 2
    )

    @nnx.jit
    def create() -> nnx.Module:
        return Block(layout.spread, nnx.Rngs(0))

    with jax.set_mesh(mesh):
        graph, params = nnx.split(create())
    # Without annotations, they lie on one device.
    places = jax.tree.map(
        lambda p: p.sharding if layout.spread else NamedSharding(mesh, P()), params
    )
    batch = jax.random.normal(jax.random.key(1), (BATCH, WIDTH))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean((nnx.merge(graph, params)(x) - jnp.flip(x, 1)) ** 2)

    return Training(
        jax.device_put(params, places),
        jax.device_put(batch, NamedSharding(mesh, P("data"))),
        optimizer,
        jax.grad(loss),
    )


def bytes_on_one_device(tree: Any) -> int:
    """Of the arrays of a tree, what the device that holds most of them has."""
    held: collections.Counter[jax.Device] = collections.Counter()
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values())


def traffic(function: Callable[..., Any], *arguments: Any) -> dict[str, int]:
    """Bytes of one call, by operation."""
    compiled = jax.jit(function).lower(*arguments).compile()
    total: collections.Counter[str] = collections.Counter()
    for operation, num_bytes in collectives.of(compiled.as_text() or ""):
        total[operation] += num_bytes
    return dict(total)


def _print_table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    names = list(header)
    print(f"| {' | '.join(names)} |")
    print("|---|---|" + "---:|" * (len(names) - 2))
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def _layout_row(layout: Layout) -> list[object]:
    run = training(layout, optax_radam.radam(1e-3, fallback="skip"))
    state = jax.jit(run.optimizer.init)(run.params)
    moments = (optax.tree.get(state, name) for name in ("mu", "nu"))
    count = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    memory = [bytes_on_one_device(tree) / count for tree in (run.params, *moments)]
    step = traffic(run.step, run.params, state, run.batch)
    gathered, summed = step.pop("all-gather", 0), step.pop("all-reduce", 0)
    update = traffic(run.optimizer.update, run.params, state, run.params)
    sent = (gathered, summed, sum(step.values()), sum(update.values()))
    return [
        layout.name,
        f"{layout.data} x {layout.model}",
        *(f"{x:.2f}" for x in (*memory, sum(memory))),
        *(f"{x:,}" for x in sent),
    ]


def _experiment_row(runs: int) -> list[object]:
    """Of the experiment's step: a run whose batches are shared, or runs shared out."""
    shared, members = cnn.work(runs, DEVICES, BATCH, BATCH)
    programs = make_programs(shared, "radam", runs)
    state = initial_state(programs, members).train
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // runs
    sent = sum(size for _, size in collectives.of(programs.step.as_text() or ""))
    held = bytes_on_one_device((state.params, state.opt_state)) / count
    what = "one run, batches shared" if runs == 1 else f"{runs} runs, shared out"
    return [what, f"{count:,}", f"{held:.2f}", f"{sent:,}"]


def _bytes_per_parameter(
    optimizer: optax.GradientTransformation, dtype: jnp.dtype[Any]
) -> tuple[int, int]:
    """Of the parameter, and of its state."""
    # Of two sizes: what does not grow are scalars.
    small, large = (
        sum(
            math.prod(leaf.shape) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(
                jax.eval_shape(optimizer.init, jnp.zeros(size, dtype))
            )
        )
        for size in (1, 2)
    )
    return dtype.itemsize, large - small


def _dtype_rows() -> Iterable[list[object]]:
    radam = functools.partial(optax_radam.radam, 1e-3)
    for name, dtype, optimizer in (
        ("radam", jnp.float32, radam()),
        ("radam, mu_dtype=bfloat16", jnp.float32, radam(mu_dtype=jnp.bfloat16)),
        ("radam", jnp.bfloat16, radam()),
        ("radam, mu_dtype=float32", jnp.bfloat16, radam(mu_dtype=jnp.float32)),
        ("radam, amsgrad=True", jnp.float32, radam(amsgrad=True)),
        ("schedule_free_radam", jnp.float32, optax_radam.schedule_free_radam()),
    ):
        own, state = _bytes_per_parameter(optimizer, jnp.dtype(dtype))
        yield [f"`{name}`", jnp.dtype(dtype).name, own, state, own + state]


def main() -> None:
    """Prints the tables."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", DEVICES)
    if jax.device_count() < DEVICES:
        raise SystemExit(f"{DEVICES} devices are needed, not {jax.device_count()}.")
    versions = (
        f"jax {jax.__version__}, flax {flax.__version__}, optax {optax.__version__}"
    )
    print(
        f"{DEVICES} x {jax.devices()[0].device_kind}, {versions}; {WIDTH=}, {BATCH=}\n"
    )
    memory = ("parameters", "mu", "nu", "together")
    sent = ("all-gather", "all-reduce", "other", "by the update")
    _print_table(("layout", "mesh", *memory, *sent), map(_layout_row, LAYOUTS))
    print()
    of_run = ("parameters of a run", "bytes for each on a device", "all-reduce")
    _print_table(("the experiment's CNN", *of_run), map(_experiment_row, (1, DEVICES)))
    print()
    own = ("parameters", "their bytes", "state's", "together")
    _print_table(("optimizer", *own), _dtype_rows())


if __name__ == "__main__":
    main()
