"""Which dtype each number of an update is kept and computed in."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def promote(*dtypes: DTypeLike) -> DTypeLike:
    """The dtype that arrays of these promote to, also under strict promotion.

    Moments widen 16-bit leaves on purpose, by explicit casts.
    """
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)


def second_moment_dtype(dtype: DTypeLike) -> DTypeLike:
    """Real, and float32 at least.

    A 16-bit nu stops decaying at b2 = 0.999: 0.1% of it is less than half a unit in
    its last place.
    """
    return promote(jnp.zeros([], dtype).real.dtype, jnp.float32)
