"""The state of `optax.radam` made into ours, and back, in the middle of a run.

Both keep the count and the two moments. Where they stand differs: Optax has one stage
for what are two here, and no decay in its `radam`.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_radam import _arguments, _dtypes, _history, _moments, _rectify

# The states of `optax.scale_by_learning_rate`: of a number, and of a schedule.
_LEARNING_RATE_STATES = (optax.EmptyState, optax.ScaleByScheduleState)

_Stages = tuple[Any, ...]
_Kinds = tuple[type, ...]
_OURS = (_moments.ScaleByMomentsState, _rectify.ScaleByRectificationState)


def _is_chain_with(node: Any, kinds: _Kinds) -> TypeGuard[_Stages]:
    """True if `node` is the state of a chain with a stage of one of these kinds."""
    return type(node) is tuple and any(isinstance(stage, kinds) for stage in node)


def _map_chains(
    state: optax.OptState, kinds: _Kinds, convert: Callable[[_Stages], _Stages]
) -> optax.OptState:
    """Applies `convert` to every chain with a stage of these kinds, inmost first.

    A stage that stands alone is taken for a chain of one.
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
    """Real, float32 at least, and finite where squares have overflowed."""
    dtype = _dtypes.second_moment_dtype(nu.dtype)
    return jnp.minimum(nu.real.astype(dtype), _dtypes.largest_square(dtype))


def from_optax_state(
    state: optax.OptState,
    *,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: optax.ScalarOrSchedule = 0.999,
    threshold: ArrayLike = 5.0,
) -> optax.OptState:
    r"""The state of a run with `optax.radam`, as `radam` continues it.

    .. math::
        (\text{count}, \mu, \nu), \text{rate} \;\mapsto\;
        (\text{count}, \mu, \nu), (\text{count}, 0), \text{no decay}, \text{rate}

    Args:
      state: any tree with states of `optax.radam` in it, such as that of a chain,
        `optax.MultiSteps` or a train state. `optax.scale_by_radam` in a chain of
        other stages becomes `scale_by_moments` and `scale_by_rectification` there. All
        `optax.ScaleByAdamState` are taken for RAdam's, so convert parts of a state that
        holds Adam's too. Of a chain of two, `optax.scale_by_radam` and a stage whose
        state is empty or a schedule's, the second is taken for a learning rate, which
        is `optax.radam`; if it is not, delete the third of the four states that come
        back. Abstract states are converted by `jax.eval_shape(from_optax_state, ...)`.
        Or a tree with states of ours, for rates of another kind than so far: they get
        the histories of `b1` and `b2`.
      b1: decay rate of the first moment in the steps so far: a number, if it will be
        one; or an array in [0, 1), for a constant; or a schedule.
      b2: decay rate of the second moment, in the same way. A schedule must be one that
        `jax.jit` can trace: a million steps are replayed in 0.05 s, once
        compiled.
      threshold: that of the stages, for arrays and schedules: a number >= 4.

    Returns:
      The same tree with the states that `radam` has, its decay a number and without
      `mask` and `amsgrad`. Shapes stay; second moments become real and float32 at
      least, and finite where Optax's squares have overflowed. The factor in
      `ScaleByRectificationState` is 0 until the next update. First moments and counts
      are shared, not copied: donate only one of the two states.

    Raises:
      TypeError: if `b1`, `b2` or `threshold` is of the wrong kind.
      ValueError: if one is outside its range, or if there is no state of `optax.radam`,
        nor of ours, in `state`.

    Examples:
      >>> import jax.numpy as jnp, optax, optax_radam
      >>> gradients = params = jnp.ones(3)
      >>> old = optax.radam(1e-3)
      >>> _, state = old.update(gradients, old.init(params))
      >>> new = optax_radam.radam(1e-3)
      >>> updates, state = new.update(gradients, from_optax_state(state))
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
            # Not the moments' buffers, or the state could not be donated.
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
                    # As many as there are counts: runs may be batched by `jax.vmap`.
                    rectification=jnp.zeros(jnp.shape(stage.count), float),
                ),
            ]
            if is_radam:
                converted.append(optax.EmptyState())
        return tuple(map(with_history, converted))

    return _map_chains(state, (optax.ScaleByAdamState, *_OURS), convert)


def to_optax_state(state: optax.OptState) -> optax.OptState:
    r"""The state of a run with `radam`, as `optax.radam` continues it.

    .. math::
        (\text{count}, \mu, \nu), (\text{count}, r), \text{decay}, \text{rate}
        \;\mapsto\; (\text{count}, \mu, \nu), \text{rate}

    Args:
      state: any tree with states of `radam` in it, or of chains with
        `scale_by_moments` and `scale_by_rectification`.

    Returns:
      The same tree with the states that `optax.radam` has, in which the second moment
      has the dtype of the first. Histories of changing rates are dropped. So is a
      decay that is a number, and has no state: `optax.radam` has none. One that has a
      state (a mask, a schedule) is kept, as in `optax.chain(optax.scale_by_radam(),
      optax.add_decayed_weights(decay, mask), optax.scale_by_learning_rate(rate))`. Of
      a chain of four by hand whose third state is empty, that one is taken for such a
      decay and dropped too; under `optax.inject_hyperparams`, `weight_decay` must be
      among `static_args`.

    Raises:
      ValueError: if there is no state of `radam` in `state`, if the one that is there
        has AMSGrad's maximum, which `optax.radam` cannot continue, or if moments are
        not followed by a rectification.

    Examples:
      >>> import jax.numpy as jnp, optax, optax_radam
      >>> gradients = params = jnp.ones(3)
      >>> new = optax_radam.radam(1e-3)
      >>> _, state = new.update(gradients, new.init(params))
      >>> old = optax.radam(1e-3)
      >>> updates, state = old.update(gradients, to_optax_state(state))
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
