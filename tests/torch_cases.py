"""Settings of `torch.optim.RAdam`, and their counterparts here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax
import problems

import optax_radam

STEPS = 300
# Every step around the threshold, then some; the moments are kept at step 150.
KEPT_STEPS = [*range(1, 13), *range(30, STEPS + 1, 30)]
MOMENTS_AT = 150
SHAPES = {"scalar": (), "vector": (3,), "matrix": (2, 2)}


class TorchCase(NamedTuple):
    """One optimizer on both sides, and its problem."""

    torch: dict[str, Any]  # arguments of `torch.optim.RAdam`
    ours: Callable[[], optax.GradientTransformation]
    start: float = 0.0  # of every parameter
    scale: float = 1.0  # of every gradient


def _scaled(scale):
    """Scales the problem so that the place of eps, the only difference, vanishes."""
    return TorchCase(
        {"eps": 1e-30}, lambda: optax_radam.radam(1e-3, eps=1e-30), scale=scale
    )


CASES = {
    "defaults": TorchCase({}, lambda: optax_radam.radam(1e-3)),
    "other_betas": TorchCase(
        {"betas": (0.5, 0.95), "lr": 1e-2},
        lambda: optax_radam.radam(1e-2, 0.5, 0.95),
    ),
    "b2_0.9999": TorchCase(
        {"betas": (0.9, 0.9999)}, lambda: optax_radam.radam(1e-3, b2=0.9999)
    ),
    "b2_0.99999": TorchCase(
        {"betas": (0.9, 0.99999)}, lambda: optax_radam.radam(1e-3, b2=0.99999)
    ),
    "decoupled_decay": TorchCase(
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        lambda: optax_radam.radam(1e-3, weight_decay=0.1),
        start=1.0,
    ),
    "l2": TorchCase(
        {"weight_decay": 0.1},
        lambda: optax.chain(optax.add_decayed_weights(0.1), optax_radam.radam(1e-3)),
        start=1.0,
    ),
    "maximize": TorchCase(
        {"maximize": True},
        lambda: optax.chain(optax.scale(-1.0), optax_radam.radam(1e-3)),
    ),
    "scale_1e-6": _scaled(1e-6),
    "scale_1e-3": _scaled(1e-3),
    "scale_1e3": _scaled(1e3),
}


def gradients(case, seed):
    """A tree of float64 gradients, each (STEPS, *shape)."""
    size = sum(int(np.prod(shape)) for shape in SHAPES.values())
    flat = case.scale * problems.normal_gradients(STEPS, size, seed=seed)
    return unflatten(flat)


def unflatten(flat):
    """A tree with leaves (n, *shape) from an array (n, size)."""
    tree, first = {}, 0
    for name, shape in SHAPES.items():
        last = first + int(np.prod(shape))
        tree[name] = flat[:, first:last].reshape(len(flat), *shape)
        first = last
    return tree


def flatten(tree):
    """The array (n, size) of a tree with leaves (n, *shape)."""
    return np.concatenate(
        [np.reshape(tree[name], (len(tree[name]), -1)) for name in SHAPES], axis=1
    )
