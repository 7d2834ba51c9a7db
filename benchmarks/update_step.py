"""The update of all parameters: optax_radam beside its peers.

A step is one jitted, donated `update` and `apply_updates`. It is compared with the time
for copying the bytes that must move. Tracing, compiling and updates outside of `jit`
are measured separately.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from benchmarks import hlo, trees
from benchmarks.measuring import (
    Way,
    interleave,
    iterated,
    repeated,
    seconds,
    section,
    summary,
)
from benchmarks.trees import OPTIMIZERS, OURS, REFERENCE

FLOOR = "floor"
_BOTH = (OURS, REFERENCE)


def random_gradients(shapes: trees.Shapes, dtype: Any = jnp.float32) -> list[jax.Array]:
    """Arrays of these shapes."""
    random = np.random.default_rng(0)
    return [
        jnp.asarray(1e-2 * random.standard_normal(shape, np.float32), dtype)
        for shape in shapes
    ]


def start(optimizer: optax.GradientTransformation, gradients: Any) -> tuple[Any, Any]:
    """Parameters shaped like the gradients, and their state."""
    params = jax.tree.map(jnp.ones_like, gradients)
    return params, jax.jit(optimizer.init)(params)


def bytes_that_must_move(carry: Any, gradients: Any) -> int:
    """Bytes of gradients, read, and of parameters and state, read and written."""
    leaves = [*jax.tree.leaves(gradients), *2 * jax.tree.leaves(carry)]
    return sum(int(leaf.nbytes) for leaf in leaves)


def compare(
    shapes: trees.Shapes, dtype: Any, rounds: int, peers: Mapping[str, Way]
) -> pd.DataFrame:
    """Step times of one tree of parameters."""
    gradients, parameters = random_gradients(shapes, dtype), trees.size(shapes)
    carries = {name: start(make, gradients) for name, make in OPTIMIZERS.items()}
    moved = bytes_that_must_move(carries[OURS], gradients)
    ways, columns = {}, {}
    for name, carry in carries.items():
        step = trees.jitted_step(OPTIMIZERS[name]).lower(carry, gradients).compile()
        ways[name] = iterated(step, carry, gradients)
        loops = [k for k in hlo.kernels(step.as_text()) if not k.is_scalar]
        columns[name] = {
            "loops a leaf": len(loops) / len(shapes),
            "bytes a parameter": sum(k.read + k.written for k in loops) / parameters,
        }
    copy = jax.jit(jnp.negative, donate_argnums=0)
    floor = {FLOOR: iterated(copy, jnp.ones(parameters))}
    times = interleave({**ways, **peers, **floor}, rounds)
    times[FLOOR] *= moved / (8 * parameters)
    found = summary(times, REFERENCE).join(pd.DataFrame.from_dict(columns, "index"))
    return found.assign(**{"GB/s": moved / found["seconds"] / 1e9})


def steps(
    cases: Mapping[str, tuple[trees.Shapes, Any]], rounds: int, compile_torch: int
) -> str:
    """Step times of trees; PyTorch compiles its step up to `compile_torch` leaves."""
    found = {
        case: compare(shapes, dtype, rounds, torch_ways(shapes, dtype, compile_torch))
        for case, (shapes, dtype) in cases.items()
    }
    note = (
        "One update of all parameters. The floor is the bytes that optax_radam's must "
        "read and write, at the bandwidth of an in-place negation in the same rounds; "
        "GB/s are those bytes over the time. Ratios are to optax.radam."
    )
    return section("Update step", note, found)


def first_steps(cases: Mapping[str, trees.Shapes], rounds: int) -> str:
    """Times of tracing with lowering, and of compiling, in a new process."""
    found = {}
    for case, shapes in cases.items():
        leaves = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        ways = {}
        for name in _BOTH:
            ways["tracing", name], ways["compiling", name] = _first_step(name, leaves)
        times = interleave(ways, rounds)
        for what in ("tracing", "compiling"):
            found[f"{case}: {what}"] = summary(times[what], REFERENCE)
    note = (
        "Before the first step: tracing and lowering it, then compiling it, with all "
        "caches cleared. Ratios are to optax.radam."
    )
    return section("Time to the first step", note, found)


def _first_step(name: str, leaves: Any) -> tuple[Way, Way]:
    """Ways to trace a step, and to compile the last trace."""
    optimizer = OPTIMIZERS[name]
    lowered: Any = None
    carry = leaves, jax.eval_shape(optimizer.init, leaves)

    def trace() -> None:
        nonlocal lowered
        lowered = trees.jitted_step(optimizer).lower(carry, leaves)

    def tracing() -> float:
        jax.clear_caches()
        return seconds(trace)

    return tracing, lambda: seconds(lowered.compile)


def eager(cases: Mapping[str, trees.Shapes], rounds: int) -> str:
    """Updates outside of `jit`."""

    def way(optimizer: optax.GradientTransformation, gradients: Any) -> Way:
        def update(last: Any) -> Any:
            return optimizer.update(gradients, last[1])

        return iterated(update, (None, optimizer.init(gradients)))

    found = {}
    for case, shapes in cases.items():
        gradients = random_gradients(shapes)
        ways = {name: way(OPTIMIZERS[name], gradients) for name in _BOTH}
        found[case] = summary(interleave(ways, rounds), REFERENCE)
    return section("Update outside of jit", "Ratios are to optax.radam.", found)


def torch_ways(shapes: trees.Shapes, dtype: Any, compile_leaves: int) -> dict[str, Way]:
    """PyTorch's optimizers; none if it is not installed, or lacks JAX's device."""
    cuda = jax.default_backend() == "gpu"
    if importlib.util.find_spec("torch") is None:
        return {}
    torch: Any = importlib.import_module("torch")
    if cuda and not torch.cuda.is_available():
        return {}
    options = {
        "device": "cuda" if cuda else "cpu",
        "dtype": getattr(torch, np.dtype(dtype).name),
    }
    gradients = [torch.full(shape, 1e-2, **options) for shape in shapes]

    def step_of(optimizer: Any, **options: bool) -> Any:
        params = [torch.ones_like(g, requires_grad=True) for g in gradients]
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient  # shared by all ways: steps only read it
        return optimizer(params, 1e-3, **options).step

    radam, adam = torch.optim.RAdam, torch.optim.Adam
    found = {
        "torch RAdam, for-loop": step_of(radam, foreach=False),
        "torch RAdam, foreach": step_of(radam, foreach=True),
        "torch Adam, fused": step_of(adam, fused=True),
    }
    if cuda:  # PyTorch refuses it on a CPU
        found["torch RAdam, capturable"] = step_of(radam, foreach=True, capturable=True)
    if len(shapes) <= compile_leaves:
        torch.compiler.reset()
        compiled = torch.compile(step_of(radam, foreach=True, capturable=cuda))
        for _ in range(10):  # past the first five, which are not rectified
            compiled()
        found["torch RAdam, compiled"] = compiled
    wait = torch.cuda.synchronize if cuda else lambda: None
    return {name: repeated(step, wait) for name, step in found.items()}
