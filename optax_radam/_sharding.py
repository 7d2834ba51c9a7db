"""Where the numbers of a state lie, when parameters are spread over devices."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def zeros_alike(leaf: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Zeros of the leaf's shape, with its sharding, under `jit` too.

    Args:
      leaf: a parameter: an array, or a `jax.ShapeDtypeStruct`.
      dtype: of the zeros; with it, a weakly typed leaf does not cause a retrace.

    Returns:
      The zeros. Their derivative is zero, whatever the leaf holds.
    """
    zeros = jnp.zeros_like(leaf, dtype)
    if not isinstance(leaf, jax.core.Tracer):
        return zeros
    # Under `jit` with Auto axes, what lies where is found along the flow of data. Zeros
    # alone have none, and would end up whole on one device. XLA settles it before it
    # sees that the leaf is never taken, so nothing is read at run time.
    same_kind = leaf if jnp.issubdtype(dtype, jnp.complexfloating) else leaf.real
    return jnp.where(False, same_kind.astype(dtype), zeros)
