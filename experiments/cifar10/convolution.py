"""3x3 convolutions whose gradients are fast on CPU, inside loops too.

On CPU, XLA is slow at the gradients that JAX derives, and very slow where they lie in
`lax.scan`, `lax.map` or `lax.cond`. So here they are stated as plain convolutions,
which XLA runs equally fast everywhere. With jax 0.10.2, two cores and batches of 64:

| | JAX's gradients | these |
|---|---|---|
| 16x16, 64 to 64 channels: value, and gradient to the kernel | 49 ms | 40 ms |
| the same in `lax.scan` | 2,906 ms | 43 ms |
| the CNN on 32x32x3, training: one run | 280 images/s | 343 images/s |
| four runs in `lax.map`, in all | 5 images/s | 352 images/s |
| four runs in `vmap`, in all | 67 images/s | 261 images/s |

With jax 0.12.0 one run gains less, 392 to 439 images/s, and loops as much.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from experiments.comparison import devices

Inputs = tuple[jax.Array, jax.Array]  # images and kernel

# What `nnx.Conv` passes for convolutions without dilation, groups and other options.
_ORDINARY_OPTIONS: dict[str, Any] = {
    "lhs_dilation": (1, 1),
    "rhs_dilation": (1, 1),
    "dimension_numbers": jax.lax.ConvDimensionNumbers(
        lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2)
    ),  # NHWC, HWIO, NHWC
    "feature_group_count": 1,
}
_CHUNK = 16  # images; 8 and 32 are slower at some layers


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated` for `nnx.Conv`, with fast gradients where 3x3.

    That is with stride 1, padding "SAME" and nothing out of the ordinary; those can be
    differentiated in reverse mode, once. Any other convolution is JAX's own.

    Args:
      x: images, (n, height, width, channels), floating.
      kernel: (height, width, channels, filters), of the same dtype.
      strides: two integers.
      padding: "SAME", or whatever else JAX's own takes.
      **options: JAX's own.

    Returns:
      (n, height, width, filters), smaller where strides or padding make it so.
    """
    given = {name: value for name, value in options.items() if value is not None}
    ordinary = padding == "SAME" and given == _ORDINARY_OPTIONS
    if not ordinary or kernel.shape[:2] != (3, 3) or set(strides) != {1}:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if min(x.shape[1:3]) < 3:  # at 2x2, 128 channels: 3 ms, and 24 as a convolution
        return _as_product(x, kernel)
    if devices.share_batches():
        # The compiler would gather the chunks of the kernel's gradient on each device.
        split, whole = PartitionSpec(devices.AXIS), PartitionSpec()
        on_each = jax.shard_map(
            _fast, in_specs=(split, whole), out_specs=split, check_vma=False
        )
        y: jax.Array = on_each(x, kernel)
        return y
    return _fast(x, kernel)


def _fast(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # Chosen when lowered, so that it is right for a CPU beside a GPU, too.
    y: jax.Array = jax.lax.platform_dependent(x, kernel, cpu=_on_cpu, default=_plain)
    return y


def _as_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    n, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate(
        [
            padded[:, row : row + height, column : column + width]
            for row in range(3)
            for column in range(3)
        ],
        axis=-1,
    )
    filters = kernel.shape[-1]
    return (patches @ kernel.reshape(-1, filters)).reshape(n, height, width, filters)


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **_ORDINARY_OPTIONS)


def _kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient to the kernel, summed over chunks of images.

    It convolves channels in the place of images with the output's gradient in that of
    the kernel, over images in that of channels.
    """

    def part(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0),
            gradient.transpose(1, 2, 0, 3),
            (1, 1),
            ((1, 1), (1, 1)),
            **_ORDINARY_OPTIONS,
        )

    starts = range(0, x.shape[0], _CHUNK)
    parts = [part(x[k : k + _CHUNK], gradient[k : k + _CHUNK]) for k in starts]
    return functools.reduce(jnp.add, parts).transpose(1, 2, 0, 3)


# With kernels of its own for each run, `vmap` makes convolutions of groups, which are
# slow on CPU.
_plain_in_turn = jax.custom_batching.sequential_vmap(_plain)
_kernel_gradient_in_turn = jax.custom_batching.sequential_vmap(_kernel_gradient)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Inputs]:
    return _plain_in_turn(x, kernel), (x, kernel)


def _backward(inputs: Inputs, gradient: jax.Array) -> Inputs:
    """The gradients to images and kernel, each stated as plain convolutions."""
    x, kernel = inputs
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _plain_in_turn(gradient, turned), _kernel_gradient_in_turn(x, gradient)


_on_cpu = jax.custom_vjp(_plain_in_turn)
_on_cpu.defvjp(_forward, _backward)
