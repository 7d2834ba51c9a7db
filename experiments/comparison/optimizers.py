"""The compared optimizers and schedules, by name, with their settings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

import optax_radam
from experiments.comparison.config import Arm, ComparisonConfig, OptimizerName


def _as_trained(state: optax.OptState, params: optax.Params) -> optax.Params:
    return params


class Optimizer(NamedTuple):
    """A constructor, and the settings it gets besides the learning rate."""

    factory: Callable[..., optax.GradientTransformation]
    settings: dict[str, Any]
    has_b2: bool = False
    # From state and parameters, the parameters to evaluate.
    evaluated: Callable[[optax.OptState, optax.Params], optax.Params] = _as_trained


def _shifted_radam(
    learning_rate: optax.ScalarOrSchedule,
    b1: float,
    b2: float,
    eps: float,
    threshold: float,
) -> optax.GradientTransformation:
    """Adam whose steps are rectified at once, from the first tractable step's r_t."""
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    return optax.chain(
        optax_radam.rectify(adam, b2, threshold, shifted=True),
        optax.scale_by_learning_rate(learning_rate),
    )


# The blog's family. `--b2` is the one setting that the command line changes.
OPTIMIZERS: dict[OptimizerName, Optimizer] = {
    "adam": Optimizer(optax.adam, {"b1": 0.9, "eps": 1e-8}, has_b2=True),
    "radam": Optimizer(
        optax_radam.radam,
        {"b1": 0.9, "eps": 1e-8, "threshold": 5.0, "fallback": "momentum"},
        has_b2=True,
    ),
    "radam-skip": Optimizer(
        optax_radam.radam,
        {"b1": 0.9, "eps": 1e-8, "threshold": 5.0, "fallback": "skip"},
        has_b2=True,
    ),
    "radam-shifted": Optimizer(
        _shifted_radam, {"b1": 0.9, "eps": 1e-8, "threshold": 5.0}, has_b2=True
    ),
    "schedule-free-radam": Optimizer(
        optax_radam.schedule_free_radam,
        {"b1": 0.9, "eps": 1e-8, "threshold": 4.0},
        has_b2=True,
        evaluated=optax.contrib.schedule_free_eval_params,
    ),
    "sgd": Optimizer(optax.sgd, {"momentum": 0.9}),
    "adagrad": Optimizer(
        optax.adagrad, {"initial_accumulator_value": 0.1, "eps": 1e-7}
    ),
    "rmsprop": Optimizer(
        optax.rmsprop, {"decay": 0.9, "eps": 1e-8, "eps_in_sqrt": True}
    ),
}


def settings(name: OptimizerName, b2: float) -> dict[str, Any]:
    """All that the optimizer is constructed with, but for the learning rate."""
    optimizer = OPTIMIZERS[name]
    return optimizer.settings | ({"b2": b2} if optimizer.has_b2 else {})


def evaluated_params(
    arm: Arm, state: optax.OptState, params: optax.Params
) -> optax.Params:
    """The parameters that the arm is evaluated with: trained ones, or their average."""
    return OPTIMIZERS[arm.optimizer].evaluated(state, params)


def make_schedule(
    arm: Arm, learning_rate: ArrayLike, config: ComparisonConfig, run_steps: int
) -> optax.Schedule:
    """The learning rate as a function of the count of updates.

    Args:
      arm: names the schedule.
      learning_rate: its highest value; may be traced.
      config: the other settings of schedules.
      run_steps: updates in the whole run, which warmup-linear-decay spans by default.

    Returns:
      An `optax.Schedule`.
    """
    if arm.schedule == "constant":
        return optax.constant_schedule(learning_rate)
    if arm.schedule == "untuned-linear-warmup":
        factor = optax_radam.untuned_linear_warmup_schedule(config.b2)

        def warmup(count: jax.Array) -> jax.Array:
            return jnp.multiply(learning_rate, factor(count))

        return warmup
    return optax_radam.warmup_linear_decay_schedule(
        peak_value=learning_rate,
        total_steps=config.schedule_steps or run_steps,
        warmup_proportion=config.warmup_proportion,
        end_value=config.end_value,
    )


def make_optimizer(
    arm: Arm, learning_rate: ArrayLike, config: ComparisonConfig, run_steps: int
) -> optax.GradientTransformation:
    """The arm's optimizer under its schedule; arguments as in `make_schedule`.

    Raises:
      ValueError: if `--b2` is outside the optimizer's range.
    """
    schedule = make_schedule(arm, learning_rate, config, run_steps)
    factory = OPTIMIZERS[arm.optimizer].factory
    return factory(schedule, **settings(arm.optimizer, config.b2))
