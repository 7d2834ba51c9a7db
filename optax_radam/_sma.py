"""The mathematics of rectification: rho_t, rho_inf, r_t and bias corrections.

Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond", section 4
and Algorithm 2 (https://arxiv.org/abs/1908.03265), which calls rho the length of the
approximated simple moving average (SMA).

The paper's formula for rho_t is the small difference of two large numbers while t is
small. With L = -log(b2) and the series of the Bernoulli numbers, nothing cancels::

    rho_t = rho_inf - 2 t b2^t / (1 - b2^t)    the paper's
          = t - (2 / L) (S(t L) - S(L))        used here
    S(x) = x / (e^x - 1) - 1 + x / 2 = x^2 / 12 - x^4 / 720 + x^6 / 30240 - ...
"""

import bisect
import functools
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_radam import _arguments, _dtypes

# B_2k / (2k)! for k = 1 to 8: S(x) to 9e-15 for 0 <= x <= 1.
_BERNOULLI_COEFFICIENTS = (
    1 / 12,
    -1 / 720,
    1 / 30240,
    -1 / 1209600,
    1 / 47900160,
    -691 / 1307674368000,
    1 / 74724249600,
    -3617 / 10670622842880000,
)
_LAST_STEP = 2**31 - 1  # where Optax's counts stop
_NEGLIGIBLE = 80.0  # from this x on, 2 t / (e^x - 1) vanishes beside rho; e^x overflows
_SETTLED = 2.0**63  # from this t on, x is larger than that for every float64 b2 < 1


def _bernoulli_series(x: Any) -> Any:
    """The series S(x), for a number or an array, 0 <= x <= 1."""
    square = x * x
    total = 0.0
    for coefficient in reversed(_BERNOULLI_COEFFICIENTS):
        total = square * (coefficient + total)
    return total


def _negative_log(decay: ArrayLike) -> ArrayLike:
    """-log(decay), in Python's float64 where the decay rate is a Python number.

    A decay of 0 is replaced by a number so small that decay^t vanishes: the result is
    finite, and the gradient is not 0 * inf.
    """
    if isinstance(decay, numbers.Real):
        return -math.log(max(float(decay), _dtypes.SMALLEST))
    decay = jnp.asarray(decay, float)
    near_one = decay > 0.5  # where 1 - decay is exact
    log_near_one = jnp.log1p(jnp.where(near_one, decay - 1, 0))
    log_elsewhere = jnp.log(jnp.maximum(decay, _dtypes.SMALLEST))
    return -jnp.where(near_one, log_near_one, log_elsewhere)


def complement(decay: ArrayLike) -> Any:
    """1 - decay, in Python's float64 where the decay rate is a Python number."""
    if isinstance(decay, numbers.Real):
        return 1 - float(decay)
    return 1 - jnp.asarray(decay, float)


def _limit(b2: ArrayLike) -> Any:
    """rho_inf, in Python's float64 where `b2` is a Python number."""
    return 2 / complement(b2) - 1


def float_sma_length(step: float, b2: float) -> float:
    """`sma_length` of Python numbers, in float64."""
    log: Any = _negative_log(b2)
    x = step * log
    if x < 1:
        return float(step - (2 / log) * (_bernoulli_series(x) - _bernoulli_series(log)))
    if step == 1:
        return 1.0
    return float(_limit(b2)) - 2 * step / math.expm1(min(x, _NEGLIGIBLE))


def float_rectification(step: float, b2: float) -> float:
    """`rectification` of Python numbers, in float64."""
    rho, limit = float_sma_length(step, b2), _limit(b2)
    if rho <= 4:
        return 0.0
    ratio = (rho - 4) * (rho - 2) / rho * limit / ((limit - 4) * (limit - 2))
    return min(math.sqrt(ratio), 1.0)


