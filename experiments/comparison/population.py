"""Several runs in one compiled program.

The CNN on 32x32 images, batch 64, jax 0.10.2 on two cores, images/s in all (`python -m
benchmarks --only growth` measures the like on any machine):

| one run alone | 403 |
| four, one step of each in turn, by `jax.lax.map` | 296 |
| four, side by side, by `jax.vmap` | 280 |

GPUs have not been measured.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

# Where the runs of a group take turns. Elsewhere they go side by side.
SEQUENTIAL_PLATFORMS = {"cpu"}

F = TypeVar("F", bound=Callable[..., Any])


def over_runs(function: F) -> F:
    """Maps over the leading axis of all arguments; one run alone is not mapped."""

    def mapped(*arguments: Any) -> Any:
        runs = len(jax.tree.leaves(arguments)[0])
        if runs == 1:
            alone = jax.tree.map(lambda leaf: leaf[0], arguments)
            return jax.tree.map(lambda leaf: leaf[None], function(*alone))
        if jax.default_backend() in SEQUENTIAL_PLATFORMS:
            return jax.lax.map(lambda one: function(*one), arguments)
        return jax.vmap(function)(*arguments)

    return mapped  # type: ignore[return-value]
