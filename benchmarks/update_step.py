"""The update of all parameters: optax_radam beside its peers.

A step is one jitted, donated `update` and `apply_updates`; beside it stands the time in
which the bytes that must move could be copied. Tracing, compiling and updates outside
of `jit` are measured apart.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_radam
from benchmarks import torch_updates, trees
from benchmarks.measuring import Way, interleave, repeated, seconds
from benchmarks.results import Row, Table, rows

_REFERENCE = "optax.radam"
_FLOOR = "floor"
_RATE = 1e-3
OPTIMIZERS: Mapping[str, Callable[[], optax.GradientTransformation]] = {
    "optax_radam.radam": lambda: optax_radam.radam(_RATE),
    _REFERENCE: lambda: optax.radam(_RATE),
    "optax.adam": lambda: optax.adam(_RATE),
}
_RADAMS = ("optax_radam.radam", _REFERENCE)


def _step(optimizer: optax.GradientTransformation) -> Any:
    """The jitted step, a new one at each call."""

    def step(params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


class Update:
    """Parameters, their state, and the step that replaces both."""

    def __init__(
        self, make: Callable[[], optax.GradientTransformation], gradients: Any
    ) -> None:
        self._gradients = gradients
        self._params = jax.tree.map(jnp.ones_like, gradients)
        optimizer = make()
        self._state = jax.jit(optimizer.init)(self._params)
        arguments = (self._params, self._state, gradients)
        self.compiled = _step(optimizer).lower(*arguments).compile()

    def run(self) -> None:
        """One step."""
        self._params, self._state = self.compiled(
            self._params, self._state, self._gradients
        )

    def wait(self) -> None:
        """Until the last one is done."""
        jax.block_until_ready(self._params)

    def state_bytes(self) -> int:
        """Of the optimizer's state."""
        return sum(int(leaf.nbytes) for leaf in jax.tree.leaves(self._state))


def gradients(shapes: trees.Shapes, dtype: Any) -> list[jax.Array]:
    """Random ones."""
    random = np.random.default_rng(0)
    return [
        jnp.asarray(1e-2 * random.standard_normal(shape, np.float32), dtype)
        for shape in shapes
    ]


def copy(parameters: int) -> Way:
    """Reads and writes a float32 array of so many elements, in place."""
    negate = jax.jit(jnp.negative, donate_argnums=0)
    array = jnp.ones(parameters)

    def run() -> None:
        nonlocal array
        array = negate(array)

    return repeated(run, lambda: jax.block_until_ready(array))


def bytes_that_must_move(update: Update, gradients: Any) -> int:
    """Gradients are read; parameters and moments are read and written."""
    of_gradients = sum(int(leaf.nbytes) for leaf in jax.tree.leaves(gradients))
    return of_gradients + 2 * (of_gradients + update.state_bytes())


def _what_xla_made(update: Update, shapes: trees.Shapes) -> dict[str, str]:
    """Loops per leaf, bytes they read and write, and temporary memory."""
    parameters = trees.size(shapes)
    entry = update.compiled.as_text().split("\nENTRY ")[1]
    loops = len(re.findall(r"= \w+\[\d[\d,]*\]\S* fusion\(", entry))
    moved = update.compiled.cost_analysis()["bytes accessed"]
    temporary = update.compiled.memory_analysis().temp_size_in_bytes
    return {
        "loops a leaf": f"{loops / len(shapes):.2f}",
        "bytes a parameter": f"{moved / parameters:.1f}",
        "temporary bytes": f"{temporary:,}",
    }


def steps(
    cases: Mapping[str, tuple[trees.Shapes, Any]], rounds: int, compile_torch: int
) -> Table:
    """Step times.

    Args:
      cases: shapes and dtype by name.
      rounds: of measurements.
      compile_torch: the number of leaves up to which PyTorch's compiler is tried.
    """
    found: list[Row] = []
    columns: dict[str, dict[tuple[str, str], str]] = {}
    for case, (shapes, dtype) in cases.items():
        leaves = gradients(shapes, dtype)
        updates = {name: Update(make, leaves) for name, make in OPTIMIZERS.items()}
        ways = {name: repeated(u.run, u.wait) for name, u in updates.items()}
        ways |= torch_updates.ways(shapes, dtype, compile_torch)
        parameters = trees.size(shapes)
        times = interleave({**ways, _FLOOR: copy(parameters)}, rounds)
        moved = bytes_that_must_move(updates[_RADAMS[0]], leaves)
        times[_FLOOR] = [t * moved / (8 * parameters) for t in times[_FLOOR]]
        found += rows(case, times, _REFERENCE)
        for name, update in updates.items():
            for column, cell in _what_xla_made(update, shapes).items():
                columns.setdefault(column, {})[case, name] = cell
        bandwidth = moved / np.median(times[_FLOOR]) / 1e9
        columns.setdefault("GB/s", {}).update(
            {(case, _FLOOR): f"{bandwidth:.0f}"}
            | {
                (case, name): f"{moved / np.median(times[name]) / 1e9:.0f}"
                for name in OPTIMIZERS
            }
        )
    note = (
        "One update of all parameters. The floor is the bytes that optax_radam's must "
        "read and write, at the bandwidth of an in-place negation in the same rounds; "
        "GB/s are those bytes over the time. Ratios are to optax.radam."
    )
    return Table("Update step", note, found, columns)


def first_steps(cases: Mapping[str, trees.Shapes], rounds: int) -> Table:
    """Tracing with lowering, and compiling, in a process that has done neither."""
    found: list[Row] = []
    for case, shapes in cases.items():
        leaves = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        traced: dict[str, list[float]] = {name: [] for name in _RADAMS}
        compiled: dict[str, list[float]] = {name: [] for name in _RADAMS}
        for _ in range(rounds):
            for name in _RADAMS:
                optimizer = OPTIMIZERS[name]()
                state = jax.eval_shape(optimizer.init, leaves)
                jax.clear_caches()
                step = _step(optimizer)
                start = time.perf_counter()
                lowered = step.lower(leaves, state, leaves)
                traced[name].append(time.perf_counter() - start)
                compiled[name].append(seconds(lowered.compile))
        found += rows(f"{case}: tracing", traced, _REFERENCE)
        found += rows(f"{case}: compiling", compiled, _REFERENCE)
    note = (
        "Before the first step: tracing and lowering it, then compiling it, with all "
        "caches cleared. Ratios are to optax.radam."
    )
    return Table("Time to the first step", note, found)


def eager(cases: Mapping[str, trees.Shapes], rounds: int) -> Table:
    """Updates outside of `jit`."""
    found: list[Row] = []
    for case, shapes in cases.items():
        leaves = gradients(shapes, jnp.float32)
        ways = {name: _eager_way(OPTIMIZERS[name](), leaves) for name in _RADAMS}
        found += rows(case, interleave(ways, rounds), _REFERENCE)
    return Table("Update outside of jit", "Ratios are to optax.radam.", found)


def _eager_way(
    optimizer: optax.GradientTransformation, gradients: Sequence[jax.Array]
) -> Way:
    state, updates = optimizer.init(gradients), None

    def run() -> None:
        nonlocal state, updates
        updates, state = optimizer.update(gradients, state)

    return repeated(run, lambda: jax.block_until_ready(updates))
