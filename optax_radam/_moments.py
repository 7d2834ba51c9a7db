"""The stage that holds the moments: momentum at first, then Adam's direction.

Liu et al. 2020, Algorithm 2, without r_t and the learning rate: later stages apply
these.
"""

import functools
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from optax_radam import _arguments, _dtypes, _history, _sharding, _sma


class ScaleByMomentsState(NamedTuple):
    """State of `scale_by_moments`."""

    #: Updates made so far; shape (), int32.
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as in Optax
    #: Mean of the gradients; shapes and dtypes of the parameters.
    mu: optax.Updates
    #: Mean of the squared gradients; shapes of the parameters, real, at least float32.
    nu: optax.Updates
    #: Largest `nu` so far, not corrected for bias, like `nu`; None without `amsgrad`.
    nu_max: optax.Updates | None = None
    #: Sums over the rates so far; scalars; None if both rates are numbers.
    decay_history: _history.DecayHistory | None = None


class _Decay(NamedTuple):
    """A decay rate in the form that `_average` needs; floating scalars."""

    kept: ArrayLike  # 1, or the rate itself where that is below 1/2
    pull: ArrayLike  # 1 - rate, or 0
    weight: ArrayLike  # 1 - rate


class _StepScalars(NamedTuple):
    """Numbers of a step that every leaf's update needs; floating scalars."""

    b1: _Decay
    b2: _Decay
    # Coefficients of m_hat; without Nesterov, 1 / (1 - b1^t) and None.
    of_mu: ArrayLike
    of_gradient: ArrayLike | None
    nu_correction: ArrayLike  # 1 / (1 - b2^t)
    eps: ArrayLike
    eps_root: ArrayLike | None  # None where it is the number 0


_OTHER_STRUCTURE = "`updates` must have the structure of the `params` that `init` got"


@jax.custom_jvp
def _sqrt(x: jax.Array) -> jax.Array:
    """The square root, with a derivative of 0, not infinity, at 0."""
    return jnp.sqrt(x)


@_sqrt.defjvp
def _sqrt_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    # Does not call `_sqrt`: inside `lax.scan`, jax 0.10 would ignore this rule when
    # it differentiates a second time.
    zero = x == 0
    root = jnp.sqrt(jnp.where(zero, 1, x))
    return jnp.where(zero, 0, root), jnp.where(zero, 0, dx / (2 * root))


def _split(decay: ArrayLike) -> _Decay:
    """The coefficients of `_average` for a decay rate, a number in [0, 1)."""
    if isinstance(decay, numbers.Real):
        rate = float(decay)
        weight = 1 - rate
        return _Decay(1.0, weight, weight) if rate >= 0.5 else _Decay(rate, 0.0, weight)
    rates = jnp.asarray(decay, float)
    slow = rates >= 0.5
    return _Decay(jnp.where(slow, 1, rates), jnp.where(slow, 1 - rates, 0), 1 - rates)


def _average(decay: _Decay, old: jax.Array, new: jax.Array) -> jax.Array:
    """The moving average's next value, decay * old + (1 - decay) * new.

    In float32, decay and 1 - decay do not add up to 1: with that formula, averages end
    up to 1.4e-3 low at 0.99999. So the old value is pulled towards the new one, unless
    it decays so fast that its rounding error would outlast it.
    """
    return jnp.asarray(decay.kept * old + (decay.weight * new - decay.pull * old))


