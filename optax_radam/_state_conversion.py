"""The state of `optax.radam` made into ours, and back, in the middle of a run.

Both keep the count and the two moments. Where they stand differs: Optax has one stage
for what are two here, and no decay in its `radam`.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import optax

from optax_radam import _dtypes, _moments, _rectify

# The states of `optax.scale_by_learning_rate`: of a number, and of a schedule.
_LEARNING_RATE_STATES = (optax.EmptyState, optax.ScaleByScheduleState)

_Stages = tuple[Any, ...]


def _is_chain_with(node: Any, kind: type) -> TypeGuard[_Stages]:
    """Whether `node` is the state of a chain, one of whose stages is of this kind."""
    return type(node) is tuple and any(isinstance(stage, kind) for stage in node)


def _map_chains(
    state: optax.OptState, kind: type, convert: Callable[[_Stages], _Stages]
) -> optax.OptState:
    """Applies `convert` to every chain with a stage of this kind, inmost first.

    A stage that stands alone is taken for a chain of one.
    """
    found = False

    def visit(node: Any) -> Any:
        nonlocal found
        if isinstance(node, kind):
            found = True
            converted = convert((node,))
            return converted[0] if len(converted) == 1 else converted
        if _is_chain_with(node, kind):
            found = True
            return convert(
                tuple(s if isinstance(s, kind) else descend(s) for s in node)
            )
        return node

    def descend(node: Any) -> Any:
        return jax.tree.map(
            visit,
            node,
            is_leaf=lambda n: isinstance(n, kind) or _is_chain_with(n, kind),
        )

    converted = descend(state)
    if not found:
        raise ValueError(
            f"`state` must hold a {kind.__name__}, and none is in "
            f"{jax.tree.structure(state)}. If it comes from a checkpoint, restore that "
            "with the state of a new `init` as its target, or states are dictionaries."
        )
    return converted


def _second_moment_like_ours(nu: jax.Array) -> jax.Array:
    """Real, float32 at least, and finite where squares have overflowed."""
    dtype = _dtypes.second_moment_dtype(nu.dtype)
    return jnp.minimum(nu.real.astype(dtype), _dtypes.largest_square(dtype))


def from_optax_state(state: optax.OptState) -> optax.OptState:
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

    Returns:
      The same tree with the states that `radam` has, its decay a number and without
      `mask` and `amsgrad`. Shapes stay; second moments become real and float32 at
      least, and finite where Optax's squares have overflowed. The factor in
      `ScaleByRectificationState` is 0 until the next update. First moments and counts
      are shared, not copied: donate only one of the two states.

    Raises:
      ValueError: if there is no state of `optax.radam` in `state`.

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
        return tuple(converted)

    return _map_chains(state, optax.ScaleByAdamState, convert)


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
      has the dtype of the first. A decay that is a number leaves no state, and is
      dropped: `optax.radam` has none. One that has a state (a mask, a schedule) is
      kept, as in `optax.chain(optax.scale_by_radam(), optax.add_decayed_weights(decay,
      mask), optax.scale_by_learning_rate(rate))`. Of a chain of four by hand whose
      third state is empty, that one is taken for such a decay and dropped too; under
      `optax.inject_hyperparams`, `weight_decay` must be among `static_args`.

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

    return _map_chains(state, _moments.ScaleByMomentsState, convert)
