"""What is trained: data on the host, and a model for it."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx

Labels = npt.NDArray[np.int32]


class Dataset(NamedTuple):
    """Examples on the host, in the order in which they are stored."""

    train_inputs: npt.NDArray[Any]  # (n, ...)
    train_labels: Labels  # (n,), or (n, ...): several for each example
    test_inputs: npt.NDArray[Any]
    test_labels: Labels
    classes: int  # labels are below it
    description: str  # which data these are, for reports

    @property
    def checksum(self) -> str:
        """SHA-256 of inputs and labels, in order."""
        digest = hashlib.sha256()
        for array in self[:4]:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class Task(NamedTuple):
    """Data and the model that learns it, by cross-entropy."""

    dataset: Dataset
    # Initial weights come from the generator's default stream.
    make_model: Callable[[nnx.Rngs], nnx.Module]
    # From model, inputs (n, ...) and the key of the dropout masks, or None for no
    # dropout: logits of the labels' shape and one more axis, `classes` long.
    logits: Callable[[Any, jax.Array, jax.Array | None], jax.Array]
