"""ResNet-20 for CIFAR-10 (He et al. 2015, section 4.2), as a Flax NNX module."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

FILTERS = (16, 16, 16, 32, 32, 32, 64, 64, 64)  # of the blocks


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
        """Transforms images, and in training moves the normalization's averages."""
        x = self.convolution(x)
        normalized: jax.Array = self.norm(x, use_running_average=not train)
        return normalized


class Block(nnx.Module):
    """Two layers beside a shortcut, which has no parameters.

    Where a block halves the image, the shortcut takes every second pixel and fills the
    new filters with zeros (He et al.'s option A).
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

    Images have at least 4x4 pixels; the other arguments are those of the CNN.
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
        self.first = Layer(channels, FILTERS[0], **options)
        pairs = itertools.pairwise((FILTERS[0], *FILTERS))
        self.blocks = nnx.List([Block(*pair, **options) for pair in pairs])
        he_normal = nnx.initializers.he_normal()
        self.logits = nnx.Linear(FILTERS[-1], classes, kernel_init=he_normal, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Returns logits, (n, classes), of images (n, height, width, channels).

        With a key, of a training step, BatchNorm takes the statistics of the batch.
        """
        train = key is not None
        x = nnx.relu(self.first(x, train=train))
        for block in self.blocks:
            x = block(x, train=train)
        return self.logits(x.mean((1, 2)))
