"""Several runs in one compiled program."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

# Where runs of a group follow one another: `jax.vmap` would make grouped convolutions
# of theirs, which are slow there. Elsewhere they go side by side.
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
