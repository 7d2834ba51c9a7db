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

A convolution of stride 2 is one of stride 1 with windows of 2x2, once each 2x2 of its
pixels is one pixel of four times the channels. A step of ResNet-20 on 32x32x3, in which
two of 19 convolutions are such, with JAX's own gradients for those two, and with these:

| | jax 0.10.2 | jax 0.12.0 |
|---|---|---|
| one run | 286 and 257 ms | 515 and 475 ms |
| two runs in `lax.map` | 2,594 and 798 ms | 2,359 and 1,173 ms |
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from experiments.comparison import devices

Inputs = tuple[jax.Array, jax.Array]  # images and kernel
Convolution = Callable[[jax.Array, jax.Array], jax.Array]

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

    That is with padding "SAME" and nothing out of the ordinary, and stride 1, or 2 over
    images of even height and width; those can be differentiated in reverse mode, once.
    Any other convolution is JAX's own.

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
    stride = strides[0]
    even = x.shape[1] % stride == x.shape[2] % stride == 0
    fast = kernel.shape[:2] == (3, 3) and tuple(strides) in {(1, 1), (2, 2)} and even
    if not (ordinary and fast):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    convolution = functools.partial(_fast, stride)
    if devices.share_batches():
        # The compiler would gather the chunks of the kernel's gradient on each device.
        split, whole = PartitionSpec(devices.AXIS), PartitionSpec()
        convolution = jax.shard_map(
            convolution, in_specs=(split, whole), out_specs=split, check_vma=False
        )
    y: jax.Array = convolution(x, kernel)
    return y


def _fast(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    def on_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if stride == 1:
            return _of_3x3(x, kernel)
        return _of_2x2(_pixels_as_channels(x), _taps_as_channels(kernel))

    def elsewhere(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", **_ORDINARY_OPTIONS
        )

    # Chosen when lowered, so that it is right for a CPU beside a GPU, too.
    y: jax.Array = jax.lax.platform_dependent(
        *_varying_alike(x, kernel), cpu=on_cpu, default=elsewhere
    )
    return y


def _varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Arrays that vary over the same axes of a mesh, in a user's `jax.shard_map`.

    A gradient that is given here must vary as what it belongs to does. Where JAX makes
    a kernel vary, it adds up the gradients of the devices.
    """

    def varying(array: jax.Array) -> frozenset[str]:
        axes: frozenset[str] = jax.typeof(array).manual_axis_type.varying
        return axes

    every = frozenset().union(*map(varying, arrays))
    return [
        jax.lax.pcast(array, tuple(every - varying(array)), to="varying")
        for array in arrays
    ]


def _pixels_as_channels(x: jax.Array) -> jax.Array:
    """(n, h, w, c) to (n, h / 2, w / 2, 4 c)."""
    n, height, width, channels = x.shape
    squares = x.reshape(n, height // 2, 2, width // 2, 2, channels)
    squares = squares.transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(n, height // 2, width // 2, 4 * channels)


def _taps_as_channels(kernel: jax.Array) -> jax.Array:
    """(3, 3, c, f), to which a last row and column of zeros come, to (2, 2, 4 c, f)."""
    *_, channels, filters = kernel.shape
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    squares = padded.reshape(2, 2, 2, 2, channels, filters)
    return squares.transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 4 * channels, filters)


def _with_fast_gradients(before: int, after: int) -> Convolution:
    """A convolution of stride 1 that keeps the size of images.

    Args:
      before: rows, and columns, of zeros that come before the images.
      after: those that come after them; with the others one less than the kernel has.
    """

    def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _convolution(x, kernel, before, after)

    def kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
        """Summed over chunks of images.

        It convolves channels in the place of images with the output's gradient in that
        of the kernel, over images in that of channels.
        """

        def part(x: jax.Array, gradient: jax.Array) -> jax.Array:
            x, gradient = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
            return _convolution(x, gradient, before, after)

        starts = range(0, x.shape[0], _CHUNK)
        parts = [part(x[k : k + _CHUNK], gradient[k : k + _CHUNK]) for k in starts]
        return functools.reduce(jnp.add, parts).transpose(1, 2, 0, 3)

    def image_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        return _convolution(gradient, turned, after, before)

    # With kernels of its own for each run, `vmap` makes convolutions of groups, which
    # are slow on CPU.
    in_turn = jax.custom_batching.sequential_vmap
    convolved, kernel_gradient, image_gradient = map(
        in_turn, (convolved, kernel_gradient, image_gradient)
    )

    def forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Inputs]:
        return convolved(x, kernel), (x, kernel)

    def backward(inputs: Inputs, gradient: jax.Array) -> Inputs:
        x, kernel = inputs
        return image_gradient(gradient, kernel), kernel_gradient(x, gradient)

    convolution = jax.custom_vjp(convolved)
    convolution.defvjp(forward, backward)

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if min(x.shape[1:3]) < 3:  # at 2x2, 128 channels: 3 ms, and 24 as a convolution
            return _as_product(x, kernel, before, after)
        y: jax.Array = convolution(x, kernel)
        return y

    return convolve


def _convolution(x: jax.Array, kernel: jax.Array, before: int, after: int) -> jax.Array:
    padding = ((before, after), (before, after))
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, **_ORDINARY_OPTIONS)


def _as_product(x: jax.Array, kernel: jax.Array, before: int, after: int) -> jax.Array:
    n, height, width, _ = x.shape
    rows, columns, _, filters = kernel.shape
    padded = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    patches = jnp.concatenate(
        [
            padded[:, row : row + height, column : column + width]
            for row in range(rows)
            for column in range(columns)
        ],
        axis=-1,
    )
    return (patches @ kernel.reshape(-1, filters)).reshape(n, height, width, filters)


_of_3x3 = _with_fast_gradients(1, 1)
_of_2x2 = _with_fast_gradients(0, 1)
