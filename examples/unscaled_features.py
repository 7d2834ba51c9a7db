"""The first steps of RAdam on unscaled features, by `fallback`.

Softmax regression on scikit-learn's wine data, whose thirteen features range from 0.1
to 1,680, with full batches. While the variance is intractable (five steps at the
default b2), Algorithm 2 steps by the raw momentum, which is as large as the gradients.
Adam's denominator, which would remove that scale, starts only at the sixth step. Adam
has it from the first step and ends best: this problem does not need rectification.

Run it from a checkout: `python -m examples.unscaled_features`
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_wine

import optax_radam

LEARNING_RATE = 1e-3
STEPS = 500
WARMUP = optax_radam.untuned_linear_warmup_schedule(b2=0.999)
OPTIMIZERS = {
    "optax.radam": optax.radam(LEARNING_RATE),
    'radam, "momentum"': optax_radam.radam(LEARNING_RATE),
    'radam, "skip"': optax_radam.radam(LEARNING_RATE, fallback="skip"),
    'radam, "shifted"': optax_radam.radam(LEARNING_RATE, fallback="shifted"),
    "optax.adam": optax.adam(LEARNING_RATE),
    "optax.adam, untuned warmup": optax.adam(
        optax_radam.multiply_schedules(LEARNING_RATE, WARMUP)
    ),
}


class Course(NamedTuple):
    """The loss over a training."""

    start: float
    peak: float
    peak_step: int  # updates made before the peak
    end: float


def train(optimizer: optax.GradientTransformation) -> Course:
    """Runs the optimizer on the wine data, from weights of zero."""
    features, classes = load_wine(return_X_y=True)
    features = jnp.asarray(features, jnp.float32)
    params = {"w": jnp.zeros((features.shape[1], 3)), "b": jnp.zeros(3)}

    def loss(params: optax.Params) -> jax.Array:
        logits = features @ params["w"] + params["b"]
        losses: jax.Array = optax.losses.softmax_cross_entropy_with_integer_labels(
            logits, classes
        )
        return losses.mean()

    def step(
        carry: tuple[optax.Params, optax.OptState], _: None
    ) -> tuple[tuple[optax.Params, optax.OptState], jax.Array]:
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def run(params: optax.Params) -> tuple[jax.Array, jax.Array]:
        carry = (params, optimizer.init(params))
        (params, _), losses = jax.lax.scan(step, carry, length=STEPS)
        return losses, loss(params)

    losses, end = run(params)
    return Course(
        float(losses[0]), float(losses.max()), int(losses.argmax()), float(end)
    )


def main() -> None:
    """Prints a line for each optimizer."""
    print(f"Loss on unscaled features, learning rate {LEARNING_RATE}, {STEPS} steps")
    for name, optimizer in OPTIMIZERS.items():
        course = train(optimizer)
        print(
            f"{name:<26} starts at {course.start:.2f}, peaks at {course.peak:6.2f} "
            f"after {course.peak_step} steps, ends at {course.end:.3f}"
        )


if __name__ == "__main__":
    main()
