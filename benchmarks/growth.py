"""Cost as a function of parameters, leaves, batch size and dtypes."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

from benchmarks import cnn, trees, update_step
from benchmarks.measuring import interleave, section, summary
from optax_radam import radam, schedule_free_radam


def with_parameters(sizes: Sequence[int], rounds: int, path: pathlib.Path) -> str:
    """Step time of one leaf against its size."""
    cases = {n: [(n,)] for n in sizes}
    return _updates(cases, rounds, "parameters, in one leaf", path)


def with_leaves(counts: Sequence[int], rounds: int, path: pathlib.Path) -> str:
    """Step time of a million parameters against the number of their leaves."""
    cases = {n: [(1_000_000 // n,)] * n for n in counts}
    return _updates(cases, rounds, "leaves of a million parameters", path)


def _updates(
    cases: Mapping[int, trees.Shapes], rounds: int, of: str, path: pathlib.Path
) -> str:
    found = {
        n: update_step.compare(shapes, jnp.float32, rounds, {})
        for n, shapes in cases.items()
    }
    together = pd.concat(found, names=["n", "way"])
    ways = {way: together.xs(way, level="way") for way in found[min(found)].index}
    _draw(ways, path, xlabel=of, ylabel="s per step", yscale="log")
    named = {f"{n:,}": summary_of_n for n, summary_of_n in found.items()}
    note = "float32. Ratios are to optax.radam."
    return section(f"Step time against {of}", note, named)


def with_batch_size(sizes: Sequence[int], rounds: int, path: pathlib.Path) -> str:
    """Time per image against the batch size."""
    ways = {size: cnn.ours(batch_size=size) for size in sizes}
    times = interleave(ways, rounds) / [cnn.BATCHES * size for size in sizes]
    found = summary(times, cnn.BATCH_SIZE)
    found["images/s"] = 1 / found["seconds"]
    speeds = {"one run": 1 / found}
    _draw(speeds, path, xlabel="batch size", ylabel="images/s", ylim=(0, None))
    note = f"The CNN's training. Ratios are to batches of {cnn.BATCH_SIZE}."
    return section("Time for an image against batch size", note, {"batches of": found})


def _draw(ways: Mapping[str, pd.DataFrame], path: pathlib.Path, **options: Any) -> None:
    """Medians as lines and quartiles as bands, against the index of each frame."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for way, curve in ways.items():
        style = "--" if way == update_step.FLOOR else "o-"
        axes.plot(curve.index, curve["seconds"], style, label=way, markersize=4)
        quartiles = curve["seconds low"], curve["seconds high"]
        axes.fill_between(curve.index, *quartiles, alpha=0.2)
    axes.set(xscale="log", xticks=curve.index, **options)
    axes.xaxis.set(major_formatter=EngFormatter(), minor_locator=NullLocator())
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def state_memory() -> str:
    """Bytes of the optimizer's state for each parameter, from shapes and dtypes."""
    single, half = jnp.float32, jnp.bfloat16
    found = pd.DataFrame(columns=["parameters", "state"], dtype=int)
    for name, dtype, optimizer in (
        ("float32", single, radam(1e-3)),
        ("float32, mu_dtype=bfloat16", single, radam(1e-3, mu_dtype=half)),
        ("float32, amsgrad=True", single, radam(1e-3, amsgrad=True)),
        ("float32, schedule_free_radam", single, schedule_free_radam()),
        ("bfloat16", half, radam(1e-3)),
        ("bfloat16, mu_dtype=float32", half, radam(1e-3, mu_dtype=single)),
        ("bfloat16, optax.radam", half, optax.radam(1e-3)),
    ):
        params = jax.ShapeDtypeStruct((1_000_000,), dtype)
        leaves = jax.tree.leaves(jax.eval_shape(optimizer.init, params))
        state = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / params.size
        found.loc[name] = params.dtype.itemsize, round(state)
    found["state / parameters"] = found["state"] / found["parameters"]
    return f"## Bytes for each parameter\n\n{found.to_markdown()}\n"
