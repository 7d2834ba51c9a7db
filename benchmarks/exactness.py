"""`python -m benchmarks.exactness`: optax.radam beside optax_radam.radam, in numbers.

The factor r_t is read from the updates: under gradients of 1 the corrected moments are
1, so an update without a learning rate is r_t once it is rectified, and 1 before. The
expected r_t is the paper's formula in exact rational arithmetic. Prints Markdown.
"""

import fractions
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from optax import GradientTransformation

import optax_radam

_RADAMS = (optax.radam, optax_radam.radam)


def _exact_rectification(step: int, b2: float) -> float:
    decay = fractions.Fraction(b2)
    limit = 2 / (1 - decay) - 1
    rho = limit - 2 * step * decay**step / (1 - decay**step)
    square = (rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)
    return math.sqrt(square)


def _scales(b2: float) -> tuple[GradientTransformation, GradientTransformation]:
    """Both RAdams without a learning rate."""
    ours = optax.chain(
        optax_radam.scale_by_moments(b2=b2, eps=0.0),
        optax_radam.scale_by_rectification(b2, before=1.0),
    )
    return optax.scale_by_radam(b2=b2, eps=0.0), ours


def _factors(transform: GradientTransformation, steps: int) -> Any:
    """The update of each step under gradients of 1."""
    one = jnp.ones([])

    def step(state: optax.OptState, _: None) -> tuple[Any, jax.Array]:
        update, state = transform.update(one, state)
        return state, update

    return np.asarray(jax.lax.scan(step, transform.init(one), length=steps)[1])


def _training_gradient(radam: Callable[..., GradientTransformation]) -> float:
    """The derivative of the loss after 8 steps with respect to the learning rate."""

    def final_loss(learning_rate: jax.Array) -> jax.Array:
        optimizer, params = radam(learning_rate), jnp.array([1.0, -2.0])
        state = optimizer.init(params)
        for _ in range(8):
            updates, state = optimizer.update(2 * params, state)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params**2)

    return float(jax.grad(final_loss)(jnp.float32(0.01)))


def _second_moment(optimizer: GradientTransformation, gradients: jax.Array) -> float:
    """The second moment nu after these gradients, one for each step."""

    def step(state: optax.OptState, gradient: jax.Array) -> tuple[Any, None]:
        return optimizer.update(gradient, state)[1], None

    state, _ = jax.lax.scan(step, optimizer.init(gradients[0]), gradients)
    return float(optax.tree.get(state, "nu"))


def table() -> pd.DataFrame:
    """Results of both, beside the exact values."""
    found = {}
    for b2 in (0.999, 0.9995, 0.9999, 0.99999):
        scales = _scales(b2)
        steps = [np.flatnonzero(_factors(scale, 10) < 0.9) + 1 for scale in scales]
        rectified = [", ".join(map(str, of)) for of in steps]
        found[f"b2 = {b2}: rectified of steps 1-10"] = [*rectified, "6, 7, 8, 9, 10"]
        for step in (6, 20):
            right = _exact_rectification(step, b2)
            errors = [abs(_factors(scale, step)[-1] / right - 1) for scale in scales]
            label = f"b2 = {b2}: relative error of r at step {step}"
            found[label] = [*map("{:.1e}".format, errors), "0"]
    slopes = [f"{_training_gradient(radam):.4g}" for radam in _RADAMS]
    found["d loss / d learning rate, through 8 steps"] = [*slopes, "finite"]
    b2, ones = 0.99999, jnp.ones(100_000)
    right = -math.expm1(len(ones) * math.log(b2))
    moments = [_second_moment(radam(1e-3, b2=b2), ones) for radam in _RADAMS]
    errors = [f"{abs(nu / right - 1):.1e}" for nu in moments]
    found[f"b2 = {b2}: relative error of nu after {len(ones):,} steps"] = [*errors, "0"]
    small = jnp.full(2000, 1e-3, jnp.bfloat16).at[0].set(1)
    moments = [_second_moment(radam(1e-3), small) for radam in _RADAMS]
    kept = 0.999**1999
    moments.append(kept * 0.001 + (1 - kept) * float(jnp.bfloat16(1e-3)) ** 2)
    label = "bfloat16 parameter: nu after 2,000 steps"
    found[label] = [f"{nu:.3g}" for nu in moments]
    columns = [f"optax {optax.__version__}", "optax_radam", "right"]
    return pd.DataFrame.from_dict(found, "index", columns=columns)


if __name__ == "__main__":
    print(f"jax {jax.__version__} on {jax.default_backend()}, float32 unless said\n")
    print(table().to_markdown(disable_numparse=True))
