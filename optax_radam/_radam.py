"""Rectified Adam: a chain of this package's two stages and two of Optax's own."""

from typing import Any, Literal

import optax
from jax.typing import ArrayLike, DTypeLike

from optax_radam import _arguments, _moments, _rectify, _weight_decay

# Arguments of `scale_by_rectification`.
_FALLBACKS: dict[str, dict[str, Any]] = {
    "momentum": {"before": 1.0},
    "skip": {"before": 0.0},
    "shifted": {"shifted": True},
}


def radam(
    learning_rate: optax.ScalarOrSchedule,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: optax.ScalarOrSchedule = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    threshold: ArrayLike = 5.0,
    *,
    nesterov: bool = False,
    amsgrad: bool = False,
    fallback: Literal["momentum", "skip", "shifted"] = "momentum",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: _weight_decay.Mask = None,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rectified Adam (RAdam), the paper's Algorithm 2 as a chain.

    Until rho_t reaches the threshold, in the first five steps at the defaults, the
    variance of Adam's direction is intractable. `fallback` says what to do then:

    * "momentum", the default, repeats the steps of `optax.radam` and PyTorch: raw
      momentum, as large as the gradients. On unscaled features these steps blow up
      (`examples/unscaled_features.py`).
    * "shifted" takes adaptive steps at once, with the factor of the first tractable
      one. Choose it for training in general.
    * "skip" takes no step, as the authors' code. Choose it where b2 changes, which
      "shifted" refuses. A solver may mistake its zero updates for convergence.

    Step t = 1, 2, ... with gradient g::

        m = b1 m + (1 - b1) g
        v = b2 v + (1 - b2) g^2
        m_hat = m / (1 - b1^t)
        v_hat = v / (1 - b2^t)
        rho_t = rho_inf - 2 t b2^t / (1 - b2^t), where rho_inf = 2 / (1 - b2) - 1
        u = r_t m_hat / (sqrt(v_hat + eps_root) + eps)    where rho_t >= threshold
        u = m_hat or 0, by `fallback`                     elsewhere
        params = params - learning_rate * (u + weight_decay * params)

    `rectification` defines r_t; `scale_by_moments` says how `nesterov` and `amsgrad`
    change m_hat and v_hat. With "shifted", every step is adaptive, with the factor
    r_{t + t_0 - 1}, where t_0 is the first tractable step.

    Args:
      learning_rate: a finite number >= 0, or a schedule from the count of updates.
      b1: decay rate of the first moment, in [0, 1): a number; an array, which may
        change in each step; or a schedule from the count of updates.
      b2: decay rate of the second moment: a number in
        ((threshold - 1) / (threshold + 1), 1), above 2/3 at the default threshold; or
        an array or a schedule in [0, 1), which bias corrections and r_t follow as in
        `scale_by_rectification`. Training stops where it stays at or below that bound.
      eps: added to the denominator, beside the square root; a finite number >= 0.
      eps_root: added to the second moment, inside the root; a finite number >= 0.
      threshold: smallest rho_t at which steps are adaptive, a number >= 4.
      nesterov: True for Nesterov momentum, one step ahead, in Optax's form. If `b1`
        is a schedule, it is that of the next step; if an array, the current one.
      amsgrad: True to divide by the largest second moment so far.
      fallback: what to do before the first tractable step. "momentum": as in Algorithm
        2. "skip": no step along the gradient, as in the authors' code with
        `degenerated_to_sgd=False`, but the decay goes on; that code decays only in
        steps that it takes. "shifted": adaptive steps with the first tractable factor;
        an array `b2` is then treated as a constant, and a schedule refused.
      weight_decay: decoupled decay, multiplied by the learning rate but not by r_t: a
        finite number >= 0, or a schedule from the count of updates. For L2 instead,
        put `optax.add_decayed_weights` before this in a chain.
      mask: which parameters decay: a tree of booleans (a callable model may be one), a
        prefix of the parameters' tree, or a function from the parameters to such a
        tree; None for all.
      mu_dtype: dtype of the first moment, real and floating; None for each
        parameter's own. Complex leaves get the complex dtype of that precision.
      nu_dtype: dtype of the second moment, real, floating and at least 32 bits; None
        for each parameter's own, made real, and float32 for 16-bit leaves.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Updates have the gradients' structure
      and shapes, in the dtype that gradient, `mu` and an array `learning_rate` promote
      to. Its `update` needs `params` only if there is a `weight_decay`. With `params`,
      it equals this chain, bit for bit::

        optax.chain(
            scale_by_moments(b1, b2, eps, eps_root, threshold),
            scale_by_rectification(b2, threshold, before=1.0),
            optax.add_decayed_weights(weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )

      "skip" has `before=0.0` there. "shifted" has `threshold=None` in the first stage
      and `shifted=True` in the second.

      Under `optax.inject_hyperparams`, numbers arrive as arrays. A `weight_decay` of 0
      then needs `params`, and `b1` and `b2` may change: if they do not, list them in
      its `static_args`. Also list dtypes, and a function or a model for `mask`, or they
      are treated as schedules. For 16-bit parameters, add
      `hyperparam_dtype=jnp.float32`, or b2 = 0.999 is rounded to 1 and refused.

    Raises:
      TypeError: if an argument is of the wrong kind, a flag is traced, or `b2` is a
        schedule with "shifted"; from `init` and `update`, if a leaf is an integer or a
        boolean, or a mask has leaves that are not booleans; from `update`, if a stage's
        state is of another class.
      ValueError: if an argument is outside its range; from `init`, if `mask` does not
        fit the parameters; from `update`, if the trees of gradients and state differ,
        if `params` is missing and there is a decay, or if the state was made for
        numbers and `b1` or `b2` is not one, or the other way round.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, optax_radam
      >>> optimizer = optax_radam.radam(learning_rate=0.1, fallback="skip")
      >>> params = jnp.array([1.0, 2.0])
      >>> state = optimizer.init(params)
      >>> for _ in range(300):
      ...     gradients = jax.grad(lambda x: jnp.sum(x**2))(params)
      ...     updates, state = optimizer.update(gradients, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(bool(jnp.all(jnp.abs(params) < 0.2)))
      True

    References:
      Liu et al. 2020, Algorithm 2 (https://arxiv.org/abs/1908.03265); the authors' code
      (https://github.com/LiyuanLucasLiu/RAdam); decoupled decay: Loshchilov and
      Hutter 2019 (https://arxiv.org/abs/1711.05101).
    """
    _arguments.check_number_or_schedule("learning_rate", learning_rate)
    _arguments.check_choice("fallback", fallback, _FALLBACKS)
    moments = _moments.scale_by_moments(
        b1,
        b2,
        eps,
        eps_root,
        None if fallback == "shifted" else threshold,
        nesterov=nesterov,
        amsgrad=amsgrad,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
    )
    return optax.chain(
        moments,
        _rectify.scale_by_rectification(b2, threshold, **_FALLBACKS[fallback]),
        _weight_decay.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
