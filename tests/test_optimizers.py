"""The experiment's optimizers and schedules, by name."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import optax_radam
from experiments.config import OptimizerName, Training
from experiments.optimizers import evaluated_params, make_optimizer
from experiments.schedules import learning_rates

NAMES = get_args(OptimizerName)


def _rates(schedule, counts, **fields):
    rates = learning_rates(schedule, 0.1, Training(**fields), 100, range(100))
    assert rates.shape == (100,)
    assert rates.dtype == np.float32
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


def test_rates_of_some_steps_are_those_of_the_whole_run():
    arguments = ("warmup-linear-decay+step-decay", 0.1, Training(), 100)
    part = learning_rates(*arguments, range(40, 60))
    np.testing.assert_array_equal(part, learning_rates(*arguments, range(100))[40:60])


# What a user would write at b2 = 0.9 and a weight decay of 0.01.
EQUIVALENTS = {
    "adam": lambda rate: optax.adamw(rate, b2=0.9, weight_decay=0.01),
    "radam": lambda rate: optax_radam.radam(rate, b2=0.9, weight_decay=0.01),
    "radam-skip": lambda rate: optax_radam.radam(
        rate, b2=0.9, weight_decay=0.01, fallback="skip"
    ),
    "radam-shifted": lambda rate: optax_radam.radam(
        rate, b2=0.9, weight_decay=0.01, fallback="shifted"
    ),
    "schedule-free-radam": lambda rate: optax_radam.schedule_free_radam(
        rate, b2=0.9, weight_decay=0.01
    ),
}


@pytest.mark.parametrize("name", EQUIVALENTS)
def test_chains_are_the_optimizers_that_the_packages_export(name):
    ours = make_optimizer(name, 0.1, Training(b2=0.9, weight_decay=0.01))
    theirs = EQUIVALENTS[name](0.1)
    updates = [jax.jit(optimizer.update) for optimizer in (ours, theirs)]
    params = 2 * [{"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.ones(2)}]
    states = [optimizer.init(params[0]) for optimizer in (ours, theirs)]
    random = np.random.default_rng(0)
    for _ in range(8):  # tractable from the fifth on
        gradient = jax.tree.map(lambda p: random.normal(size=p.shape), params[0])
        gradient = jax.tree.map(jnp.float32, gradient)
        for which in (0, 1):
            update, states[which] = updates[which](
                gradient, states[which], params[which]
            )
            params[which] = optax.apply_updates(params[which], update)
        jax.tree.map(lambda *p: np.testing.assert_allclose(*p, rtol=1e-6), *params)


# The second of two steps under gradients of 1 and of 2, at rate 0.1, by hand.
SECOND_UPDATES = {
    "adam": -0.1 * (0.29 / 0.19) / np.sqrt(0.49 / 0.19),  # at b2 = 0.9
    "radam": -0.1 * 0.29 / 0.19,  # momentum
    "radam-skip": 0.0,  # silent
    # r_t of the seventh step, here the second.
    "radam-shifted": -0.1
    * (0.29 / 0.19)
    / np.sqrt(0.49 / 0.19)
    * float(oracles.rectification(7, 0.9)),
    "schedule-free-radam": 0.0,  # silent
    "sgd": -0.1 * (0.9 * 1 + 2),
    "adagrad": -0.1 * 2 / np.sqrt(0.1 + 1 + 4),
    "rmsprop": -0.1 * 2 / np.sqrt(0.9 * 0.1 + 0.1 * 4),
}


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_those_of_the_blog(name):
    optimizer = make_optimizer(name, 0.1, Training(b2=0.9))
    params = jnp.zeros([])
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in (1.0, 2.0):
        updates, state = update(jnp.float32(gradient), state, params)
    np.testing.assert_allclose(updates, SECOND_UPDATES[name], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_to_evaluate_are_those_trained_or_their_average(name):
    optimizer = make_optimizer(name, 0.1, Training(b2=0.9))
    params = jnp.ones(2)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(6):  # tractable from the fifth on
        updates, state = update(params, state, params)
        params = optax.apply_updates(params, updates)
    evaluated = evaluated_params(name, state, params)
    is_average = name == "schedule-free-radam"
    assert jnp.all(evaluated == params) == (not is_average)
    if is_average:
        trained = 0.9 * evaluated + 0.1 * state.z
        np.testing.assert_allclose(trained, params, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_is_decoupled_in_adams_and_l2_in_the_others(name):
    """Without gradients, only the rate scales a decoupled decay."""
    optimizer = make_optimizer(name, 0.1, Training(b2=0.9, weight_decay=0.01))
    params = jnp.full([], 2.0)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(6):  # tractable from the fifth on
        updates, state = update(jnp.zeros([]), state, params)
    l2 = {
        "sgd": -0.1 * 0.02 * sum(0.9**n for n in range(6)),
        "adagrad": -0.1 * 0.02 / np.sqrt(0.1 + 6 * 0.02**2),
        "rmsprop": -0.1 * 0.02 / np.sqrt((1 - 0.9**6) * 0.02**2),
    }
    expected = l2.get(name, -0.1 * 0.01 * 2)
    if name == "schedule-free-radam":  # moves z, and the parameters by a share of it
        expected = updates
        assert -0.1 * 0.01 * 2 * 6 <= updates < 0
    np.testing.assert_allclose(updates, expected, rtol=1e-4)
