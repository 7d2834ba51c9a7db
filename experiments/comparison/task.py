"""What is trained: data on the host, and a model for it."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx

Labels = npt.NDArray[np.int32]


class Examples(NamedTuple):
    """Inputs and their labels, of the same length."""

    inputs: Any  # (n, ...), an array of the host or the device
    labels: Any  # (n, ...)


class Dataset(NamedTuple):
    """Examples on the host, in the order in which they are stored."""

    train_inputs: npt.NDArray[Any]  # (n, ...)
    train_labels: Labels  # (n,), or (n, ...): several for each example
    test_inputs: npt.NDArray[Any]
    test_labels: Labels
    classes: int  # labels are below it
    description: str  # which data these are, for reports

    def split(
        self, limit: int | None, held_out: int
    ) -> tuple[Examples, Examples, Examples]:
        """The examples to train on, to choose by, and to test with.

        Args:
          limit: the first so many are trained on; None: all that are not held out.
          held_out: the last so many training examples are.
        """
        end = len(self.train_labels) - held_out
        train = Examples(
            self.train_inputs[:end][:limit], self.train_labels[:end][:limit]
        )
        return (
            train,
            Examples(self.train_inputs[end:], self.train_labels[end:]),
            Examples(self.test_inputs, self.test_labels),
        )

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
    # From model, inputs (n, ...) and the key of all that is random in a training step,
    # or None to evaluate: logits of the labels' shape and one more axis, `classes`
    # long. In training it may change the model's statistics, as BatchNorm does.
    logits: Callable[[Any, jax.Array, jax.Array | None], jax.Array]
