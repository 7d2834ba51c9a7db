"""Learning-rate schedules by name, as arrays with a rate for each update.

They are data to the compiled step, so one program serves every schedule and rate.
"""

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

import optax_radam
from experiments.config import Training, parse_schedule


def learning_rates(
    schedule: str, peak: float, training: Training, run_steps: int, steps: range
) -> npt.NDArray[np.float32]:
    """The learning rate at each of `steps`, from 0, of a run of `run_steps`.

    It is `peak` where all factors of the schedule are 1.
    """
    counts = jnp.arange(steps.start, steps.stop, steps.step, dtype=jnp.int32)
    rates = jnp.full(counts.shape, peak, jnp.float32)
    for kind, number in parse_schedule(schedule):
        rates = rates * _factor(kind, number, peak, training, run_steps)(counts)
    return np.asarray(rates, np.float32)


def _factor(
    kind: str, number: int | None, peak: float, training: Training, run_steps: int
) -> optax.Schedule:
    if kind == "untuned-linear-warmup":
        return optax_radam.untuned_linear_warmup_schedule(training.b2)
    if kind == "untuned-exponential-warmup":
        return optax_radam.untuned_exponential_warmup_schedule(training.b2)
    if kind == "linear-warmup-N":
        return lambda count: jnp.minimum(1, (count + 1) / number)
    if kind.startswith("warmup-linear-decay"):
        return optax_radam.warmup_linear_decay_schedule(
            peak_value=1.0,
            total_steps=number or training.schedule_steps or run_steps,
            warmup_proportion=training.warmup_proportion,
            end_value=training.end_value / peak,
        )
    if kind == "step-decay":
        boundaries = jnp.array([round(x * run_steps) for x in training.step_decay_at])
        return lambda count: 0.1 ** jnp.sum(count[..., None] >= boundaries, -1)
    return optax.constant_schedule(1.0)
