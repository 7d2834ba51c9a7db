import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from experiments.cifar10.config import Config
from experiments.comparison import optimizers
from experiments.comparison.config import Arm


def _rates(schedule, counts, run_steps=100, **fields):
    config = Config(**fields)
    made = optimizers.make_schedule(Arm("adam", schedule), 0.1, config, run_steps)
    return [float(made(count)) for count in counts]


def test_flags_reach_the_schedules():
    np.testing.assert_allclose(_rates("constant", [0, 99]), [0.1, 0.1])
    warmup = _rates("untuned-linear-warmup", [0, 9, 19, 99], b2=0.9)
    np.testing.assert_allclose(warmup, [0.005, 0.05, 0.1, 0.1], rtol=1e-6)
    whole_run = _rates("warmup-linear-decay", [4, 9, 54, 99], end_value=0.02)
    np.testing.assert_allclose(whole_run, [0.05, 0.1, 0.06, 0.02], rtol=1e-6)
    flags = {"schedule_steps": 20, "warmup_proportion": 0.5, "end_value": 0.0}
    fixed = _rates("warmup-linear-decay", [4, 9, 14, 19, 50], **flags)
    np.testing.assert_allclose(fixed, [0.05, 0.1, 0.05, 0, 0], rtol=1e-6, atol=1e-9)


def _rectification(step, b2):
    return float(oracles.rectification(step, b2))


# The second of two steps under gradients of 1 and of 2, at rate 0.1, by hand.
_SECOND_UPDATES = {
    "adam": -0.1 * (0.29 / 0.19) / np.sqrt(0.49 / 0.19),  # at b2 = 0.9
    "radam": -0.1 * 0.29 / 0.19,  # momentum
    "radam-skip": 0.0,  # silent
    # r_t of the seventh step, here the second.
    "radam-shifted": -0.1
    * (0.29 / 0.19)
    / np.sqrt(0.49 / 0.19)
    * _rectification(7, 0.9),
    "schedule-free-radam": 0.0,  # silent
    "sgd": -0.1 * (0.9 * 1 + 2),
    "adagrad": -0.1 * 2 / np.sqrt(0.1 + 1 + 4),
    "rmsprop": -0.1 * 2 / np.sqrt(0.9 * 0.1 + 0.1 * 4),
}


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_settings_are_those_of_the_blog(name):
    config = Config(b2=0.9)
    optimizer = optimizers.make_optimizer(Arm(name, "constant"), 0.1, config, 100)
    params = jnp.zeros([])
    state = optimizer.init(params)
    for gradient in (1.0, 2.0):
        updates, state = optimizer.update(jnp.float32(gradient), state, params)
    np.testing.assert_allclose(updates, _SECOND_UPDATES[name], rtol=1e-5)
    assert ("b2" in optimizers.settings(name, 0.9)) == ("adam" in name)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_parameters_to_evaluate(name):
    """As trained, or the average."""
    arm = Arm(name, "constant")
    optimizer = optimizers.make_optimizer(arm, 0.1, Config(b2=0.9), 100)
    params = jnp.ones(2)
    state = optimizer.init(params)
    for _ in range(6):  # tractable from the fifth on
        updates, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, updates)
    evaluated = optimizers.evaluated_params(arm, state, params)
    is_average = name == "schedule-free-radam"
    assert jnp.all(evaluated == params) == (not is_average)
    if is_average:
        trained = 0.9 * evaluated + 0.1 * state.z
        np.testing.assert_allclose(trained, params, rtol=1e-6)
