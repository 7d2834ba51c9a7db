"""Sorting: data, model and flags; the command line is `python -m` with --help."""

import dataclasses
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import config
from experiments.train import Examples, Task

VALUES = 16  # a sequence has numbers below it
LENGTH = 8
SEQUENCES = {"train": 2048, "test": 1000}
WIDTH = 32
HEADS = 4
LAYERS = 4
_RADAMS = ("radam", "radam-skip", "radam-shifted", "schedule-free-radam")
GRID = config.Grid(
    optimizers=("adam", "adam:untuned-linear-warmup", *_RADAMS),
    learning_rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    seeds=tuple(range(10)),
)
# b2 is Vaswani et al.'s, whose warmup fits 256 steps.
TRAINING = config.Training(b2=0.98, epochs=4, batch_size=32)


@dataclasses.dataclass(frozen=True)
class Flags(config.Flags):
    """Train a small post-LayerNorm Transformer to sort, and compare optimizers."""

    module: ClassVar[str] = "experiments.transformer"
    unit: ClassVar[str] = "sequences"
    classes: ClassVar[int] = VALUES

    grid: config.Grid = GRID
    training: config.Training = TRAINING

    @property
    def name(self) -> str:
        """Name of the task."""
        return "sorting"

    def load(self) -> Task:
        """Random sequences and their sorted order, the same every time."""
        random = np.random.default_rng(0)
        size = (sum(SEQUENCES.values()), LENGTH)
        sequences = random.integers(VALUES, size=size, dtype=np.int32)
        examples, split = (sequences, np.sort(sequences, axis=1)), SEQUENCES["train"]
        return Task(
            train=Examples(*(array[:split] for array in examples)),
            test=Examples(*(array[split:] for array in examples)),
            make_model=lambda rngs: Transformer(VALUES, LENGTH, rngs=rngs),
            logits=lambda model, sequences, key: model(sequences),  # without dropout
            description=f"sequences of {LENGTH} numbers below {VALUES}, to be sorted",
        )


class Transformer(nnx.Module):
    """Learned embeddings of values and positions, layers, and a linear readout.

    Numbers of input and output are in [0, values).
    """

    def __init__(self, values: int, length: int, *, rngs: nnx.Rngs) -> None:
        self.values = nnx.Embed(values, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(length, WIDTH, rngs=rngs)
        self.layers = nnx.List([Layer(rngs=rngs) for _ in range(LAYERS)])
        self.logits = nnx.Linear(WIDTH, values, rngs=rngs)

    def __call__(self, sequences: jax.Array) -> jax.Array:
        """Returns logits, (n, length, values), of integer sequences, (n, length)."""
        x = self.values(sequences) + self.positions(jnp.arange(sequences.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.logits(x)


class Layer(nnx.Module):
    """Attention, then a feed-forward network, each normalized after its residual.

    Vaswani et al. normalize the sum, not the branch's input. Gradients near the output
    are then large at first, and a warmup is necessary (Xiong et al. 2020).
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


if __name__ == "__main__":
    from experiments.main import main

    sys.exit(main(Flags))
