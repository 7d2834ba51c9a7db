"""The seed's CNN as a Flax NNX module."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.cifar10.convolution import convolve

FILTERS = (32, 64, 128)  # of the blocks: two convolutions each, then pooling
HIDDEN_UNITS = 128
DROPOUT_RATE = 0.2


def _max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 2x2: (n, h, w, c) to (n, h / 2, w / 2, c).

    With `nnx.max_pool`, whose gradient is slow on CPU, training reaches 190 images/s
    where it reaches 300 without (jax 0.10.2 on two cores). These two maxima and their
    gradient take 1.9 ms for (64, 32, 32, 32), and one over two axes 2.8 ms, which is
    little of a step. Where values tie, each of the two shares the gradient by halves.
    """
    rows = jnp.maximum(x[:, 0::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


class CNN(nnx.Module):
    """Three blocks of two 3x3 convolutions, pooling and dropout; two dense layers.

    Initial kernels are He-uniform, the last one's Glorot-uniform (Keras' default, which
    the seed leaves alone); biases are zero.

    Args:
      image_shape: (height, width, channels); height and width divisible by 8.
      classes: the number of logits.
      dtype: all but the logits is computed in it; None: in that of the parameters.
      rngs: the source of initial weights.

    Raises:
      ValueError: if the images cannot be halved three times.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        dtype: DTypeLike | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, channels = image_shape
        scale = 2 ** len(FILTERS)
        if height % scale or width % scale or not (height and width):
            raise ValueError(
                "`image_shape` must be a height and width divisible by "
                f"{scale}, got {image_shape}."
            )
        he_uniform = nnx.initializers.he_uniform()
        convolutions = []
        for filters in FILTERS:
            for _ in range(2):
                convolutions.append(
                    nnx.Conv(
                        channels,
                        filters,
                        (3, 3),
                        dtype=dtype,
                        kernel_init=he_uniform,
                        conv_general_dilated=convolve,
                        rngs=rngs,
                    )
                )
                channels = filters
        self.convolutions = nnx.List(convolutions)
        features = (height // scale) * (width // scale) * channels
        self.hidden = nnx.Linear(
            features, HIDDEN_UNITS, dtype=dtype, kernel_init=he_uniform, rngs=rngs
        )
        glorot_uniform = nnx.initializers.glorot_uniform()
        self.logits = nnx.Linear(
            HIDDEN_UNITS, classes, kernel_init=glorot_uniform, rngs=rngs
        )
        self.dropout = nnx.Dropout(DROPOUT_RATE)

    def __call__(self, x: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Logits of images.

        Args:
          x: pixels scaled to [0, 1], (n, height, width, channels), floating.
          dropout_key: the key of the dropout masks; None for no dropout.

        Returns:
          Logits, (n, classes), of the parameters' dtype.
        """

        def dropout(x: jax.Array, layer: int) -> jax.Array:
            if dropout_key is None:
                return x
            key = jax.random.fold_in(dropout_key, layer)
            return self.dropout(x, rngs=key)

        for layer, convolution in enumerate(self.convolutions):
            x = nnx.relu(convolution(x))
            if layer % 2:
                x = dropout(_max_pool(x), layer)
        x = nnx.relu(self.hidden(jnp.reshape(x, (x.shape[0], -1))))
        return self.logits(dropout(x, len(self.convolutions)))
