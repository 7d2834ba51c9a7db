"""Placement of a state's arrays when parameters are spread over devices."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def zeros_alike(leaf: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Zeros of the leaf's shape, with its sharding, under `jit` too.

    Args:
      leaf: a parameter: an array, or a `jax.ShapeDtypeStruct`.
      dtype: dtype of the zeros; given, so that a weakly typed leaf causes no retrace.

    Returns:
      The zeros. Their derivative is zero, whatever the leaf holds.
    """
    zeros = jnp.zeros_like(leaf, dtype)
    if not isinstance(leaf, jax.core.Tracer):
        return zeros
    # Under `jit` with Auto axes, shardings follow the flow of data. Plain zeros depend
    # on no data and would be replicated on every device. Compilers for TPU and GPU
    # simplify first, so the barrier hides from them that the leaf is never selected.
    # The price: `init` reads each parameter once.
    never = jax.lax.optimization_barrier(jnp.array(False))
    same_kind = leaf if jnp.issubdtype(dtype, jnp.complexfloating) else leaf.real
    return jnp.where(never, same_kind.astype(dtype), zeros)
