"""The update's share of a training step of GPT-2."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_radam
from benchmarks import trees
from benchmarks.measuring import Way, interleave, repeated
from benchmarks.results import Table, rows
from benchmarks.update_step import Update, gradients

_HEADS = 12
_ARRAYS_OF_A_BLOCK = 12


def _normalized(x: jax.Array, scale: jax.Array, offset: jax.Array) -> jax.Array:
    return scale * jax.nn.standardize(x, epsilon=1e-5) + offset


def logits(params: list[jax.Array], tokens: jax.Array) -> jax.Array:
    """GPT-2's, from parameters as `trees.gpt2` lists them.

    Args:
      params: the arrays.
      tokens: (batch, length), int32.

    Returns:
      (batch, length, vocabulary).
    """
    embeddings, positions, *last = params[:4]
    batch, length = tokens.shape
    x = embeddings[tokens] + positions[:length]
    for start in range(4, len(params), _ARRAYS_OF_A_BLOCK):
        block = params[start : start + _ARRAYS_OF_A_BLOCK]
        qkv = _normalized(x, *block[:2]) @ block[2] + block[3]
        query, key, value = jnp.moveaxis(
            qkv.reshape(batch, length, 3, _HEADS, -1), 2, 0
        )
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        x += attended.reshape(x.shape) @ block[4] + block[5]
        hidden = jax.nn.gelu(_normalized(x, *block[6:8]) @ block[8] + block[9])
        x += hidden @ block[10] + block[11]
    return _normalized(x, *last) @ embeddings.T


def _loss(params: list[jax.Array], tokens: jax.Array) -> jax.Array:
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits(params, tokens[:, :-1]), tokens[:, 1:]
    )
    return jnp.mean(losses)


def shares(batch: int, length: int, rounds: int) -> Table:
    """A training step, its gradients alone and its update alone.

    Args:
      batch: sequences in a step.
      length: of each, in tokens.
      rounds: of measurements.
    """
    random = np.random.default_rng(0)
    tokens = jnp.asarray(random.integers(0, 50_257, (batch, length + 1)), jnp.int32)
    leaves = gradients(trees.gpt2(), jnp.float32)
    update = Update(lambda: optax_radam.radam(1e-4), leaves)
    ways = {
        "training step": _training(tokens, leaves),
        "gradients alone": _gradients(tokens, leaves),
        "update alone": repeated(update.run, update.wait),
    }
    case = f"GPT-2, 124M, {batch} x {length} tokens"
    found = rows(case, interleave(ways, rounds), "training step")
    note = "float32, optax_radam.radam. Ratios are shares of the training step."
    return Table("The update's share of a training step", note, found)


def _training(tokens: jax.Array, params: list[jax.Array]) -> Way:
    optimizer = optax_radam.radam(1e-4)

    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(_loss)(params, tokens), state)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, params)  # which are donated
    state = optimizer.init(params)

    def run() -> None:
        nonlocal params, state
        params, state = jitted(params, state)

    return repeated(run, lambda: jax.block_until_ready(params))


def _gradients(tokens: jax.Array, params: list[jax.Array]) -> Way:
    jitted, result = jax.jit(jax.grad(_loss)), None

    def run() -> None:
        nonlocal result
        result = jitted(params, tokens)

    return repeated(run, lambda: jax.block_until_ready(result))
