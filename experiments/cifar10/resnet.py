"""ResNet-20 for CIFAR-10 (He et al. 2015, section 4.2), as a Flax NNX module."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.cifar10.convolution import convolve

STAGES = (16, 32, 64)  # filters
BLOCKS_PER_STAGE = 3


def _convolution(
    inputs: int, outputs: int, stride: int, dtype: DTypeLike | None, rngs: nnx.Rngs
) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (3, 3),
        strides=stride,
        use_bias=False,
        dtype=dtype,
        kernel_init=nnx.initializers.he_normal(),
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def _normalization(
    filters: int, dtype: DTypeLike | None, rngs: nnx.Rngs
) -> nnx.BatchNorm:
    return nnx.BatchNorm(filters, momentum=0.9, dtype=dtype, rngs=rngs)


class Block(nnx.Module):
    """Two convolutions beside a shortcut, which has no parameters.

    Where a block halves the image, the shortcut takes every second pixel and fills the
    new filters with zeros (He et al.'s option A).
    """

    def __init__(
        self,
        inputs: int,
        filters: int,
        dtype: DTypeLike | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride = filters // inputs
        self.first = _convolution(inputs, filters, self.stride, dtype, rngs)
        self.first_norm = _normalization(filters, dtype, rngs)
        self.second = _convolution(filters, filters, 1, dtype, rngs)
        self.second_norm = _normalization(filters, dtype, rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Transforms images, and in training moves the normalizations' averages."""
        y = self.first_norm(self.first(x), use_running_average=not train)
        y = self.second(nnx.relu(y))
        y = self.second_norm(y, use_running_average=not train)
        shortcut = x[:, :: self.stride, :: self.stride]
        new = y.shape[-1] - shortcut.shape[-1]
        shortcut = jnp.pad(shortcut, ((0, 0),) * 3 + ((new // 2, new // 2),))
        transformed: jax.Array = nnx.relu(y + shortcut)
        return transformed


class ResNet20(nnx.Module):
    """A convolution, nine blocks, the mean over the image and a dense layer.

    Args:
      channels: of the images; their height and width are at least 4.
      classes: the number of logits.
      dtype: all but the logits is computed in it; None: in that of the parameters.
      rngs: the source of initial weights.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        dtype: DTypeLike | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.first = _convolution(channels, STAGES[0], 1, dtype, rngs)
        self.first_norm = _normalization(STAGES[0], dtype, rngs)
        blocks, inputs = [], STAGES[0]
        for filters in STAGES:
            for _ in range(BLOCKS_PER_STAGE):
                blocks.append(Block(inputs, filters, dtype, rngs=rngs))
                inputs = filters
        self.blocks = nnx.List(blocks)
        self.logits = nnx.Linear(
            inputs, classes, kernel_init=nnx.initializers.he_normal(), rngs=rngs
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits (n, classes) of images (n, height, width, channels)."""
        x = self.first_norm(self.first(x), use_running_average=not train)
        x = nnx.relu(x)
        for block in self.blocks:
            x = block(x, train=train)
        logits: jax.Array = self.logits(x.mean((1, 2)))
        return logits
