"""Decay rates that change, as schedules, and the updates that optimizers make."""

import jax
import jax.numpy as jnp
import numpy as np

STEPS = 2000
COUNTS = np.arange(STEPS + 1)
# b2 in each step.
RATES = {
    "grows": 1 - (COUNTS + 1.0) ** -0.8,  # of T5, PaLM and Adafactor
    "ramp": np.interp(COUNTS, [0, 1000], [0.9, 0.999]),
    "rises": np.where(COUNTS < 1000, 0.9, 0.999),
    "falls": np.interp(COUNTS, [100, 1100], [0.999, 0.9]),
    "drops": np.where(COUNTS < 100, 0.999, 0.9),
    "batch": np.where(COUNTS < 500, 0.999, 0.999**4),  # four times as large
}
CYCLE = 0.9 + 0.05 * np.cos(COUNTS / 10)  # of b1


def schedule_of(rates):
    """A schedule of these rates, and the rates rounded to float32, in float64."""
    table = jnp.asarray(rates, jnp.float32)
    return lambda count: table[count], np.asarray(table, np.float64)


def updates_of(optimizer, gradients, state=None):
    """Updates of each step, and the state after the last."""
    gradients = jnp.asarray(gradients, jnp.float32)

    @jax.jit
    def run(state):
        def step(state, gradient):
            return optimizer.update(gradient, state, gradient)[::-1]

        return jax.lax.scan(step, state, gradients)

    state, updates = run(optimizer.init(gradients[0]) if state is None else state)
    return np.asarray(updates), state
