"""The stage that rectifies: a factor that depends only on the step and b2."""

import functools
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_radam import _arguments, _dtypes, _history, _schedules


class ScaleByRectificationState(NamedTuple):
    """State of `scale_by_rectification`.

    The names differ from other states' `count`, so that
    `optax.tree.get(state, "rectification")` finds the factor in any chain.
    """

    #: Updates made so far; shape (), int32.
    rectification_count: jax.Array
    #: Factor last applied, 0 at first; shape (), float32 (float64 in x64).
    rectification: jax.Array
    #: Sums over the rates so far; scalars; None if `b2` is a number or with `shifted`.
    length_history: _history.LengthHistory | None = None


@jax.custom_jvp
def _silencing_product(x: jax.Array, factor: jax.Array) -> jax.Array:
    """The product; 0 where the factor is 0, even if x is infinite or NaN."""
    return jax.lax.select(factor == 0, jnp.zeros_like(x), factor * x)


# The values need one comparison of scalars and fuse with the operations that made x.
# Only derivatives with respect to a `before` of 0 must look at each element.
@_silencing_product.defjvp
def _silencing_product_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x, factor), (dx, dfactor) = primals, tangents
    finite = jnp.where(jnp.isfinite(x), x, 0)
    tangent = _silencing_product(dx, factor) + dfactor * finite
    return _silencing_product(x, factor), tangent


@functools.partial(jax.jit, static_argnums=0)
def _scale_leaf(never_zero: bool, update: jax.Array, factor: jax.Array) -> jax.Array:
    """The product, computed in float32 or wider, in the update's dtype.

    `never_zero` says that the factor is not 0.
    """
    wide = update.astype(_dtypes.promote(update.dtype, jnp.float32))
    factor = factor.astype(wide.real.dtype)
    product = factor * wide if never_zero else _silencing_product(wide, factor)
    return product.astype(update.dtype)


def scale_by_rectification(
    b2: optax.ScalarOrSchedule,
    threshold: ArrayLike = 5.0,
    *,
    before: ArrayLike = 0.0,
    shifted: bool = False,
) -> optax.GradientTransformation:
    """Multiplies updates by r_t once tractable, and by `before` until then.

    The update u of step t becomes::

        r_t * u       where rho_t >= threshold
        before * u    elsewhere

    If `b2` is a schedule or an array, these lengths replace rho_t and rho_inf, where
    w_i is the weight of gradient i in the second moment, and all w_i add up to 1::

        n_t = min(2 sum_i (t + 1 - i) w_i - 1, 1 / sum_i w_i^2)
        N_t = 2 / (1 - b2_t) - 1

    A step is tractable if n_t >= threshold and N_t > threshold. After the first
    tractable step, intractable ones have the factor 0 and no longer `before`.

    Args:
      b2: decay rate of the second moment that is rectified. It has no default because
        it must be the rate of the transformation before this in the chain. A Python
        number in ((threshold - 1) / (threshold + 1), 1); an array in [0, 1), which may
        change in each step; or a schedule from the count of updates to numbers in
        [0, 1). Training stops where it stays at or below
        (threshold - 1) / (threshold + 1).
      threshold: smallest rho_t, or n_t, treated as tractable, a number >= 4.
      before: the factor until then, a finite number: 0 emits zeros (the authors' code
        with `degenerated_to_sgd=False`), 1 lets the updates through (Algorithm 2).
      shifted: True to begin with the factor of the first tractable step, so that no
        step is lost; `before` is then unused. An array `b2` is then treated as a
        constant, in ((threshold - 1) / (threshold + 1), 1), and a schedule is refused.

    Returns:
      An `optax.GradientTransformation` whose state is a `ScaleByRectificationState`.
      Updates keep structure, shapes and dtypes, and are multiplied in float32 at least.

    Raises:
      TypeError: if an argument is of the wrong kind, `shifted` is traced, or `b2` is a
        schedule with it; from `init` and `update`, if a leaf is an integer or a
        boolean; from `update`, if the state is not a `ScaleByRectificationState`.
      ValueError: if `b2`, `threshold` or `before` is outside its range; from `update`,
        if the state was made for a number and `b2` is not one, or the other way round.

    Examples:
      >>> import jax.numpy as jnp, optax, optax_radam
      >>> transform = optax_radam.scale_by_rectification(b2=0.999)
      >>> state = transform.init(jnp.zeros(2))
      >>> for _ in range(6):
      ...     updates, state = transform.update(jnp.ones(2), state)
      >>> print(f"{optax.tree.get(state, 'rectification'):.4f}")
      0.0258

      A `b2` that grows, as T5's does:

      >>> b2 = lambda count: 1 - (count + 1.0) ** -0.8
      >>> transform = optax_radam.scale_by_rectification(b2)
      >>> state = transform.init(jnp.zeros(2))
      >>> for _ in range(10):
      ...     updates, state = transform.update(jnp.ones(2), state)
      >>> print(f"{optax.tree.get(state, 'rectification'):.4f}")
      0.6764

    References:
      Liu et al. 2020, Algorithm 2 (https://arxiv.org/abs/1908.03265); the effective
      sample size: Kish 1965, Survey Sampling.
    """
    _arguments.check_flag("shifted", shifted)
    is_constant = _history.is_number(b2) or shifted
    if is_constant:
        if callable(b2):
            raise TypeError(
                '`b2` must be a number with `shifted=True` (`fallback="shifted"`), got '
                f"{b2!r}: under a schedule, the first tractable step is not known "
                "before it comes."
            )
        schedule = _schedules.rectification_schedule(
            b2, threshold, before=before, shifted=shifted
        )
    else:
        _arguments.check_threshold_of_stage(threshold, b2)
        _arguments.check_finite("before", before)

    # r_t is 0 where rho_t <= 4, and float32 may round a slightly larger rho_t to 4.
    never_zero = isinstance(threshold, numbers.Real) and threshold > 4.01
    never_zero &= is_constant and (shifted or _dtypes.is_nonzero(before))

    def init_fn(params: optax.Params) -> ScaleByRectificationState:
        _arguments.check_inexact_leaves("params", params)
        return ScaleByRectificationState(
            rectification_count=jnp.zeros([], jnp.int32),
            rectification=jnp.zeros([], float),
            length_history=None if is_constant else _history.no_lengths(),
        )

    def update_fn(
        updates: optax.Updates,
        state: ScaleByRectificationState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, ScaleByRectificationState]:
        del params
        _arguments.check_state(state, ScaleByRectificationState)
        _arguments.check_inexact_leaves("updates", updates)
        if not shifted:
            _history.check_kind("b2", is_constant, state.length_history)
        count = optax.safe_increment(state.rectification_count)
        history = state.length_history
        if history is None:
            # From the new count, so that GPUs need no copy of the old one.
            factor = schedule(count - 1)
        else:
            b2_now = _history.rate_at("b2", b2, count)
            history, factor = _history.advance(history, b2_now, threshold)
            # Where `before` is 1, raw momentum must not come back later in the run.
            factor = jnp.where(
                history.rectified, factor, jnp.asarray(before, factor.dtype)
            )
        updates = jax.tree.map(lambda u: _scale_leaf(never_zero, u, factor), updates)
        # The state may have been made under another `jax_enable_x64`.
        dtype = jax.dtypes.canonicalize_dtype(jnp.result_type(state.rectification))
        return updates, ScaleByRectificationState(
            rectification_count=count,
            rectification=factor.astype(dtype),
            length_history=history,
        )

    return optax.GradientTransformation(init_fn, update_fn)


