"""Shapes of parameter trees to update."""

from collections.abc import Sequence

import numpy as np

Shapes = Sequence[tuple[int, ...]]


def size(shapes: Shapes) -> int:
    """Number of parameters."""
    return sum(int(np.prod(shape)) for shape in shapes)


def one_leaf(parameters: int) -> Shapes:
    """All in one array."""
    return [(parameters,)]


def small_leaves(leaves: int, parameters: int | None = None) -> Shapes:
    """Leaves of equal size, or of seven sizes from 64 to 448 in turn."""
    if parameters is not None:
        return [(parameters // leaves,)] * leaves
    return [(64 * (1 + index % 7),) for index in range(leaves)]


def resnet50() -> Shapes:
    """ResNet-50's 161 arrays: kernels, and scales and offsets of the BatchNorms."""

    def convolution(kernel: int, inputs: int, outputs: int) -> Shapes:
        return [(kernel, kernel, inputs, outputs), (outputs,), (outputs,)]

    shapes = [*convolution(7, 3, 64)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(1, inputs, width)
            shapes += convolution(3, width, width)
            shapes += convolution(1, width, 4 * width)
            if block == 0:  # the shortcut
                shapes += convolution(1, inputs, 4 * width)
            inputs = 4 * width
    return [*shapes, (inputs, 1000), (1000,)]


def gpt2() -> Shapes:
    """GPT-2's 148 arrays, 124M parameters."""
    width, vocabulary, positions, layers = 768, 50257, 1024, 12
    block = [
        *[(width,), (width,)],
        *[(width, 3 * width), (3 * width,)],
        *[(width, width), (width,)],
        *[(width,), (width,)],
        *[(width, 4 * width), (4 * width,)],
        *[(4 * width, width), (width,)],
    ]
    ends = [(vocabulary, width), (positions, width), (width,), (width,)]
    return [*ends, *(shape for _ in range(layers) for shape in block)]


def seven_billion() -> Shapes:
    """The 291 arrays of a language model of Llama's shape, 6.7B parameters."""
    width, inner, vocabulary, layers = 4096, 11008, 32000, 32
    attention = [(width, width)] * 4
    feed_forward = [(width, inner), (width, inner), (inner, width)]
    block = [*attention, *feed_forward, (width,), (width,)]
    ends = [(vocabulary, width), (width, vocabulary), (width,)]
    return [*ends, *(shape for _ in range(layers) for shape in block)]
