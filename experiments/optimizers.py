"""The compared optimizers by name: chains of Optax's transformations and ours."""

import jax
import optax

import optax_radam
from experiments.config import OptimizerName, Training

_B1, _EPS = 0.9, 1e-8


def make_optimizer(
    name: OptimizerName, learning_rate: float | jax.Array, training: Training
) -> optax.GradientTransformation:
    """Makes the optimizer; raises a `ValueError` if it cannot have this `b2`.

    Weight decay is decoupled in Adam's family. In the others it is L2: added to the
    gradient.
    """
    b2, decay = training.b2, optax.add_decayed_weights(training.weight_decay)
    descend = optax.scale_by_learning_rate(learning_rate)
    match name:
        case "adam":
            return optax.chain(optax.scale_by_adam(_B1, b2, _EPS), decay, descend)
        case "radam":  # Algorithm 2: momentum until the variance is tractable
            return optax.chain(
                optax_radam.scale_by_moments(_B1, b2, _EPS),
                optax_radam.scale_by_rectification(b2, before=1.0),
                decay,
                descend,
            )
        case "radam-skip":  # no gradient step until then
            return optax.chain(
                optax_radam.scale_by_moments(_B1, b2, _EPS),
                optax_radam.scale_by_rectification(b2, before=0.0),
                decay,
                descend,
            )
        case "radam-shifted":  # adaptive at once, from the first tractable factor on
            return optax.chain(
                optax_radam.scale_by_moments(_B1, b2, _EPS, threshold=None),
                optax_radam.scale_by_rectification(b2, shifted=True),
                decay,
                descend,
            )
        case "schedule-free-radam":
            return optax_radam.schedule_free_radam(
                learning_rate, _B1, b2, _EPS, weight_decay=training.weight_decay
            )
        case "sgd":
            return optax.chain(decay, optax.sgd(learning_rate, momentum=0.9))
        case "adagrad":
            return optax.chain(
                decay,
                optax.adagrad(learning_rate, initial_accumulator_value=0.1, eps=1e-7),
            )
        case "rmsprop":
            return optax.chain(
                decay,
                optax.rmsprop(learning_rate, decay=0.9, eps=_EPS, eps_in_sqrt=True),
            )


def evaluated_params(
    name: OptimizerName, state: optax.OptState, params: optax.Params
) -> optax.Params:
    """The parameters to evaluate: the trained ones, or schedule-free's average."""
    if name == "schedule-free-radam":
        return optax.contrib.schedule_free_eval_params(state, params)
    return params
