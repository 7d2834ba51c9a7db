"""Learning-rate schedules by name, as numbers: a rate for each update of a run.

A schedule is data to the compiled step, which so serves every schedule and rate.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

import optax_radam
from experiments.comparison.config import ComparisonConfig


def learning_rates(
    schedule: str, peak: float, config: ComparisonConfig, run_steps: int
) -> npt.NDArray[np.float32]:
    """The learning rate of each update.

    Args:
      schedule: names of factors, joined by "+".
      peak: its highest value, were all factors 1.
      config: the settings of schedules, and `b2`.
      run_steps: updates in the whole run.

    Returns:
      An array of shape (run_steps,).
    """
    counts = jnp.arange(run_steps, dtype=jnp.int32)
    rates = jnp.full([run_steps], peak, jnp.float32)
    for name in schedule.split("+"):
        rates = rates * _factor(name, peak, config, run_steps)(counts)
    return np.asarray(rates, np.float32)


def _factor(
    name: str, peak: float, config: ComparisonConfig, run_steps: int
) -> optax.Schedule:
    base, _, number = name.rpartition("-")
    if number.isdigit():
        name, steps = base, int(number)
    else:
        steps = config.schedule_steps or run_steps
    if name == "untuned-linear-warmup":
        return optax_radam.untuned_linear_warmup_schedule(config.b2)
    if name == "untuned-exponential-warmup":
        return optax_radam.untuned_exponential_warmup_schedule(config.b2)
    if name == "linear-warmup":
        return lambda count: jnp.minimum(1, (count + 1) / steps)
    if name == "warmup-linear-decay":
        return optax_radam.warmup_linear_decay_schedule(
            peak_value=1.0,
            total_steps=steps,
            warmup_proportion=config.warmup_proportion,
            end_value=config.end_value / peak,
        )
    if name == "step-decay":
        boundaries = [round(share * run_steps) for share in config.step_decay_at]

        def step_decay(count: jax.Array) -> jax.Array:
            passed = sum(jnp.int32(count >= boundary) for boundary in boundaries)
            return jnp.power(jnp.float32(0.1), passed)

        return step_decay
    return optax.constant_schedule(1.0)
