"""Rectification's numbers at a step, for logs and inspection."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_radam import _arguments, _schedules, _sma


def _as_array(step: Any) -> jax.Array:
    """The steps as given, but floating where JAX's integers cannot hold them."""
    if isinstance(step, (jax.Array, float)):
        return jnp.asarray(step)
    of_python = isinstance(step, int)  # otherwise of NumPy
    dtype = jnp.result_type(int if of_python else step)
    if jnp.issubdtype(dtype, jnp.integer):
        largest = step if of_python else step.max(initial=1)
        if largest > jnp.iinfo(dtype).max:  # type: ignore[no-untyped-call]
            return jnp.asarray(step, float)
    return jnp.asarray(step)


def describe(
    step: ArrayLike,
    b2: ArrayLike = 0.999,
    threshold: ArrayLike = 5.0,
    *,
    before: ArrayLike = 0.0,
) -> dict[str, jax.Array]:
    """Returns rho_t, r_t and the applied factor of a step; cheap, also under `jit`.

    Args:
      step: t, the steps taken, counted from 1; integers or floats of any shape. For
        the step just made, `optax.tree.get(state, "rectification_count")`.
      b2: decay rate of the second moment, a number in
        ((threshold - 1) / (threshold + 1), 1).
      threshold: smallest rho_t treated as tractable, a number >= 4.
      before: the factor until then, a finite number: 0 waits, 1 lets steps through.

    Returns:
      A dict of arrays shaped like `step`: "step" as given, but floating where JAX's
      integers cannot hold it; "rho", "r" and "factor", float32 (float64 in x64);
      "tractable", bool: rho >= threshold.

    Raises:
      TypeError: if `step` is not a real number or array, or another argument is not a
        scalar number.
      ValueError: if `b2`, `threshold` or `before` is outside its range, or `step` is a
        Python number below 1 or not finite.

    Examples:
      >>> import optax_radam
      >>> for name, value in optax_radam.describe(6, b2=0.999).items():
      ...     print(name, f"{value:.4g}")
      step 6
      rho 5.994
      r 0.02582
      tractable 1
      factor 0.02582

    References:
      Liu et al. 2020, Algorithm 2 (https://arxiv.org/abs/1908.03265).
    """
    _arguments.check_steps(step)
    step = _as_array(step)
    schedule = _schedules.rectification_schedule(b2, threshold, before=before)
    return {
        "step": step,
        "rho": _sma.sma_length(step, b2),
        "r": _sma.rectification(step, b2),
        "tractable": _sma.is_tractable(step, b2, threshold),
        "factor": schedule(step - 1),
    }
