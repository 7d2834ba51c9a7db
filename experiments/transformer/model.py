"""A Transformer encoder with its normalizations where Vaswani et al. had them."""

import jax
import jax.numpy as jnp
from flax import nnx

WIDTH = 32
HEADS = 4
LAYERS = 4


class Layer(nnx.Module):
    """Attention, then a feed-forward network, each normalized after its residual.

    Normalizing the sum, instead of the branch's input, is what makes the gradients near
    the output large at first, and a warmup necessary (Xiong et al. 2020).
    """

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(
            HEADS, in_features=WIDTH, decode=False, rngs=rngs
        )
        self.attention_norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.hidden = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.out = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)
        self.feed_forward_norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Transforms (n, length, WIDTH), keeping its shape."""
        x = self.attention_norm(x + self.attention(x))
        x = x + self.out(nnx.relu(self.hidden(x)))
        normalized: jax.Array = self.feed_forward_norm(x)
        return normalized


class Transformer(nnx.Module):
    """Learned embeddings of values and positions, layers, and a linear readout.

    Args:
      values: of the input, and of the output: both are in [0, values).
      length: of the sequences.
      rngs: the source of initial weights.
    """

    def __init__(self, values: int, length: int, *, rngs: nnx.Rngs) -> None:
        self.values = nnx.Embed(values, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(length, WIDTH, rngs=rngs)
        self.layers = nnx.List([Layer(rngs=rngs) for _ in range(LAYERS)])
        self.logits = nnx.Linear(WIDTH, values, rngs=rngs)

    def __call__(self, sequences: jax.Array) -> jax.Array:
        """Logits (n, length, values) of integer sequences (n, length)."""
        x = self.values(sequences) + self.positions(jnp.arange(sequences.shape[1]))
        for layer in self.layers:
            x = layer(x)
        logits: jax.Array = self.logits(x)
        return logits
