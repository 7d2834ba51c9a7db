"""What a seed fixes: initial weights, order of batches, and each step's key.

`jax.random.key(seed)` is folded with a purpose, then with the epoch, then with the step
in it. Optimizer, schedule and rate take no part, so runs of one seed share them all.
"""

import jax
import jax.numpy as jnp

# Purposes of keys. Changing one changes every result.
_INITIAL_WEIGHTS, _ORDER, _STEP = range(3)


def weights_key(root: jax.Array) -> jax.Array:
    """The key of a run's initial weights."""
    return jax.random.fold_in(root, _INITIAL_WEIGHTS)


def epoch_order(
    root: jax.Array, epoch: jax.Array, examples: int, batch_size: int
) -> jax.Array:
    """The epoch's permutation of the training examples, padded to whole batches.

    Args:
      root: the run's key.
      epoch: from 0.
      examples: number of training examples.
      batch_size: examples per update.

    Returns:
      Indices, int32, of shape (steps * batch_size,); past `examples` the first again.
    """
    key = jax.random.fold_in(jax.random.fold_in(root, _ORDER), epoch)
    order = jax.random.permutation(key, examples)
    # The padding is masked; it differs from the batch, for the sake of BatchNorm.
    return jnp.pad(order, (0, -examples % batch_size), mode="wrap")


def step_key(root: jax.Array, epoch: jax.Array, position: jax.Array) -> jax.Array:
    """The key of a step's randomness: of `position` (from 0) in `epoch` (from 0)."""
    key = jax.random.fold_in(root, _STEP)
    return jax.random.fold_in(jax.random.fold_in(key, epoch), position)
