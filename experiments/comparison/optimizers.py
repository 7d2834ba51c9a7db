"""The compared optimizers, by name, with their settings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

import optax_radam
from experiments.comparison.config import ComparisonConfig, OptimizerName


def _as_trained(state: optax.OptState, params: optax.Params) -> optax.Params:
    return params


class Optimizer(NamedTuple):
    """A constructor, and the settings it gets besides the learning rate."""

    factory: Callable[..., optax.GradientTransformation]
    settings: dict[str, Any]
    # Whose `b2` and decoupled `weight_decay` come from the command line; the others'
    # decay is L2, a part of the gradient.
    is_adam: bool = False
    # From state and parameters, the parameters to evaluate.
    evaluated: Callable[[optax.OptState, optax.Params], optax.Params] = _as_trained


def _shifted_radam(
    learning_rate: optax.ScalarOrSchedule,
    b1: float,
    b2: float,
    eps: float,
    threshold: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Adam whose steps are rectified at once, from the first tractable step's r_t."""
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    return optax.chain(
        optax_radam.rectify(adam, b2, threshold, shifted=True),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


# Adam's family, and those that the blog's kind of network was trained with before it.
OPTIMIZERS: dict[OptimizerName, Optimizer] = {
    "adam": Optimizer(optax.adamw, {"b1": 0.9, "eps": 1e-8}, is_adam=True),
    "radam": Optimizer(
        optax_radam.radam,
        {"b1": 0.9, "eps": 1e-8, "threshold": 5.0, "fallback": "momentum"},
        is_adam=True,
    ),
    "radam-skip": Optimizer(
        optax_radam.radam,
        {"b1": 0.9, "eps": 1e-8, "threshold": 5.0, "fallback": "skip"},
        is_adam=True,
    ),
    "radam-shifted": Optimizer(
        _shifted_radam, {"b1": 0.9, "eps": 1e-8, "threshold": 5.0}, is_adam=True
    ),
    "schedule-free-radam": Optimizer(
        optax_radam.schedule_free_radam,
        {"b1": 0.9, "eps": 1e-8, "threshold": 4.0},
        is_adam=True,
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


def settings(name: OptimizerName, config: ComparisonConfig) -> dict[str, Any]:
    """All that makes the optimizer, but for the learning rate; for the record."""
    optimizer = OPTIMIZERS[name]
    b2 = {"b2": config.b2} if optimizer.is_adam else {}
    kind = "decoupled_weight_decay" if optimizer.is_adam else "l2_weight_decay"
    return optimizer.settings | b2 | {kind: config.weight_decay}


def evaluated_params(
    name: OptimizerName, state: optax.OptState, params: optax.Params
) -> optax.Params:
    """The parameters that are evaluated: the trained ones, or their average."""
    return OPTIMIZERS[name].evaluated(state, params)


def make_optimizer(
    name: OptimizerName,
    learning_rate: optax.ScalarOrSchedule,
    config: ComparisonConfig,
) -> optax.GradientTransformation:
    """The optimizer as it is compared.

    Raises:
      ValueError: if `b2` is outside the optimizer's range.
    """
    optimizer, decay = OPTIMIZERS[name], config.weight_decay
    if optimizer.is_adam:
        return optimizer.factory(
            learning_rate, b2=config.b2, weight_decay=decay, **optimizer.settings
        )
    return optax.chain(
        optax.add_decayed_weights(decay),
        optimizer.factory(learning_rate, **optimizer.settings),
    )