def sma_length_limit(b2: ArrayLike) -> jax.Array:
    """Largest effective number of gradients in the second moment, rho_inf.

    rho_inf = 2 / (1 - b2) - 1.

    Args:
      b2: decay rate of the second moment, a number in [0, 1). A traced scalar keeps
        its own precision and is not checked.

    Returns:
      A floating scalar >= 1.

    Raises:
      TypeError: if `b2` is not a scalar number.
      ValueError: if `b2` is outside [0, 1).

    Examples:
      >>> import optax_radam
      >>> print(f"{optax_radam.sma_length_limit(0.999):.0f}")
      1999

    References:
      Liu et al. 2020, section 4.1 (https://arxiv.org/abs/1908.03265).
    """
    _arguments.check_decay_rate("b2", b2)
    return jnp.asarray(_limit(b2), float)


def sma_length(step: ArrayLike, b2: ArrayLike) -> jax.Array:
    """Effective number of gradients in the second moment, rho_t.

    rho_t = rho_inf - 2 t b2^t / (1 - b2^t), computed in a form without cancellation:
    within 5e-7 of exact arithmetic in float32, and 1e-12 in float64, for b2 >= 0.7.

    Args:
      step: t, the steps taken, counted from 1; integers or floats of any shape and
        size. NaN in an array gives NaN.
      b2: decay rate of the second moment, a number in [0, 1). A traced float32 scalar
        works, but its own rounding changes rho_inf by a relative 6e-8 / (1 - b2).

    Returns:
      An array shaped like `step`, float32 (float64 in x64): 1 at step 1, then up to
      `sma_length_limit(b2)`.

    Raises:
      TypeError: if `b2` is not a scalar number, or `step` no real number or array.
      ValueError: if `b2` is outside [0, 1), or `step` is a Python number below 1 or
        not finite.

    Examples:
      >>> import optax_radam
      >>> print(f"{optax_radam.sma_length(5, b2=0.9):.3f}")
      4.581

    References:
      Liu et al. 2020, equation in section 4.1 (https://arxiv.org/abs/1908.03265).
    """
    _arguments.check_decay_rate("b2", b2)
    _arguments.check_steps(step)
    if isinstance(step, numbers.Real):
        step = min(step, _SETTLED)  # float32 overflows above 3e38
    t = jnp.minimum(jnp.asarray(step, float), _SETTLED)
    log = jnp.asarray(_negative_log(b2), float)
    x = t * log
    small = x < 1
    # Each branch gets an argument at which it is finite, so that the gradient of the
    # unused one is 0 and not NaN.
    series_at_t = _bernoulli_series(jnp.where(small, x, 0))
    series_at_1 = _bernoulli_series(jnp.minimum(log, 1))
    early = t - (2 / log) * (series_at_t - series_at_1)
    late = _limit(b2) - 2 * t / jnp.expm1(jnp.clip(x, 1, _NEGLIGIBLE))
    # rho_1 is 1 for every b2, but the formulas are not differentiable at b2 = 0.
    return jnp.where(t == 1, 1, jnp.where(small, early, late))


def rectification(step: ArrayLike, b2: ArrayLike) -> jax.Array:
    """Rectification factor r_t, by which the paper scales Adam's step.

    At step t::

        r_t = sqrt((rho_t - 4) (rho_t - 2) rho_inf
                   / ((rho_inf - 4) (rho_inf - 2) rho_t))

    Args:
      step: t, the steps taken, counted from 1; integers or floats of any shape and
        size. NaN in an array gives NaN.
      b2: decay rate of the second moment, a number in [0, 1). A traced float32 scalar
        works, but its own rounding changes r_t (by 7e-4 at b2 = 0.99999).

    Returns:
      An array shaped like `step`, float32 (float64 in x64), in [0, 1]: 0 where
      rho_t <= 4, hence at every step if rho_inf <= 4 (b2 <= 0.6); then rising to 1.

    Raises:
      TypeError: if `b2` is not a scalar number, or `step` no real number or array.
      ValueError: if `b2` is outside [0, 1), or `step` is a Python number below 1 or
        not finite.

    Examples:
      >>> import optax_radam
      >>> for step in (5, 6, 100, 10_000):
      ...     print(f"{step:>6} {optax_radam.rectification(step, b2=0.999):.4f}")
           5 0.0173
           6 0.0258
         100 0.2153
       10000 0.9998

    References:
      Liu et al. 2020, Algorithm 2, line 10 (https://arxiv.org/abs/1908.03265).
    """
    return rectification_of(sma_length(step, b2), _limit(b2))


