"""Sorting: sequences drawn at random, and the Transformer that puts them in order."""

import jax
import numpy as np
from flax import nnx

from experiments.comparison.task import Dataset, Task
from experiments.transformer.config import TRAINING_SEQUENCES, VALUES
from experiments.transformer.model import Transformer

LENGTH = 8
_TEST_SEQUENCES = 1000
_SEED = 0  # of the data, the same for all runs


def make() -> Task:
    """The task, the same every time."""
    random = np.random.default_rng(_SEED)
    sequences = random.integers(
        VALUES, size=(TRAINING_SEQUENCES + _TEST_SEQUENCES, LENGTH), dtype=np.int32
    )
    ordered = np.sort(sequences, axis=1)
    dataset = Dataset(
        train_inputs=sequences[:TRAINING_SEQUENCES],
        train_labels=ordered[:TRAINING_SEQUENCES],
        test_inputs=sequences[TRAINING_SEQUENCES:],
        test_labels=ordered[TRAINING_SEQUENCES:],
        classes=VALUES,
        description=f"sequences of {LENGTH} numbers below {VALUES}, to be sorted",
    )

    def make_model(rngs: nnx.Rngs) -> Transformer:
        return Transformer(VALUES, LENGTH, rngs=rngs)

    def logits(
        model: Transformer, sequences: jax.Array, dropout_key: jax.Array | None
    ) -> jax.Array:
        return model(sequences)  # which has no dropout

    return Task(dataset, make_model, logits)
