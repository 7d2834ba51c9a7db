"""Dtypes in which the numbers of an update are stored and computed."""

import functools
import numbers

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

SMALLEST = 2.0**-126  # float32's smallest normal number


def promote(*dtypes: DTypeLike) -> DTypeLike:
    """The dtype that these promote to, also under strict promotion.

    Moments widen 16-bit leaves on purpose, by explicit casts.
    """
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)


def first_moment_dtype(dtype: DTypeLike, requested: DTypeLike | None) -> DTypeLike:
    """The leaf's own dtype, or the requested one, made complex for complex leaves."""
    if requested is None:
        return jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return promote(requested, jnp.complex64)
    return jnp.dtype(requested)


def second_moment_dtype(
    dtype: DTypeLike, requested: DTypeLike | None = None
) -> DTypeLike:
    """The requested dtype, or the leaf's, made real and at least float32.

    A 16-bit nu stops decaying at b2 = 0.999: 0.1% of it is less than half a unit in
    its last place.
    """
    if requested is not None:
        return jnp.dtype(requested)
    real = jnp.finfo(dtype).dtype  # type: ignore[no-untyped-call]
    return promote(real, jnp.float32)


def largest_square(dtype: DTypeLike) -> float:
    """The value at which squares saturate; finite after bias correction too."""
    return float(jnp.finfo(dtype).max) / 2  # type: ignore[no-untyped-call]


def is_nonzero(x: ArrayLike) -> bool:
    """Returns True for a number, not an array, that is not 0 in float32."""
    return isinstance(x, numbers.Real) and abs(float(x)) >= SMALLEST