def rectification_of(rho: jax.Array, limit: Any) -> jax.Array:
    """r_t from a length and its limit, both floating.

    It is 0 where the length is 4 or less, and at most 1. It is finite where the limit
    is below the length, as after a fall of b2.
    """
    undefined = rho <= 4  # in this form NaN gives NaN
    # `where` inside the square root too, whose gradient at 0 is infinite.
    if isinstance(limit, float):
        limit = limit if limit > 4 else 5.0
    else:
        limit = jnp.where(limit > 4, limit, 5)
    at_limit = (limit - 4) * (limit - 2) / limit
    ratio = jnp.where(undefined, 1, (rho - 4) * (rho - 2) / rho / at_limit)
    return jnp.where(undefined, 0, jnp.minimum(jnp.sqrt(ratio), 1))


def is_tractable(step: ArrayLike, b2: ArrayLike, threshold: ArrayLike) -> jax.Array:
    """Says where the variance of the adaptive learning rate is tractable.

    Args:
      step: t, the steps taken, counted from 1; numbers of any shape.
      b2: decay rate of the second moment, a number in [0, 1).
      threshold: the smallest rho_t treated as tractable, a number >= 4.

    Returns:
      Booleans shaped like `step`: rho_t >= threshold.
    """
    if isinstance(b2, numbers.Real) and isinstance(threshold, numbers.Real):
        # The 50 operations of rho_t would be compiled into the update of each leaf.
        return jnp.asarray(step) >= _first_tractable_step(float(b2), float(threshold))
    return sma_length(step, b2) >= threshold


@functools.lru_cache(maxsize=128)
def _first_tractable_step(b2: float, threshold: float) -> int:
    """`first_tractable_step` of Python numbers, in float64."""

    def length(t: int) -> float:
        return float_sma_length(t, b2)

    return 1 + bisect.bisect_left(range(1, _LAST_STEP), threshold, key=length)


def first_tractable_step(b2: ArrayLike, threshold: ArrayLike) -> jax.Array | int:
    """The first step at which the adaptive learning rate is tractable.

    Args:
      b2: decay rate of the second moment, a number in [0, 1).
      threshold: the smallest rho_t treated as tractable, a number >= 4 below rho_inf.

    Returns:
      A scalar, int32, or an int if both are Python numbers: the smallest t with
      rho_t >= threshold, found by bisection, since rho_t rises with t.
    """
    if isinstance(b2, numbers.Real) and isinstance(threshold, numbers.Real):
        # No array, which would be a tracer if the optimizer is made under `jit`.
        return _first_tractable_step(float(b2), float(threshold))

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        intractable, tractable = bounds
        middle = intractable + (tractable - intractable) // 2
        found = is_tractable(middle, b2, threshold)
        return (
            jnp.where(found, intractable, middle),
            jnp.where(found, middle, tractable),
        )

    bounds = (jnp.int32(0), jnp.int32(_LAST_STEP))
    _, first = jax.lax.fori_loop(0, 31, halve, bounds)
    return jnp.asarray(first)


def bias_correction(step: ArrayLike, decay: ArrayLike) -> jax.Array:
    """1 - decay^t, by which a moving average started at zero is divided.

    Args:
      step: t, the steps taken, counted from 1; numbers of any shape.
      decay: the average's decay rate, a Python number in [0, 1).

    Returns:
      An array shaped like `step`, float32 (float64 in x64), in (0, 1].
    """
    return -jnp.expm1(-jnp.asarray(step, float) * _negative_log(decay))
