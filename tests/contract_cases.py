"""One row per public transformation: how to build it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optax_radam


class Case(NamedTuple):
    """A transformation and the arguments to build it."""

    name: str
    factory: Any
    numbers: dict[str, Any]  # for `optax.inject_hyperparams`, all of them
    is_optimizer: bool = False  # its updates are added unchanged
    keeps_moments: bool = True  # of its own, in the parameters' dtypes
    all_ours: bool = True  # no stage of Optax, which would promise less
    static: tuple[str, ...] = ()  # for `optax.inject_hyperparams`

    def build(self):
        return self.factory(**self.numbers)


_MOMENTS = {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "eps_root": 0.0, "threshold": 5.0}


def _growing(count):
    """A decay rate that is 0 in the first step, like T5's."""
    return 1 - (jnp.asarray(count, float) + 1) ** -0.8


def _cycle(count):
    """A decay rate that goes down and up again."""
    return 0.9 + 0.05 * jnp.cos(jnp.asarray(count, float))


_SCHEDULES = {**_MOMENTS, "b1": _cycle, "b2": _growing}

_VARIANT = {"nesterov": True, "amsgrad": True}

CASES = [
    Case("scale_by_moments", optax_radam.scale_by_moments, _MOMENTS),
    Case(
        "scale_by_moments_variant",
        functools.partial(optax_radam.scale_by_moments, **_VARIANT),
        _MOMENTS,
    ),
    Case(
        "scale_by_rectification",
        optax_radam.scale_by_rectification,
        {"b2": 0.99, "threshold": 5.0, "before": 0.5},
        keeps_moments=False,
    ),
    Case("scale_by_moments_scheduled", optax_radam.scale_by_moments, _SCHEDULES),
    Case(
        "scale_by_rectification_scheduled",
        optax_radam.scale_by_rectification,
        {"b2": _growing, "threshold": 5.0, "before": 0.5},
        keeps_moments=False,
    ),
    Case(
        "rectify",
        functools.partial(
            optax_radam.rectify, optax.scale_by_adam(b2=0.99, eps_root=1e-8)
        ),
        {"b2": 0.99, "threshold": 5.0},
        keeps_moments=False,
        all_ours=False,
    ),
    Case(
        "radam",
        optax_radam.radam,
        {"learning_rate": 0.1, "weight_decay": 0.01, **_MOMENTS},
        is_optimizer=True,
    ),
    Case(
        "schedule_free_radam",
        optax_radam.schedule_free_radam,
        {
            "learning_rate": 0.1,
            "b1": 0.9,
            "b2": 0.99,
            "eps": 1e-8,
            "threshold": 5.0,
            "weight_decay": 0.01,
        },
        is_optimizer=True,
        all_ours=False,
    ),
    Case(
        "radam_scheduled",
        optax_radam.radam,
        {"learning_rate": 0.1, "weight_decay": 0.01, **_SCHEDULES},
        is_optimizer=True,
    ),
    Case(
        "radam_skip",
        functools.partial(optax_radam.radam, fallback="skip"),
        {"learning_rate": 0.1, **_MOMENTS},
        is_optimizer=True,
    ),
    Case(
        "radam_shifted",
        functools.partial(optax_radam.radam, fallback="shifted"),
        {"learning_rate": 0.1, **_MOMENTS},
        is_optimizer=True,
    ),
    Case(
        "radam_variant",
        functools.partial(
            optax_radam.radam,
            **_VARIANT,
            mask=lambda params: jax.tree.map(lambda p: jnp.ndim(p) > 1, params),
        ),
        {"learning_rate": 0.1, "weight_decay": 0.01, **_MOMENTS},
        is_optimizer=True,
        static=("mask",),
    ),
]
