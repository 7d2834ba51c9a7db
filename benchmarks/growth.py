"""How the cost grows: with parameters, leaves, runs, batch size and dtypes."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import optax

import optax_radam
from benchmarks import cnn, trees
from benchmarks.measuring import Spread, Way, interleave, repeated
from benchmarks.results import Page, Table, rows
from benchmarks.update_step import OPTIMIZERS, Update, copy, gradients

matplotlib.use("agg")
from matplotlib import pyplot as plt

_OURS, _REFERENCE = "optax_radam.radam", "optax.radam"
_FLOOR = "floor"
_BYTES, _COPIED = 28, 8  # a float32 parameter: that must move, and that a copy moves

# Of parameters in the first dtype: the options that choose those of the moments.
_DTYPES: Mapping[str, tuple[Any, Callable[[], optax.GradientTransformation]]] = {
    "optax_radam, float32": (jnp.float32, lambda: optax_radam.radam(1e-3)),
    "optax_radam, float32, mu_dtype=bfloat16": (
        jnp.float32,
        lambda: optax_radam.radam(1e-3, mu_dtype=jnp.bfloat16),
    ),
    "optax_radam, float32, amsgrad": (
        jnp.float32,
        lambda: optax_radam.radam(1e-3, amsgrad=True),
    ),
    "optax_radam, bfloat16": (jnp.bfloat16, lambda: optax_radam.radam(1e-3)),
    "optax_radam, bfloat16, mu_dtype=float32": (
        jnp.bfloat16,
        lambda: optax_radam.radam(1e-3, mu_dtype=jnp.float32),
    ),
    "optax.radam, float32": (jnp.float32, lambda: optax.radam(1e-3)),
    "optax.radam, bfloat16": (jnp.bfloat16, lambda: optax.radam(1e-3)),
}


def with_parameters(
    sizes: Sequence[int], rounds: int, directory: pathlib.Path
) -> Table:
    """Step time of one leaf against its size."""
    cases = {f"{size:,} parameters": trees.one_leaf(size) for size in sizes}
    table = _updates("Step time against parameters", cases, rounds, floor=True)
    _draw(table, sizes, "parameters, in one leaf", directory / "parameters.png")
    return table


def with_leaves(counts: Sequence[int], rounds: int, directory: pathlib.Path) -> Table:
    """Step time of a million parameters against the number of their leaves."""
    cases = {f"{n:,} leaves": trees.small_leaves(n, 1_000_000) for n in counts}
    table = _updates("Step time against leaves", cases, rounds, floor=False)
    _draw(table, counts, "leaves of a million parameters", directory / "leaves.png")
    return table


def _updates(
    title: str, cases: Mapping[str, trees.Shapes], rounds: int, *, floor: bool
) -> Table:
    found = []
    for case, shapes in cases.items():
        ways: dict[str, Way] = {}
        leaves = gradients(shapes, jnp.float32)
        for name in (_OURS, _REFERENCE):
            update = Update(OPTIMIZERS[name], leaves)
            ways[name] = repeated(update.run, update.wait)
        if floor:
            ways[_FLOOR] = copy(trees.size(shapes))
        times = interleave(ways, rounds)
        if floor:
            times[_FLOOR] = [t * _BYTES / _COPIED for t in times[_FLOOR]]
        found += rows(case, times, _REFERENCE)
    return Table(title, "float32. Ratios are to optax.radam.", found)


def with_runs(counts: Sequence[int], rounds: int, directory: pathlib.Path) -> Table:
    """Time for an image against the runs that are trained together."""
    ways = {"1 run": cnn.ours()}
    ways |= {f"{runs} runs, side by side": cnn.ours(runs) for runs in counts}
    case = "one image of any run, batch 64"
    found = rows(case, interleave(ways, rounds), "1 run")
    curves = {"side by side": [row.seconds for row in found]}
    path = directory / "runs.png"
    _plot_speeds(curves, [1, *counts], "runs trained together", path)
    note = "The CNN's training. Ratios are to one run alone."
    return Table("Time for an image against runs", note, found)


def with_batch_size(
    sizes: Sequence[int], rounds: int, directory: pathlib.Path
) -> Table:
    """Time for an image against the batch size."""
    ways = {f"batch {size}": cnn.ours(batch_size=size) for size in sizes}
    reference = f"batch {cnn.BATCH_SIZE}"
    found = rows("one image of one run", interleave(ways, rounds), reference)
    curves = {"one run": [row.seconds for row in found]}
    path = directory / "batch_size.png"
    _plot_speeds(curves, sizes, "batch size", path)
    note = f"The CNN's training. Ratios are to {reference}."
    return Table("Time for an image against batch size", note, found)


def state_memory(directory: pathlib.Path) -> Page:
    """Bytes of the optimizer's state for each parameter."""
    found = {}
    for name, (dtype, make) in _DTYPES.items():
        params = jax.ShapeDtypeStruct((1_000_000,), dtype)
        leaves = jax.tree.leaves(jax.eval_shape(make().init, params))
        state = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / params.size
        found[name] = (params.dtype.itemsize, round(state))
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    names = list(found)[::-1]
    of_params = [found[name][0] for name in names]
    axes.barh(names, of_params, label="parameters")
    axes.barh(names, [found[n][1] for n in names], left=of_params, label="state")
    axes.set_xlabel("bytes for each parameter")
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(directory / "memory.png", dpi=120)
    plt.close(figure)
    lines = ["| | parameters | state | state / parameters |", "|---|---:|---:|---:|"]
    for name, (own, state) in found.items():
        lines.append(f"| {name} | {own} | {state} | {state / own:g} |")
    head = "Bytes for each parameter, from shapes and dtypes.\n"
    return Page("Memory of the state", "\n".join([head, *lines]))


def _draw(table: Table, xs: Sequence[int], label: str, path: pathlib.Path) -> None:
    """Times of each way of a table that has all ways in each case, logarithmic."""
    curves: dict[str, list[Spread]] = {}
    for row in table.rows:
        curves.setdefault(row.way, []).append(row.seconds)
    with _figure(curves, xs, label, path) as axes:
        axes.set(xscale="log", yscale="log", ylabel="s per step")


def _plot_speeds(
    curves: Mapping[str, Sequence[Spread]],
    xs: Sequence[int],
    label: str,
    path: pathlib.Path,
) -> None:
    """Images per second, from 0."""
    speeds = {
        name: [Spread(*(1 / seconds for seconds in spread)) for spread in spreads]
        for name, spreads in curves.items()
    }
    with _figure(speeds, xs, label, path) as axes:
        axes.set_xscale("log", base=2)
        axes.set_xticks(xs, [str(x) for x in xs])
        axes.set(ylabel="images/s of all runs", ylim=(0, None))


@contextlib.contextmanager
def _figure(
    curves: Mapping[str, Sequence[Spread]],
    xs: Sequence[int],
    label: str,
    path: pathlib.Path,
) -> Iterator[Any]:
    """The axes, with medians as lines and quartiles as bands; saved at the end."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, spreads in curves.items():
        style = "--" if name == _FLOOR else "o-"
        axes.plot(xs, [s.median for s in spreads], style, label=name, markersize=4)
        lows, highs = [s.low for s in spreads], [s.high for s in spreads]
        axes.fill_between(xs, lows, highs, alpha=0.2)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
    axes.legend()
    yield axes
    figure.savefig(path, dpi=120)
    plt.close(figure)
