"""Optimizers to compare, their update, and shapes of known models' arrays."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

import optax_radam

Shapes = Sequence[tuple[int, ...]]

OURS, REFERENCE = "optax_radam.radam", "optax.radam"
OPTIMIZERS: Mapping[str, optax.GradientTransformation] = {
    OURS: optax_radam.radam(1e-3),
    REFERENCE: optax.radam(1e-3),
    "optax.adam": optax.adam(1e-3),
}


def jitted_step(optimizer: optax.GradientTransformation) -> Any:
    """A new function ((params, state), gradients) -> (params, state)."""

    def step(carry: Any, gradients: Any) -> tuple[Any, Any]:
        params, state = carry
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=0)


def size(shapes: Shapes) -> int:
    """Number of parameters."""
    return sum(map(math.prod, shapes))


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
    norm = [(width,), (width,)]
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    dense = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    block = [*norm, *attention, *norm, *dense]
    return [(vocabulary, width), (positions, width), *norm, *(block * layers)]


def seven_billion() -> Shapes:
    """The 291 arrays of a language model with Llama's shapes, 6.7B parameters."""
    width, inner, vocabulary, layers = 4096, 11008, 32000, 32
    feed_forward = [(width, inner), (width, inner), (inner, width)]
    block = [*[(width, width)] * 4, *feed_forward, (width,), (width,)]
    return [(vocabulary, width), (width, vocabulary), (width,), *(block * layers)]
