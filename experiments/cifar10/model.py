"""The seed's CNN, and ResNet-20 (He et al. 2015, section 4.2), as Flax NNX modules."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

FILTERS = (32, 64, 128)  # of the blocks: two convolutions each, then pooling
HIDDEN_UNITS = 128
DROPOUT_RATE = 0.2
_RESNET_FILTERS = (16, 16, 16, 32, 32, 32, 64, 64, 64)


class CNN(nnx.Module):
    """Three blocks of two 3x3 convolutions, pooling and dropout; two dense layers.

    Initial kernels are He-uniform, the last one Glorot-uniform (Keras' default, which
    the seed keeps); biases are zero. Images are (height, width, channels), the first
    two divisible by 8. All layers but the last compute in `dtype` (None: that of the
    parameters). `conv` is the convolution, with the arguments of JAX's own.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        dtype: DTypeLike | None = None,
        *,
        conv: Callable[..., jax.Array] = jax.lax.conv_general_dilated,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, channels = image_shape
        he_uniform = nnx.initializers.he_uniform()
        convolution = functools.partial(
            nnx.Conv,
            kernel_size=(3, 3),
            dtype=dtype,
            kernel_init=he_uniform,
            conv_general_dilated=conv,
            rngs=rngs,
        )
        convolutions = []
        for filters in FILTERS:
            convolutions += [convolution(channels, filters)]
            convolutions += [convolution(filters, filters)]
            channels = filters
        self.convolutions = nnx.List(convolutions)
        features = (height // 8) * (width // 8) * channels
        self.hidden = nnx.Linear(
            features, HIDDEN_UNITS, dtype=dtype, kernel_init=he_uniform, rngs=rngs
        )
        glorot_uniform = nnx.initializers.glorot_uniform()
        self.logits = nnx.Linear(
            HIDDEN_UNITS, classes, kernel_init=glorot_uniform, rngs=rngs
        )
        self.dropout = nnx.Dropout(DROPOUT_RATE)

    def __call__(self, x: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Returns logits, (n, classes), of the parameters' dtype.

        Pixels are in [0, 1], (n, height, width, channels). With a key, units drop out.
        """

        def dropout(x: jax.Array, layer: int) -> jax.Array:
            if dropout_key is None:
                return x
            return self.dropout(x, rngs=jax.random.fold_in(dropout_key, layer))

        for layer, convolution in enumerate(self.convolutions):
            x = nnx.relu(convolution(x))
            if layer % 2:
                x = dropout(_max_pool(x), layer)
        x = nnx.relu(self.hidden(jnp.reshape(x, (x.shape[0], -1))))
        return self.logits(dropout(x, len(self.convolutions)))


def _max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 2x2: (n, h, w, c) to (n, h / 2, w / 2, c).

    `nnx.max_pool` has a slow gradient on CPU: training reaches 190 images/s with it,
    and 300 with this (jax 0.10.2, two cores). Tied values share the gradient.
    """
    rows = jnp.maximum(x[:, 0::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


class Layer(nnx.Module):
    """A 3x3 convolution without bias, and BatchNorm."""

    def __init__(
        self, inputs: int, filters: int, *, stride: int = 1, conv: Any, **options: Any
    ) -> None:
        self.convolution = nnx.Conv(
            inputs,
            filters,
            (3, 3),
            strides=stride,
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            conv_general_dilated=conv,
            **options,
        )
        self.norm = nnx.BatchNorm(filters, momentum=0.9, **options)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Transforms images, and in training updates the normalization's averages."""
        x = self.convolution(x)
        normalized: jax.Array = self.norm(x, use_running_average=not train)
        return normalized


class Block(nnx.Module):
    """Two layers beside a shortcut, which has no parameters.

    If a block halves the image, the shortcut takes every second pixel and fills the new
    filters with zeros (He et al.'s option A).
    """

    def __init__(self, inputs: int, filters: int, **options: Any) -> None:
        self.stride = filters // inputs
        self.first = Layer(inputs, filters, stride=self.stride, **options)
        self.second = Layer(filters, filters, **options)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Transforms images."""
        y = self.second(nnx.relu(self.first(x, train=train)), train=train)
        shortcut = x[:, :: self.stride, :: self.stride]
        new = y.shape[-1] - shortcut.shape[-1]
        return nnx.relu(y + jnp.pad(shortcut, ((0, 0),) * 3 + ((new // 2, new // 2),)))


class ResNet20(nnx.Module):
    """A layer, nine blocks, the mean over the image and a dense layer.

    Images have at least 4x4 pixels; the arguments are those of the CNN.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        dtype: DTypeLike | None = None,
        *,
        conv: Callable[..., jax.Array] = jax.lax.conv_general_dilated,
        rngs: nnx.Rngs,
    ) -> None:
        options: dict[str, Any] = {"dtype": dtype, "conv": conv, "rngs": rngs}
        self.first = Layer(channels, _RESNET_FILTERS[0], **options)
        pairs = itertools.pairwise((_RESNET_FILTERS[0], *_RESNET_FILTERS))
        self.blocks = nnx.List([Block(*pair, **options) for pair in pairs])
        he_normal = nnx.initializers.he_normal()
        self.logits = nnx.Linear(
            _RESNET_FILTERS[-1], classes, kernel_init=he_normal, rngs=rngs
        )

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Returns logits, (n, classes), of images (n, height, width, channels).

        With a key (of a training step), BatchNorm uses the statistics of the batch.
        """
        train = key is not None
        x = nnx.relu(self.first(x, train=train))
        for block in self.blocks:
            x = block(x, train=train)
        return self.logits(x.mean((1, 2)))