# At module level, so that leaves of equal shape and dtype are traced once, and an
# update outside of `jit` runs compiled.
@functools.partial(jax.jit, static_argnums=0)
def _update_leaf(
    has_eps: bool,
    scalars: _StepScalars,
    tractable: jax.Array,
    gradient: jax.Array,
    mu: jax.Array,
    nu: jax.Array,
    nu_max: jax.Array | None = None,
) -> tuple[jax.Array, ...]:
    """Returns one leaf's update, mu, nu and, with AMSGrad, nu_max.

    `has_eps` says that eps is not 0.
    """
    out_dtype = _dtypes.promote(gradient.dtype, mu.dtype)
    real_dtype = _dtypes.promote(_dtypes.second_moment_dtype(out_dtype), nu.dtype)
    dtype = _dtypes.promote(out_dtype, real_dtype)
    s = jax.tree.map(lambda x: jnp.asarray(x, real_dtype), scalars)

    g = gradient.astype(dtype)
    square = g.real**2 + g.imag**2 if jnp.iscomplexobj(g) else g**2
    square = jnp.minimum(square, _dtypes.largest_square(real_dtype))
    new_mu = _average(s.b1, mu.astype(dtype), g)
    new_nu = _average(s.b2, nu.astype(real_dtype), square)
    second = new_nu
    kept = [new_mu.astype(mu.dtype), new_nu.astype(nu.dtype)]
    if nu_max is not None:
        second = jnp.maximum(nu_max.astype(real_dtype), new_nu)
        kept.append(second.astype(nu_max.dtype))
    if out_dtype == mu.dtype:
        # Read back the rounded mu; otherwise XLA recomputes it from a copy, at twice
        # the time.
        new_mu = kept[0].astype(dtype)
    momentum = s.of_mu * new_mu
    if s.of_gradient is not None:
        momentum += s.of_gradient * g

    under_root = second * s.nu_correction
    if s.eps_root is not None:
        under_root += s.eps_root
    denominator = _sqrt(under_root) + s.eps
    one = jnp.ones_like(denominator)
    if not has_eps:
        # It is 0 where the squares of all gradients so far are 0.
        denominator = jax.lax.select(denominator == 0, one, denominator)
    # Select the denominator, not the quotient, so that the unused branch is finite.
    update = momentum / jax.lax.select(tractable, denominator, one)
    return update.astype(out_dtype), *kept


def _is_zero(x: ArrayLike) -> bool:
    """Returns True for the number 0, but not for an array, which may change."""
    return isinstance(x, numbers.Real) and x == 0


def _bias_correction(
    step: jax.Array, decay: Any, weight: _history.Sum | None
) -> jax.Array:
    """The sum of an average's weights: in closed form if the rate is a number."""
    return _sma.bias_correction(step, decay) if weight is None else weight.high


def _momentum_coefficients(
    step: jax.Array,
    b1: optax.ScalarOrSchedule,
    rate: ArrayLike,
    weight: _history.Sum | None,
    nesterov: bool,
) -> tuple[ArrayLike, ArrayLike | None]:
    """Coefficients of mu and of the gradient in the bias-corrected momentum m_hat.

    `rate` is the step's b1; `weight` is the sum of mu's weights, None if `b1` is a
    number.
    """
    correction = 1 / _bias_correction(step, rate, weight)
    if not nesterov:
        return correction, None
    next_rate, next_step = rate, jnp.asarray(step, float) + 1
    if weight is not None:
        next_rate = _history.rate_at("b1", b1, optax.safe_increment(step))
        weight = _history.add_weight(weight, next_rate)
    next_correction = _bias_correction(next_step, next_rate, weight)
    return next_rate / next_correction, (1 - rate) * correction


def _flatten_together(
    updates: optax.Updates, moments: Sequence[optax.Updates]
) -> tuple[Any, list[list[jax.Array | None]]]:
    """The structure of the updates, and each leaf with its moments.

    None counts as a leaf: frozen parameters have no gradients.
    """
    treedef: Any  # its methods have no types
    gradients, treedef = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
    try:
        columns = [treedef.flatten_up_to(tree) for tree in moments]
    except ValueError as error:
        raise ValueError(f"{_OTHER_STRUCTURE}: {error}") from error
    rows = [list(row) for row in zip(gradients, *columns, strict=True)]
    for gradient, mu, *_ in rows:
        if gradient is None:
            continue
        if mu is None:
            raise ValueError(f"{_OTHER_STRUCTURE}: a gradient stands where it got None")
        if jnp.iscomplexobj(gradient) and not jnp.iscomplexobj(mu):
            raise TypeError(
                "`updates` must be real where the `params` that `init` got are: a "
                f"gradient of dtype {jnp.result_type(gradient)} stands where a "
                f"{jnp.result_type(mu)} was."
            )
        if jnp.shape(gradient) != jnp.shape(mu):
            raise ValueError(
                "`updates` must have the shapes of the `params` that `init` got: a "
                f"gradient of shape {jnp.shape(gradient)} stands where those were of "
                f"shape {jnp.shape(mu)}."
            )
    return treedef, rows


