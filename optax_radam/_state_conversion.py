"""Conversion of `optax.radam`'s state into ours, and back, in the middle of a run.

Both keep the count and the two moments. Optax keeps them in one stage where we have
two, and its `radam` has no decay.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_radam import _arguments, _dtypes, _history, _moments, _rectify

# States of `optax.scale_by_learning_rate`, for a number and for a schedule.
_LEARNING_RATE_STATES = (optax.EmptyState, optax.ScaleByScheduleState)

_Stages = tuple[Any, ...]
_Kinds = tuple[type, ...]
_OURS = (_moments.ScaleByMomentsState, _rectify.ScaleByRectificationState)


def _is_chain_with(node: Any, kinds: _Kinds) -> TypeGuard[_Stages]:
    """Returns True for the state of a chain with a stage of one of these kinds."""
    return type(node) is tuple and any(isinstance(stage, kinds) for stage in node)


def _map_chains(
    state: optax.OptState, kinds: _Kinds, convert: Callable[[_Stages], _Stages]
) -> optax.OptState:
    """Applies `convert` to every chain with a stage of these kinds, innermost first.

    A stage outside of a chain is treated as a chain of one.
    """
    found = False

    def visit(node: Any) -> Any:
        nonlocal found
        if isinstance(node, kinds):
            found = True
            converted = convert((node,))
            return converted[0] if len(converted) == 1 else converted
        if _is_chain_with(node, kinds):
            found = True
            return convert(
                tuple(s if isinstance(s, kinds) else descend(s) for s in node)
            )
        return node

    def descend(node: Any) -> Any:
        return jax.tree.map(
            visit,
            node,
            is_leaf=lambda n: isinstance(n, kinds) or _is_chain_with(n, kinds),
        )

    converted = descend(state)
    if not found:
        names = " or a ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"`state` must hold a {names}, and none is in "
            f"{jax.tree.structure(state)}. If it comes from a checkpoint, restore that "
            "with the state of a new `init` as its target, or states are dictionaries."
        )
    return converted


def _second_moment_like_ours(nu: jax.Array) -> jax.Array:
    """The second moment, real, at least float32, finite where squares overflowed."""
    dtype = _dtypes.second_moment_dtype(nu.dtype)
    return jnp.minimum(nu.real.astype(dtype), _dtypes.largest_square(dtype))


def from_optax_state(
    state: optax.OptState,
    *,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: optax.ScalarOrSchedule = 0.999,
    threshold: ArrayLike = 5.0,
) -> optax.OptState:
    """Converts a state of `optax.radam` so that `radam` continues the run.

    The state of each stage, before and after::

        (count, mu, nu), rate
        (count, mu, nu), (count, 0), no decay, rate

    Args:
      state: any tree with states of `optax.radam` in it, such as the state of a chain,
        of `optax.MultiSteps` or a train state. In other chains, the state of
        `optax.scale_by_radam` becomes those of `scale_by_moments` and
        `scale_by_rectification`. Every `optax.ScaleByAdamState` is treated as RAdam's:
        if Adam's are there too, convert only parts of the tree. In a chain of two, a
        second stage with an empty state, or a schedule's, is treated as the learning
        rate of `optax.radam`; if it is not one, delete the third of the four states
        returned. Convert abstract states by `jax.eval_shape(from_optax_state, ...)`.
        A tree with our own states works too, for decay rates of a new kind: the states
        get the histories of `b1` and `b2`.
      b1: decay rate of the first moment in the steps so far: a number, if it stays
        one; an array in [0, 1), for a constant; or a schedule.
      b2: decay rate of the second moment, in the same way. `jax.jit` must be able to
        trace a schedule: a million steps are replayed in 0.05 s, once compiled.
      threshold: the stages' threshold, for arrays and schedules: a number >= 4.

    Returns:
      The same tree with the states of `radam`, whose decay is a number, without `mask`
      and `amsgrad`. Shapes do not change. Second moments become real, at least float32,
      and finite where Optax's squares have overflowed. The factor in
      `ScaleByRectificationState` is 0 until the next update. First moments and counts
      are shared, not copied: donate only one of the two states.

    Raises:
      TypeError: if `b1`, `b2` or `threshold` is of the wrong kind.
      ValueError: if one is outside its range, or if `state` has no state of
        `optax.radam` and none of ours.

    Examples:
      >>> import jax.numpy as jnp, optax, optax_radam
      >>> gradients = params = jnp.ones(3)
      >>> old = optax.radam(1e-3)
      >>> _, state = old.update(gradients, old.init(params))
      >>> new = optax_radam.radam(1e-3)
      >>> state = optax_radam.from_optax_state(state)
      >>> updates, state = new.update(gradients, state, params)
      >>> print(optax.tree.get(state, "rectification_count"))
      2

    References:
      `optax.radam` (https://optax.readthedocs.io/en/latest/api/optimizers.html).
    """
    _arguments.check_rate_or_schedule("b1", b1)
    _arguments.check_threshold_of_stage(threshold, b2)

    def with_history(stage: Any) -> Any:
        if isinstance(stage, _moments.ScaleByMomentsState):
            history = _history.replay(stage.count, b1, b2, threshold)
            return stage._replace(decay_history=history)
        if isinstance(stage, _rectify.ScaleByRectificationState):
            count = stage.rectification_count
            # Not the buffers of the moments, or the state could not be donated.
            history = _history.replay(count, 0.0, b2, threshold)
            return stage._replace(length_history=history and history.b2)
        return stage

    def convert(stages: _Stages) -> _Stages:
        is_radam = len(stages) == 2 and isinstance(stages[1], _LEARNING_RATE_STATES)
        converted: list[Any] = []
        for stage in stages:
            if not isinstance(stage, optax.ScaleByAdamState):
                converted.append(stage)
                continue
            nu = jax.tree.map(_second_moment_like_ours, stage.nu)
            converted += [
                _moments.ScaleByMomentsState(stage.count, stage.mu, nu),
                _rectify.ScaleByRectificationState(
                    # Not the same buffer, or the state could not be donated.
                    rectification_count=jnp.array(stage.count),
                    # One for each count: runs may be batched by `jax.vmap`.
                    rectification=jnp.zeros(jnp.shape(stage.count), float),
                ),
            ]
            if is_radam:
                converted.append(optax.EmptyState())
        return tuple(map(with_history, converted))

    return _map_chains(state, (optax.ScaleByAdamState, *_OURS), convert)


def to_optax_state(state: optax.OptState) -> optax.OptState:
    """Converts a state of `radam` so that `optax.radam` continues the run.

    The state of each stage, before and after::

        (count, mu, nu), (count, r), decay, rate
        (count, mu, nu), rate

    Args:
      state: any tree with states of `radam` in it, or of chains with
        `scale_by_moments` and `scale_by_rectification`.

    Returns:
      The same tree with the states of `optax.radam`, in which the second moment has the
      dtype of the first. Histories of changing rates are dropped. So is a decay that is
      a number: it has no state, and `optax.radam` has no decay. A decay with a state (a
      mask, a schedule) is kept, as in `optax.chain(optax.scale_by_radam(),
      optax.add_decayed_weights(decay, mask), optax.scale_by_learning_rate(rate))`. In
      your own chain of four stages, an empty third state is treated as a decay and
      dropped too. Under `optax.inject_hyperparams`, `weight_decay` must be among
      `static_args`.

    Raises:
      ValueError: if `state` has no state of `radam`, if one has AMSGrad's maximum,
        which `optax.radam` cannot continue, or if moments are not followed by a
        rectification.

    Examples:
      >>> import jax.numpy as jnp, optax, optax_radam
      >>> gradients = params = jnp.ones(3)
      >>> new = optax_radam.radam(1e-3)
      >>> _, state = new.update(gradients, new.init(params))
      >>> old = optax.radam(1e-3)
      >>> updates, state = old.update(gradients, optax_radam.to_optax_state(state))
      >>> print(optax.tree.get(state, "count"))
      2

    References:
      `optax.radam` (https://optax.readthedocs.io/en/latest/api/optimizers.html).
    """

    def convert(stages: _Stages) -> _Stages:
        converted: list[Any] = []
        remaining = iter(stages)
        for stage in remaining:
            if not isinstance(stage, _moments.ScaleByMomentsState):
                converted.append(stage)
                continue
            if stage.nu_max is not None:
                raise ValueError(
                    "`state` has AMSGrad's `nu_max`, which `optax.radam` cannot "
                    "continue; to go on without, replace `nu_max` by None in it."
                )
            following = next(remaining, None)
            if not isinstance(following, _rectify.ScaleByRectificationState):
                raise ValueError(
                    "`state` must have a ScaleByRectificationState after each "
                    f"ScaleByMomentsState, got {following!r}."
                )
            nu = jax.tree.map(lambda n, m: n.astype(m.dtype), stage.nu, stage.mu)
            converted.append(optax.ScaleByAdamState(stage.count, stage.mu, nu))
        match converted:
            case [optax.ScaleByAdamState(), optax.EmptyState(), rate] if isinstance(
                rate, _LEARNING_RATE_STATES
            ):
                del converted[1]
        return tuple(converted)

    return _map_chains(state, (_moments.ScaleByMomentsState,), convert)
