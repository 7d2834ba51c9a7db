"""Decoupled weight decay: Optax's stage, strict about its mask."""

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_radam import _arguments

Mask = Any | Callable[[optax.Params], Any] | None


def _as_function(mask: Mask) -> Callable[[optax.Params], Any] | None:
    """The mask as a function from the parameters to a tree of booleans.

    Optax then never has to tell functions from trees.
    """
    if mask is None:
        return None
    if not _arguments.is_function_for_mask(mask):
        _arguments.check_mask_tree(mask)
        return lambda params: mask

    def checked(params: optax.Params) -> Any:
        tree = mask(params)
        _arguments.check_boolean_leaves(tree)
        return tree

    return checked


def _check_params(params: optax.Params, updates: optax.Updates) -> None:
    """Refuses parameters of another tree or other shapes than the updates."""

    def check(update: jax.Array | None, param: Any) -> None:
        if update is not None and jnp.shape(update) != jnp.shape(param):
            raise ValueError(
                f"an update of shape {jnp.shape(update)} meets a parameter of shape "
                f"{jnp.shape(param)}"
            )

    try:
        jax.tree.map(check, updates, params, is_leaf=lambda x: x is None)
    except ValueError as error:
        raise ValueError(
            f"`params` must have the structure and shapes of `updates`: {error}"
        ) from error


def _without_frozen(tree: Any, updates: optax.Updates) -> Any:
    """The tree, with None for each leaf whose update is None."""
    return jax.tree.map(
        lambda u, x: None if u is None else x,
        updates,
        tree,
        is_leaf=lambda x: x is None,
    )


def _mask_of_leaves(tree: Any, params: optax.Params) -> Any:
    """The mask, a prefix of the parameters' tree, extended to its structure."""
    return jax.tree.map(lambda m, p: jax.tree.map(lambda _: m, p), tree, params)


def add_decayed_weights(
    weight_decay: optax.ScalarOrSchedule, mask: Mask
) -> optax.GradientTransformation:
    """`optax.add_decayed_weights`, which needs params only where there is a decay.

    A decay that arrives as an array always counts as a decay, so that the state does
    not depend on a number's value. Updates keep their dtypes. Updates that are None
    pass through, under a mask too.

    Args:
      weight_decay: a finite number >= 0, or a schedule from the count of updates.
      mask: a tree of booleans, a prefix of the parameters' tree, or a function from
        the parameters to one; None to decay all of them.

    Returns:
      An `optax.GradientTransformation`.
    """
    _arguments.check_number_or_schedule("weight_decay", weight_decay)
    make_mask = _as_function(mask)
    absent = isinstance(weight_decay, numbers.Real) and weight_decay == 0

    def init_fn(params: optax.Params) -> optax.OptState:
        try:
            return optax.add_decayed_weights(weight_decay, make_mask).init(params)
        except ValueError as error:  # without a mask, `init` has nothing to compare
            raise ValueError(
                f"`mask` must be a prefix of the tree of `params`: {error}"
            ) from error

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.OptState]:
        if absent:
            return updates, state
        leaves = None
        if params is not None:
            _check_params(params, updates)
            if make_mask is not None:
                leaves = _mask_of_leaves(make_mask(params), params)
                leaves = _without_frozen(leaves, updates)
            params = _without_frozen(params, updates)
        decay = optax.add_decayed_weights(weight_decay, leaves)
        decayed, state = decay.update(updates, state, params)
        # A decay that is an array would widen 16-bit updates.
        return jax.tree.map(lambda d, u: d.astype(u.dtype), decayed, updates), state

    return optax.GradientTransformation(init_fn, update_fn)
