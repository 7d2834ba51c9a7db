"""Schedules: the rectification factor and warmups as functions of Optax's count.

Optax counts updates from 0 and the papers count steps from 1, so each schedule here
evaluates its formula at t = count + 1.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_radam import _arguments, _sma

_COUNTS = 2**31  # counts that Optax has: int32, from 0 to the largest
_PART = 2**20  # factors in memory at once


def _step(count: ArrayLike) -> jax.Array:
    """The step t = count + 1, floating, so that the largest int32 does not wrap."""
    return jnp.asarray(count, float) + 1


def rectification_schedule(
    b2: ArrayLike,
    threshold: ArrayLike = 5.0,
    *,
    before: ArrayLike = 0.0,
    shifted: bool = False,
) -> optax.Schedule:
    """The rectification factor as a schedule: r_t once tractable, `before` until then.

    The factor of step t = count + 1, where t_0 is the first tractable step::

        f(t) = r_t if rho_t >= threshold, else before
        f(t) = r_{t + t_0 - 1}                           with `shifted`

    Args:
      b2: decay rate of the second moment that is rectified, a number in
        ((threshold - 1) / (threshold + 1), 1). It has no default because it must be
        the rate that the moments use. For a rate that changes, use
        `scale_by_rectification`.
      threshold: smallest rho_t at which the variance of the adaptive learning rate is
        treated as tractable, a number >= 4 (the paper: above 4; its code and most
        implementations: 5).
      before: the factor until then, a finite number: 0 waits, 1 lets steps through.
      shifted: True to begin with the factor of the first tractable step; `before` is
        then unused.

    Returns:
      An `optax.Schedule`: maps a count of updates, from 0, of any shape, to factors of
      that shape, float32 (float64 in x64).

    Raises:
      TypeError: if an argument is not a scalar number, or `shifted` is not a boolean
        or is traced.
      ValueError: if `b2`, `threshold` or `before` is outside its range.

    Examples:
      >>> import optax_radam
      >>> schedule = optax_radam.rectification_schedule(b2=0.999)
      >>> print([f"{schedule(count):.4f}" for count in (0, 4, 5, 99)])
      ['0.0000', '0.0000', '0.0258', '0.2153']
      >>> shifted = optax_radam.rectification_schedule(b2=0.999, shifted=True)
      >>> print(f"{shifted(0):.4f}")
      0.0258

    References:
      Liu et al. 2020, Algorithm 2 (https://arxiv.org/abs/1908.03265); shifted as
      `RAdamWarmup` of https://github.com/Tony-Y/pytorch_warmup.
    """
    _arguments.check_threshold(threshold, b2)
    _arguments.check_finite("before", before)
    _arguments.check_flag("shifted", shifted)
    skipped = _sma.first_tractable_step(b2, threshold) - 1 if shifted else None

    def schedule(count: ArrayLike) -> jax.Array:
        step = _step(count)
        if skipped is not None:
            return _sma.rectification(step + jnp.asarray(skipped, step.dtype), b2)
        tractable = _sma.is_tractable(step, b2, threshold)
        factor = _sma.rectification(step, b2)
        return jnp.where(tractable, factor, jnp.asarray(before, float))

    return schedule


def untuned_linear_warmup_schedule(b2: ArrayLike) -> optax.Schedule:
    """Linear warmup over 2 / (1 - b2) steps, the rule of thumb that matches RAdam.

    The factor of step t = count + 1 is min(1, t (1 - b2) / 2).

    Args:
      b2: decay rate of the second moment, a number in [0, 1).

    Returns:
      An `optax.Schedule`: maps a count of updates, from 0, of any shape, to factors of
      that shape in (0, 1], float32 (float64 in x64).

    Raises:
      TypeError: if `b2` is not a scalar number.
      ValueError: if `b2` is outside [0, 1).

    Examples:
      >>> import optax_radam
      >>> schedule = optax_radam.untuned_linear_warmup_schedule(b2=0.999)
      >>> print([f"{schedule(count):.4f}" for count in (0, 999, 1999, 5000)])
      ['0.0005', '0.5000', '1.0000', '1.0000']

    References:
      Ma and Yarats 2019, section 5 (https://arxiv.org/abs/1910.04209).
    """
    _arguments.check_decay_rate("b2", b2)

    def schedule(count: ArrayLike) -> jax.Array:
        return jnp.minimum(1, _step(count) * (1 - b2) / 2)

    return schedule


def untuned_exponential_warmup_schedule(b2: ArrayLike) -> optax.Schedule:
    """Exponential warmup with a time constant of 1 / (1 - b2) steps.

    The factor of step t = count + 1 is 1 - exp(-(1 - b2) t).

    Args:
      b2: decay rate of the second moment, a number in [0, 1).

    Returns:
      An `optax.Schedule`: maps a count of updates, from 0, of any shape, to factors of
      that shape in (0, 1], float32 (float64 in x64).

    Raises:
      TypeError: if `b2` is not a scalar number.
      ValueError: if `b2` is outside [0, 1).

    Examples:
      >>> import optax_radam
      >>> schedule = optax_radam.untuned_exponential_warmup_schedule(b2=0.999)
      >>> print([f"{schedule(count):.4f}" for count in (0, 999, 1999, 5000)])
      ['0.0010', '0.6321', '0.8647', '0.9933']

    References:
      Ma and Yarats 2019, section 5 (https://arxiv.org/abs/1910.04209).
    """
    _arguments.check_decay_rate("b2", b2)

    def schedule(count: ArrayLike) -> jax.Array:
        return -jnp.expm1(-_step(count) * (1 - b2))

    return schedule


def multiply_schedules(*schedules: optax.ScalarOrSchedule) -> optax.Schedule:
    """The product of schedules: puts a warmup on any learning rate.

    Args:
      schedules: at least one, each a schedule or a finite number >= 0.

    Returns:
      An `optax.Schedule`: maps a count of updates, from 0, to the product of the
      schedules' values, in its shape and dtype.

    Raises:
      TypeError: if there are no schedules, or one is neither a schedule nor a number.
      ValueError: if a number is negative or not finite.

    Examples:
      >>> import optax, optax_radam
      >>> warmup = optax_radam.untuned_linear_warmup_schedule(b2=0.99)
      >>> cosine = optax.cosine_decay_schedule(1e-3, decay_steps=10_000)
      >>> schedule = optax_radam.multiply_schedules(warmup, cosine)
      >>> print([f"{schedule(count):.2e}" for count in (0, 99, 199, 5000)])
      ['5.00e-06', '5.00e-04', '9.99e-04', '5.00e-04']

    References:
      `optax.join_schedules`, which puts schedules one after another.
    """
    if not schedules:
        raise TypeError("`schedules` must be at least one schedule, got none.")
    for index, factor in enumerate(schedules):
        _arguments.check_number_or_schedule(f"schedules[{index}]", factor)

    def schedule(count: ArrayLike) -> ArrayLike:
        product: ArrayLike = math.prod(
            factor(count) if callable(factor) else factor for factor in schedules
        )
        return product

    return schedule


def effective_warmup_period(schedule: optax.Schedule, steps: int) -> float:
    """Number of full steps that a warmup costs.

    It is the sum of 1 - factor over the steps. Optax's counts stop at 2,147,483,647:
    all later steps have the factor of that one.

    Args:
      schedule: a warmup factor, 1 at its end; a schedule that `jax.jit` can trace.
      steps: the number of updates to sum over, an integer >= 1.

    Returns:
      A Python float, summed in float64: the number of steps with factor 0 that would
      cost as much.

    Raises:
      TypeError: if `schedule` is not a function or `steps` is not an integer.
      ValueError: if `steps` is below 1.

    Examples:
      >>> import optax_radam
      >>> schedule = optax_radam.untuned_linear_warmup_schedule(b2=0.999)
      >>> print(f"{optax_radam.effective_warmup_period(schedule, 10_000):.1f}")
      999.5

    References:
      Ma and Yarats 2019, section 5 (https://arxiv.org/abs/1910.04209).
    """
    _arguments.check_function("schedule", schedule)
    _arguments.check_integer("steps", steps, at_least=1)
    steps = int(steps)
    counts = min(steps, _COUNTS)

    @functools.partial(jax.jit, static_argnums=1)
    def factors(first: jax.Array, size: int) -> Any:
        return jax.vmap(schedule)(first + jnp.arange(size, dtype=jnp.int32))

    def cost(first: int) -> float:
        part = factors(jnp.int32(first), min(_PART, counts - first))
        smallest, largest = float(part.min()), float(part.max())
        if smallest == largest:  # after the end of a warmup, for example
            return int(part.size) * (1 - smallest)
        return math.fsum(1 - factor for factor in part.tolist())

    total = math.fsum(map(cost, range(0, counts, _PART)))
    if steps > counts:
        total += (steps - counts) * (1 - float(schedule(jnp.int32(_COUNTS - 1))))
    return total


def warmup_linear_decay_schedule(
    peak_value: ArrayLike,
    total_steps: ArrayLike,
    warmup_proportion: ArrayLike = 0.1,
    end_value: ArrayLike = 0.0,
) -> optax.Schedule:
    """Linear warmup to a peak, then a straight line down, then constant.

    The value of step t = count + 1, with w = total_steps * warmup_proportion, not
    rounded::

        peak * t / w                                         where t < w
        peak + (end - peak) * (t - w) / (total_steps - w)    then
        end                                                  where t >= total_steps

    Args:
      peak_value: value at the end of the warmup, a finite number.
      total_steps: length of warmup and decay together, in updates; a number >= 1.
      warmup_proportion: the warmup's share of `total_steps`, in [0, 1); 0 for none.
      end_value: value from `total_steps` on, a finite number.

    Returns:
      An `optax.Schedule`: maps a count of updates, from 0, of any shape, to values of
      that shape, float32 (float64 in x64).

    Raises:
      TypeError: if an argument is not a scalar number.
      ValueError: if an argument is outside its range.

    Examples:
      >>> import optax_radam
      >>> schedule = optax_radam.warmup_linear_decay_schedule(1e-3, 5000, 0.1, 1e-5)
      >>> print([f"{schedule(count):.2e}" for count in (0, 499, 2749, 4999, 9999)])
      ['2.00e-06', '1.00e-03', '5.05e-04', '1.00e-05', '1.00e-05']

    References:
      `total_steps`, `warmup_proportion` and `min_lr` of keras-rectified-adam
      (https://github.com/CyberZHG/keras-radam) and of TensorFlow Addons'
      `RectifiedAdam`.
    """
    _arguments.check_finite("peak_value", peak_value)
    _arguments.check_count("total_steps", total_steps, at_least=1)
    _arguments.check_proportion("warmup_proportion", warmup_proportion)
    _arguments.check_finite("end_value", end_value)

    def schedule(count: ArrayLike) -> jax.Array:
        t = _step(count)
        total = jnp.asarray(total_steps, float)
        warmup_steps = total * warmup_proportion
        warming_up = t < warmup_steps
        rise = t / jnp.where(warming_up, warmup_steps, 1)  # finite without a warmup
        # Finite without a decay: float32 rounds a proportion near 1 to 1.
        decay_steps = jnp.where(warmup_steps < total, total - warmup_steps, 1)
        fall = jnp.clip((t - warmup_steps) / decay_steps, 0, 1)
        fall = jnp.where(t < total, fall, 1)
        line = (1 - fall) * peak_value + fall * end_value
        return jnp.where(warming_up, rise * peak_value, line)

    return schedule