def scale_by_moments(
    b1: optax.ScalarOrSchedule = 0.9,
    b2: optax.ScalarOrSchedule = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    threshold: ArrayLike | None = 5.0,
    *,
    nesterov: bool = False,
    amsgrad: bool = False,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Bias-corrected momentum, divided by Adam's denominator once that is tractable.

    The update of step t, from the moments m and v::

        m_hat = m / (1 - b1^t)
        v_hat = v / (1 - b2^t)
        u = m_hat / (sqrt(v_hat + eps_root) + eps)    where rho_t >= threshold
        u = m_hat                                     elsewhere

    With `nesterov`, m_hat = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t), where g is
    the gradient. With `amsgrad`, the largest v so far replaces v.

    If `b1` or `b2` is a schedule or an array, the product of its values so far replaces
    b1^t or b2^t. For such a `b2`, the lengths of `scale_by_rectification` replace
    rho_t, and once a step is tractable, all later ones divide.

    This is RAdam without r_t, which `scale_by_rectification` applies: use the same
    `b2` and `threshold` in both.

    Args:
      b1: decay rate of the first moment, in [0, 1): a number; an array, which may
        change in each step; or a schedule from the count of updates.
      b2: decay rate of the second moment: a number in
        ((threshold - 1) / (threshold + 1), 1), or an array or a schedule in [0, 1).
      eps: added to the denominator, beside the square root; a finite number >= 0.
      eps_root: added to the second moment, inside the root; a finite number >= 0.
      threshold: smallest rho_t at which the denominator is used, a number >= 4; None
        to use it always, which is Adam, with any `b2` in [0, 1).
      nesterov: True for Nesterov momentum, one step ahead, in Optax's form: m is
        multiplied by the next step's `b1` if that is a schedule, and by the current
        one if it is an array, whose next value is not known.
      amsgrad: True to divide by the largest second moment so far, in TensorFlow
        Addons' form: the maximum is taken before the bias is corrected.
      mu_dtype: dtype of the first moment, real and floating; None for each
        parameter's own. Complex leaves get the complex dtype of that precision.
      nu_dtype: dtype of the second moment, real, floating and at least 32 bits; None
        for each parameter's own, made real, and float32 for 16-bit leaves.

    Returns:
      An `optax.GradientTransformation` whose state is a `ScaleByMomentsState`. Updates
      have the gradients' structure and shapes, in the dtype that gradient and `mu`
      promote to. `None` in place of a gradient passes through. Finite gradients give
      finite moments: gradients above 1.3e19 have their squares clipped in float32.
      Infinite and NaN gradients show in the updates. Moments have their parameter's
      sharding, and keep it if gradients have it too.

    Raises:
      TypeError: if an argument is of the wrong kind, or a flag is traced; from `init`
        and `update`, if a leaf is an integer or a boolean; from `update`, if a
        gradient is complex and its parameter real, or if the state is not a
        `ScaleByMomentsState`.
      ValueError: if an argument is outside its range, or `nu_dtype` has 16 bits; from
        `update`, if the trees of gradients and state differ, or if the state was made
        for numbers and `b1` or `b2` is not one, or the other way round.

    Examples:
      >>> import jax.numpy as jnp, optax, optax_radam
      >>> transform = optax.chain(
      ...     optax_radam.scale_by_moments(b2=0.99, threshold=5.0),
      ...     optax_radam.scale_by_rectification(b2=0.99, threshold=5.0),
      ...     optax.scale_by_learning_rate(1e-3),
      ... )
      >>> params = {"w": jnp.ones(3)}
      >>> updates, state = transform.update({"w": jnp.ones(3)}, transform.init(params))

    References:
      Liu et al. 2020, Algorithm 2 (https://arxiv.org/abs/1908.03265); epsilon placed
      as in Kingma and Ba 2015, Algorithm 1 (https://arxiv.org/abs/1412.6980);
      AMSGrad: Reddi et al. 2018 (https://arxiv.org/abs/1904.09237); Nesterov momentum:
      Dozat 2016, in the form of `optax.scale_by_radam`.
    """
    _arguments.check_rate_or_schedule("b1", b1)
    _arguments.check_rate_or_schedule("b2", b2)
    _arguments.check_non_negative("eps", eps)
    _arguments.check_non_negative("eps_root", eps_root)
    if threshold is not None:
        _arguments.check_threshold_of_stage(threshold, b2)
    _arguments.check_flag("nesterov", nesterov)
    _arguments.check_flag("amsgrad", amsgrad)
    _arguments.check_moment_dtype("mu_dtype", mu_dtype, bits=16)
    _arguments.check_moment_dtype("nu_dtype", nu_dtype, bits=32)

    def init_fn(params: optax.Params) -> ScaleByMomentsState:
        _arguments.check_inexact_leaves("params", params)

        def first(p: jax.Array) -> jax.Array:
            dtype = _dtypes.first_moment_dtype(jnp.result_type(p), mu_dtype)
            return _sharding.zeros_alike(p, dtype)

        def second(p: jax.Array) -> jax.Array:
            dtype = _dtypes.second_moment_dtype(jnp.result_type(p), nu_dtype)
            return _sharding.zeros_alike(p, dtype)

        return ScaleByMomentsState(
            count=jnp.zeros([], jnp.int32),
            mu=jax.tree.map(first, params),
            nu=jax.tree.map(second, params),
            nu_max=jax.tree.map(second, params) if amsgrad else None,
            decay_history=_history.no_rates(b1, b2),
        )

    def update_fn(
        updates: optax.Updates,
        state: ScaleByMomentsState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, ScaleByMomentsState]:
        del params
        _arguments.check_state(state, ScaleByMomentsState)
        _arguments.check_inexact_leaves("updates", updates)
        if amsgrad != (state.nu_max is not None):
            raise ValueError(
                f"`amsgrad` is {amsgrad}, but the state was made with {not amsgrad}. "
                "To change it during a run, replace `nu_max` in the state: with a copy "
                "of its `nu` to turn it on, with None to turn it off."
            )
        mu_weight, lengths = state.decay_history or (None, None)
        _history.check_kind("b1", _history.is_number(b1), mu_weight)
        _history.check_kind("b2", _history.is_number(b2), lengths)
        step = optax.safe_increment(state.count)
        b1_now = _history.rate_at("b1", b1, step)
        b2_now = _history.rate_at("b2", b2, step)
        history = state.decay_history and _history.advance_both(
            state.decay_history, b1_now, b2_now, threshold
        )
        mu_weight, lengths = history or (None, None)
        of_mu, of_gradient = _momentum_coefficients(
            step, b1, b1_now, mu_weight, nesterov
        )
        scalars = _StepScalars(
            b1=_split(b1_now),
            b2=_split(b2_now),
            of_mu=of_mu,
            of_gradient=of_gradient,
            nu_correction=1
            / _bias_correction(step, b2_now, lengths and lengths.weight),
            eps=eps,
            eps_root=None if _is_zero(eps_root) else eps_root,
        )
        # Strong types need no conversion in each leaf.
        scalars = jax.tree.map(lambda x: jnp.asarray(x, float), scalars)
        tractable = jnp.array(True)
        if threshold is not None:
            tractable = (
                lengths.rectified
                if lengths
                else _sma.is_tractable(step, b2_now, threshold)
            )
        moments = [state.mu, state.nu] + ([state.nu_max] if amsgrad else [])
        treedef, rows = _flatten_together(updates, moments)
        results = [
            (None, *kept)
            if g is None
            else _update_leaf(_dtypes.is_nonzero(eps), scalars, tractable, g, *kept)
            for g, *kept in rows
        ]
        new_updates, *moments = (
            treedef.unflatten([result[index] for result in results])
            for index in range(1 + len(moments))
        )
        new_state = ScaleByMomentsState(step, *moments)
        return new_updates, new_state._replace(decay_history=history)

    return optax.GradientTransformation(init_fn, update_fn)
