import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from experiments.cifar10.config import Config
from experiments.comparison import optimizers, schedules


def _rates(schedule, counts, run_steps=100, **fields):
    config = Config(**fields)
    rates = schedules.learning_rates(schedule, 0.1, config, run_steps)
    assert rates.shape == (run_steps,)
    return rates[counts]


def test_flags_reach_the_schedules():
    np.testing.assert_allclose(_rates("constant", [0, 99]), [0.1, 0.1])
    warmup = _rates("untuned-linear-warmup", [0, 9, 19, 99], b2=0.9)
    np.testing.assert_allclose(warmup, [0.005, 0.05, 0.1, 0.1], rtol=1e-6)
    warmup = _rates("untuned-exponential-warmup", [0, 9], b2=0.9)
    np.testing.assert_allclose(warmup, 0.1 * -np.expm1([-0.1, -1]), rtol=1e-6)
    whole_run = _rates("warmup-linear-decay", [4, 9, 54, 99], end_value=0.02)
    np.testing.assert_allclose(whole_run, [0.05, 0.1, 0.06, 0.02], rtol=1e-6)
    flags = {"schedule_steps": 20, "warmup_proportion": 0.5, "end_value": 0.0}
    fixed = _rates("warmup-linear-decay", [4, 9, 14, 19, 50], **flags)
    np.testing.assert_allclose(fixed, [0.05, 0.1, 0.05, 0, 0], rtol=1e-6, atol=1e-9)
    named = _rates(
        "warmup-linear-decay-20", [4, 9, 14], **flags | {"schedule_steps": 7}
    )
    np.testing.assert_allclose(named, [0.05, 0.1, 0.05], rtol=1e-6)
    steps = _rates("step-decay", [29, 30, 59, 60], step_decay_at=(0.3, 0.6))
    np.testing.assert_allclose(steps, [0.1, 0.01, 0.01, 0.001], rtol=1e-6)


def test_joined_schedules_are_multiplied():
    joined = _rates("linear-warmup-40+step-decay", [0, 19, 39, 50, 75])
    np.testing.assert_allclose(joined, [0.0025, 0.05, 0.1, 0.01, 0.001], rtol=1e-6)


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
    optimizer = optimizers.make_optimizer(name, 0.1, config)
    params = jnp.zeros([])
    state = optimizer.init(params)
    for gradient in (1.0, 2.0):
        updates, state = optimizer.update(jnp.float32(gradient), state, params)
    np.testing.assert_allclose(updates, _SECOND_UPDATES[name], rtol=1e-5)
    assert ("b2" in optimizers.settings(name, config)) == ("adam" in name)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_parameters_to_evaluate(name):
    """As trained, or the average."""
    optimizer = optimizers.make_optimizer(name, 0.1, Config(b2=0.9))
    params = jnp.ones(2)
    state = optimizer.init(params)
    for _ in range(6):  # tractable from the fifth on
        updates, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, updates)
    evaluated = optimizers.evaluated_params(name, state, params)
    is_average = name == "schedule-free-radam"
    assert jnp.all(evaluated == params) == (not is_average)
    if is_average:
        trained = 0.9 * evaluated + 0.1 * state.z
        np.testing.assert_allclose(trained, params, rtol=1e-6)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_weight_decay_is_decoupled_in_adams_and_l2_in_the_others(name):
    """Without gradients: a decoupled decay is scaled by the rate alone."""
    config = Config(b2=0.9, weight_decay=0.01)
    optimizer = optimizers.make_optimizer(name, 0.1, config)
    params = jnp.full([], 2.0)
    state = optimizer.init(params)
    for _ in range(6):  # tractable from the fifth on
        updates, state = optimizer.update(jnp.zeros([]), state, params)
    l2 = {
        "sgd": -0.1 * 0.02 * sum(0.9**n for n in range(6)),
        "adagrad": -0.1 * 0.02 / np.sqrt(0.1 + 6 * 0.02**2),
        "rmsprop": -0.1 * 0.02 / np.sqrt((1 - 0.9**6) * 0.02**2),
    }
    expected = l2.get(name, -0.1 * 0.01 * 2)
    if name == "schedule-free-radam":  # moves z, and of it a share the parameters
        expected = updates
        assert -0.1 * 0.01 * 2 * 6 <= updates < 0
    np.testing.assert_allclose(updates, expected, rtol=1e-4)
    decays = {key for key in optimizers.settings(name, config) if "decay" in key}
    assert ("l2_weight_decay" if name in l2 else "decoupled_weight_decay") in decays
