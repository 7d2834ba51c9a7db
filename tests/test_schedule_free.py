"""Comparison with schedulefree's RAdamScheduleFree on a noisy quadratic."""

import chex
import golden_makers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import schedule_free_cases

import optax_radam

KEPT = np.array(schedule_free_cases.KEPT_STEPS) - 1


def _ours(settings):
    """Our optimizer; a missing setting has our default, which should equal theirs."""
    settings = dict(settings)
    if "betas" in settings:
        settings["b1"], settings["b2"] = settings.pop("betas")
    if "lr" in settings:
        settings["learning_rate"] = settings.pop("lr")
    return optax_radam.schedule_free_radam(**settings)


def _trajectories(optimizer, noise):
    """Weights for training, and those for evaluation, after each step."""
    params = jnp.asarray(schedule_free_cases.START)

    def step(carry, step_noise):
        params, state = carry
        gradients = schedule_free_cases.CURVATURE * params + step_noise
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        evaluation = optax.contrib.schedule_free_eval_params(state, params)
        return (params, state), (params, evaluation)

    carry = (params, optimizer.init(params))
    return jax.lax.scan(step, carry, jnp.asarray(noise))[1]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", schedule_free_cases.CASES)
def test_follows_the_reference(name):
    optimizer = _ours(schedule_free_cases.CASES[name])
    with np.load(golden_makers.FOLDER / "schedule_free.npz") as golden:
        training, evaluation = _trajectories(optimizer, golden["noise"])
        np.testing.assert_allclose(
            training[KEPT], golden[f"{name}/training"], rtol=0, atol=1e-11
        )
        np.testing.assert_allclose(
            evaluation[KEPT], golden[f"{name}/evaluation"], rtol=0, atol=1e-11
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", schedule_free_cases.CASES)
def test_follows_the_installed_reference(name):
    pytest.importorskip("schedulefree")
    maker = golden_makers.load("make_schedule_free")
    settings, noise = schedule_free_cases.CASES[name], schedule_free_cases.noise(seed=1)
    expected = maker.trajectories(settings, noise)
    actual = _trajectories(_ours(settings), noise)
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-11)


def test_silent_until_tractable_and_traced_once():
    """rho_t passes 4 at step 5, where the rectified rate is first above 0."""
    optimizer = optax_radam.schedule_free_radam(0.1, weight_decay=0.1)
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    params = jnp.ones(2)
    state = optimizer.init(params)
    for t in range(1, 9):
        updates, state = update(params, state, params)
        factor = float(oracles.rectification(t, 0.999))
        np.testing.assert_allclose(
            optax.tree.get(state, "rectification"), factor, rtol=1e-6
        )
        assert bool(jnp.all(updates == 0)) == (t < 5)
        params = optax.apply_updates(params, updates)


def test_rate_by_a_schedule():
    """Where the rate is 0, z does not move."""
    rate = optax.piecewise_constant_schedule(0.1, {10: 0.0})
    optimizer = optax_radam.schedule_free_radam(rate)
    plain = optax_radam.schedule_free_radam(0.1)
    params = jnp.ones(2)
    state, plain_state = optimizer.init(params), plain.init(params)
    for _ in range(10):
        _, state = optimizer.update(params, state, params)
        _, plain_state = plain.update(params, plain_state, params)
    chex.assert_trees_all_close(state.z, plain_state.z, rtol=1e-6)
    _, after = optimizer.update(params, state, params)
    np.testing.assert_array_equal(after.z, state.z)
    _, after = plain.update(params, plain_state, params)
    assert jnp.all(after.z != plain_state.z)


def test_smallest_b1_trains():
    optimizer = optax_radam.schedule_free_radam(0.1, b1=2.0**-24)
    params = jnp.array([0.3, -0.7])
    state = optimizer.init(params)
    for _ in range(20):
        updates, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, updates)
    assert jnp.all(jnp.isfinite(params))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"b1": 0.0}, ValueError, r"`b1` must be a number in \[2\*\*-24, 1\), got 0"),
        ({"b1": 5e-8}, ValueError, r"`b1` must .* in \[2\*\*-24, 1\), got 5e-08"),
        ({"b1": 1}, ValueError, r"`b1` must be a number in \[2\*\*-24, 1\), got 1"),
        ({"b2": 0.6}, ValueError, r"`b2` must be in \(0.6, 1\) for threshold 4.0"),
        ({"learning_rate": -1}, ValueError, "`learning_rate` must be .* got -1"),
        ({"eps": "0"}, TypeError, "`eps` must be .* got '0'"),
        ({"weight_decay": None}, TypeError, "`weight_decay` must be .* got None"),
    ],
)
def test_bad_arguments(settings, error, message):
    with pytest.raises(error, match=message):
        optax_radam.schedule_free_radam(**settings)
