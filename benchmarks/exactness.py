"""`python -m benchmarks.exactness`: optax.radam beside optax_radam.radam, in numbers.

The factor r_t is read off the updates: under gradients of 1 the corrected moments are
1, so an update without a learning rate is r_t once it is rectified, and 1 before. The
expected r_t is the paper's formula in exact rational arithmetic. Prints Markdown.
"""

import fractions
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from optax import GradientTransformation

import optax_radam


def _exact_rectification(step: int, b2: float) -> float:
    decay = fractions.Fraction(b2)
    limit = 2 / (1 - decay) - 1
    rho = limit - 2 * step * decay**step / (1 - decay**step)
    square = (rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)
    return math.sqrt(square)


def _factors(
    make: Callable[[float], GradientTransformation], b2: float, steps: int
) -> npt.NDArray[np.float32]:
    """The update of each step under gradients of 1."""
    transform = make(b2)

    def step(state: optax.OptState, _: None) -> tuple[optax.OptState, jax.Array]:
        update, state = transform.update(jnp.ones([]), state)
        return state, update

    return np.asarray(jax.lax.scan(step, transform.init(jnp.ones([])), length=steps)[1])


def _optax_scale(b2: float) -> GradientTransformation:
    return optax.scale_by_radam(b2=b2, eps=0.0)


def _our_scale(b2: float) -> GradientTransformation:
    return optax.chain(
        optax_radam.scale_by_moments(b2=b2, eps=0.0),
        optax_radam.scale_by_rectification(b2, before=1.0),
    )


def _rectified_steps(make: Callable[[float], GradientTransformation], b2: float) -> str:
    """The steps among the first ten at which the update is rectified."""
    rectified = np.flatnonzero(_factors(make, b2, 10) < 0.9) + 1
    return ", ".join(map(str, rectified))


def _error(
    make: Callable[[float], GradientTransformation], b2: float, step: int
) -> str:
    """Of r_t, relative."""
    factor = _factors(make, b2, step)[-1]
    return f"{abs(factor / _exact_rectification(step, b2) - 1):.1e}"


def _training_gradient(
    radam: Callable[..., GradientTransformation],
) -> str:
    """The derivative of the loss after 8 steps with respect to the learning rate."""

    def final_loss(learning_rate: jax.Array) -> jax.Array:
        optimizer, params = radam(learning_rate), jnp.array([1.0, -2.0])
        state = optimizer.init(params)
        for _ in range(8):
            updates, state = optimizer.update(2 * params, state)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params**2)

    return f"{jax.grad(final_loss)(jnp.float32(0.01)):.4g}"


def _second_moment(optimizer: GradientTransformation, gradients: jax.Array) -> float:
    """Nu after these gradients, one a step."""

    def step(state: optax.OptState, gradient: jax.Array) -> tuple[optax.OptState, None]:
        return optimizer.update(gradient, state)[1], None

    state = jax.lax.scan(step, optimizer.init(gradients[0]), gradients)[0]
    return float(optax.tree.get(state, "nu"))


def main() -> None:
    """Prints the table."""
    print(f"jax {jax.__version__} on {jax.default_backend()}, float32 unless said\n")
    print(f"| | optax {optax.__version__} | optax_radam | right |\n|---|---|---|---|")
    scales = (_optax_scale, _our_scale)
    for b2 in (0.999, 0.9995, 0.9999, 0.99999):
        steps = [_rectified_steps(make, b2) for make in scales]
        label = f"| b2 = {b2}: rectified of steps 1-10"
        print(label, *steps, "6, 7, 8, 9, 10 |", sep=" | ")
        for step in (6, 20):
            errors = [_error(make, b2, step) for make in scales]
            print(f"| b2 = {b2}: relative error of r_{step}", *errors, "0 |", sep=" | ")
    radams = (optax.radam, optax_radam.radam)
    gradients = map(_training_gradient, radams)
    print(
        "| d loss / d learning rate, through 8 steps", *gradients, "finite |", sep=" | "
    )
    b2, averaged = 0.99999, 100_000
    exact = -math.expm1(averaged * math.log(b2))
    moments = [
        _second_moment(radam(1e-3, b2=b2), jnp.ones(averaged)) for radam in radams
    ]
    label = f"| b2 = {b2}: relative error of nu after {averaged:,} steps"
    print(label, *(f"{abs(nu / exact - 1):.1e}" for nu in moments), "0 |", sep=" | ")
    bfloat16 = jnp.full(2000, 1e-3, jnp.bfloat16).at[0].set(1)
    moments = [_second_moment(radam(1e-3), bfloat16) for radam in radams]
    exact = 0.999**1999 * 0.001 + (1 - 0.999**1999) * float(jnp.bfloat16(1e-3)) ** 2
    label = "| bfloat16 parameter: nu after 2,000 steps"
    print(label, *(f"{nu:.3g}" for nu in moments), f"{exact:.3g} |", sep=" | ")


if __name__ == "__main__":
    main()