def rectify(
    inner: optax.GradientTransformation,
    b2: optax.ScalarOrSchedule,
    threshold: ArrayLike = 5.0,
    *,
    shifted: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Rectifies any adaptive transformation: r_t times its updates, 0 at first.

    The updates of step t, from gradients g::

        r_t * inner(g)    where rho_t >= threshold
        0                 elsewhere

    r_t suits a second moment that averages each element's squares at decay rate `b2`
    and is corrected for bias. The variance of the rectified rate should be 1; measured
    for Optax's transformations at b2 = 0.99 (docs/recipes.md has the table):

    * Sound, 0.4 to 1.25: adam, belief, ademamix, acprop, adan (use its `b3`); rms and
      stddev with `bias_correction=True`.
    * Tolerable: yogi, and amsgrad, whose rates vary more but are never above adam's.
    * Wrong: rms and stddev without bias correction (8), adopt (13), adagrad (below
      0.1), adamax (0.2 to 2).
    * Nothing to rectify: factored moments, novograd, lion.

    Rectify last: a trust ratio or an active norm clip afterwards normalizes the updates
    and cancels r_t. Write `rectify(optax.lamb(1e-3, b2=0.999), b2=0.999)`.

    Args:
      inner: a transformation that divides by the root of a bias-corrected second
        moment: `optax.scale_by_adam`, `optax.scale_by_belief`, your own. It runs from
        the first step, and its updates are zero until they are tractable.
      b2: the decay rate of that second moment, a number in
        ((threshold - 1) / (threshold + 1), 1); or an array or a schedule, as in
        `scale_by_rectification`. No default: transformations differ in theirs
        (`optax.scale_by_rms` has 0.9).
      threshold: smallest rho_t treated as tractable, a number >= 4.
      shifted: True to begin with the factor of the first tractable step, so that no
        step is lost. Not with stddev or acprop: their first steps are not bounded.

    Returns:
      An `optax.GradientTransformationExtraArgs`:
      `optax.chain(inner, scale_by_rectification(b2, threshold, shifted=shifted))`.
      Structure, shapes and dtypes are those of `inner`'s updates.

    Raises:
      TypeError: if `inner` is not a transformation, a number is not a scalar, or `b2`
        is a schedule with `shifted`.
      ValueError: if `b2` or `threshold` is outside its range.

    Examples:
      >>> import optax, optax_radam
      >>> rectified_belief = optax.chain(
      ...     optax_radam.rectify(optax.scale_by_belief(b2=0.999), b2=0.999),
      ...     optax.scale_by_learning_rate(1e-3),
      ... )

    References:
      Liu et al. 2020, section 4 (https://arxiv.org/abs/1908.03265).
    """
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(
            f"`inner` must be an optax.GradientTransformation, got {inner!r}."
        )
    return optax.chain(inner, scale_by_rectification(b2, threshold, shifted=shifted))
