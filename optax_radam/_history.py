"""Running sums for bias corrections and r_t where decay rates change.

At step t, a moving average whose rate is b_i in step i gives gradient i the weight
w_i = (1 - b_i) b_{i+1} ... b_t. Four numbers follow by recursion: the sum W of the
weights, by which the average is divided; the newest gradient's share k of W; the mean
age of the gradients, 1 for the newest; and the sum q of the squared shares::

    W_t = b_t W_{t-1} + (1 - b_t)
    k_t = (1 - b_t) / W_t
    age_t = 1 + (1 - k_t) age_{t-1}
    q_t = k_t^2 + (1 - k_t)^2 q_{t-1}

The average's length is n_t = min(2 age_t - 1, 1 / q_t). At a constant rate it would
end at N_t = 2 / (1 - b_t) - 1. If the rate never changes, these are rho_t and rho_inf.
If it rises, the mean age counts more gradients than carry the weight; Kish's effective
sample size, 1 / q, does not.
"""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_radam import _arguments, _sma


class Sum(NamedTuple):
    """A sum in twice the precision; floating scalars that add up to it."""

    high: jax.Array
    low: jax.Array


class LengthHistory(NamedTuple):
    """Sums over the rates of a second moment so far."""

    weight: Sum  # W_t: 1 minus the product of all rates
    age: Sum
    squares: Sum  # q_t
    rectified: jax.Array  # shape (), bool: True once a step was tractable


class DecayHistory(NamedTuple):
    """Sums over the rates of both moments so far; None where a rate is a number."""

    b1: Sum | None  # W_t
    b2: LengthHistory | None


def is_number(decay: optax.ScalarOrSchedule) -> bool:
    """Returns True if a rate never changes; an array may change between steps."""
    return isinstance(decay, numbers.Real)


def no_sum() -> Sum:
    """The sum before the first step."""
    return Sum(jnp.zeros([], float), jnp.zeros([], float))


def no_lengths() -> LengthHistory:
    """The history before the first step."""
    return LengthHistory(no_sum(), no_sum(), no_sum(), jnp.zeros([], bool))


def no_rates(
    b1: optax.ScalarOrSchedule, b2: optax.ScalarOrSchedule
) -> DecayHistory | None:
    """The history of both moments before the first step; None for two numbers."""
    if is_number(b1) and is_number(b2):
        return None
    return DecayHistory(
        None if is_number(b1) else no_sum(), None if is_number(b2) else no_lengths()
    )


def check_kind(name: str, is_constant: bool, history: Any | None) -> None:
    """Refuses a state made for another kind of rate."""
    if is_constant != (history is None):
        kinds = ("a schedule or an array", "a number")
        raise ValueError(
            f"`{name}` is {kinds[is_constant]}, but the state was made for "
            f"{kinds[not is_constant]}. Convert it: `optax_radam.from_optax_state("
            "state, b1=..., b2=...)`, with numbers where they are numbers from now on, "
            "and with the schedules or arrays of the steps so far where they are not."
        )


def rate_at(name: str, decay: optax.ScalarOrSchedule, step: jax.Array) -> ArrayLike:
    """The rate of a step, counted from 1; `name` is for errors."""
    rate: ArrayLike = decay
    if callable(decay):
        rate = decay(step - 1)
        _arguments.check_decay_rate(f"{name}(count)", rate)
    return rate


def _add(total: Sum, forgotten: jax.Array, new: ArrayLike) -> Sum:
    """(1 - forgotten) * total + new.

    If each sum were one float32, r_t would drift by 5e-3 in a million steps at
    b2 = 0.99999. So the rounding error is kept too (Knuth's TwoSum).
    """
    old = total.high
    added = (new - forgotten * old) + (1 - forgotten) * total.low
    high = old + added
    of_added = high - old
    return Sum(high, (old - (high - of_added)) + (added - of_added))


def _newest(total: Sum, rate: ArrayLike) -> jax.Array:
    """The newest gradient's weight, 1 - rate, in the dtype of the state's sum.

    The rate is not rounded first: its rounding would be a large part of the weight.
    """
    # The sum may have been made under another `jax_enable_x64`.
    dtype = jax.dtypes.canonicalize_dtype(jnp.result_type(total.high))
    return jnp.asarray(_sma.complement(rate), dtype)


def add_weight(weight: Sum, rate: ArrayLike) -> Sum:
    """W_t from W_{t-1} and the rate of step t."""
    newest = _newest(weight, rate)
    return _add(weight, newest, newest)


@jax.jit
def _advance(
    history: LengthHistory, newest: jax.Array, threshold: jax.Array
) -> tuple[LengthHistory, jax.Array]:
    """`advance`, given 1 - b2."""
    weight = _add(history.weight, newest, newest)
    share = newest / weight.high
    age = _add(history.age, share, 1)
    squares = _add(history.squares, share * (2 - share), share**2)
    by_age = (2 * age.high - 1) + 2 * age.low
    length = jnp.minimum(by_age, 1 / squares.high)
    limit = 2 / newest - 1
    tractable = (length >= threshold) & (limit > threshold)
    factor = jnp.where(tractable, _sma.rectification_of(length, limit), 0)
    rectified = history.rectified | tractable
    return LengthHistory(weight, age, squares, rectified), factor


def advance(
    history: LengthHistory, b2: ArrayLike, threshold: ArrayLike | None
) -> tuple[LengthHistory, jax.Array]:
    """Advances the sums by one step.

    Args:
      history: sums over the steps before.
      b2: decay rate of the second moment in this step, a number in [0, 1).
      threshold: the smallest n_t treated as tractable, a number >= 4, which N_t must
        exceed; None if r_t is not needed.

    Returns:
      The history with the step, and the step's r_t, computed from n_t and N_t instead
      of rho_t and rho_inf: a scalar in the history's dtype, 0 where not tractable.
    """
    newest = _newest(history.weight, b2)
    threshold = jnp.inf if threshold is None else threshold
    advanced: tuple[LengthHistory, jax.Array] = _advance(
        history, newest, jnp.asarray(threshold, newest.dtype)
    )
    return advanced


def advance_both(
    history: DecayHistory, b1: ArrayLike, b2: ArrayLike, threshold: ArrayLike | None
) -> DecayHistory:
    """Advances both histories by a step with rates `b1` and `b2`."""
    return DecayHistory(
        history.b1 and add_weight(history.b1, b1),
        history.b2 and advance(history.b2, b2, threshold)[0],
    )


def replay(
    count: jax.Array,
    b1: optax.ScalarOrSchedule,
    b2: optax.ScalarOrSchedule,
    threshold: ArrayLike,
) -> DecayHistory | None:
    """The history after `count` steps; `count` may be an array, one for each run."""
    start = no_rates(b1, b2)
    if start is None:
        return None

    def step(index: jax.Array, history: DecayHistory) -> DecayHistory:
        b1_now, b2_now = rate_at("b1", b1, index + 1), rate_at("b2", b2, index + 1)
        return advance_both(history, b1_now, b2_now, threshold)

    def run(count: jax.Array) -> Any:
        return jax.lax.fori_loop(0, count, step, start)

    for _ in range(jnp.ndim(count)):
        run = jax.vmap(run)
    history: DecayHistory = run(count)
    return history
