"""Groups of runs after so many updates, and how far they are apart."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.comparison.states import steps_made


class _EnoughError(Exception):
    pass


def state_after(trainer, runs, steps, state=None):
    """The state of a group after so many updates."""
    reached = []

    def stop(state, step):
        if step == steps:
            reached.append(state)
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        for epoch_end, _ in trainer.train(runs, state, after_call=stop):
            if steps_made(epoch_end) == steps:
                return epoch_end
    return reached[0]


def in_float64(state):
    """A state to go on with in double precision."""
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state
    )


def difference(group, alone, index=0):
    """The largest of any weight, relative to the largest of its array.

    Args:
      group: state of a group.
      alone: state of a run.
      index: of the group's run to compare with it.
    """
    weights = (group.train.weights, alone.train.weights)
    return max(
        np.max(np.abs(np.asarray(a)[index] - np.asarray(b)[0])) / np.max(np.abs(b))
        for a, b in zip(*map(jax.tree.leaves, weights), strict=True)
    )
