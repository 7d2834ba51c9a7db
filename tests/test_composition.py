"""RAdam inside of Optax: each composition compared with one computed by hand."""

import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import problems
import pytest
from composition_cases import (
    B2,
    LAST_RAW_STEP,
    ROWS,
    SPIKED_STEPS,
    START,
    STEPS,
    Run,
    times,
)

import optax_radam

OPTAX_NAMES = (
    "chain",
    "named_chain",
    "masked",
    "partition",
    "MultiSteps",
    "skip_large_updates",
    "apply_if_finite",
    "lookahead",
    "inject_hyperparams",
    "flatten",
    "ema",
    "clip",
    "clip_by_global_norm",
    "adaptive_grad_clip",
    "add_noise",
    "keep_params_nonnegative",
    "contrib.split_real_and_imaginary",
    "contrib.reduce_on_plateau",
    "contrib.mechanize",
    "tree.get",
    "tree.set",
    "tree_map_params",
)


def _train(optimizer, row):
    """A `Run`, and the state after it."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(params, state, spike):
        loss, gradients = jax.value_and_grad(row.loss)(params)
        # For complex parameters, the conjugate is the direction of ascent.
        gradients = jax.tree.map(lambda g: spike * jnp.conj(g), gradients)
        updates, state = optimizer.update(gradients, state, params, value=loss)
        seen = Run(gradients, params, updates, loss)
        return optax.apply_updates(params, updates), state, seen

    step = jax.jit(chex.assert_max_traces(step, n=1))
    spikes = np.ones(STEPS, np.float32)
    spikes[SPIKED_STEPS] = row.spike
    params, state, all_seen = row.start, optimizer.init(row.start), []
    for spike in spikes:
        params, state, seen = step(params, state, spike)
        all_seen.append(seen)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *all_seen), state


def test_each_name_has_a_row():
    assert set(ROWS) == set(OPTAX_NAMES)


@pytest.mark.parametrize("name", OPTAX_NAMES)
def test_trains_in_one_trace_as_by_hand(name):
    row = ROWS[name]
    run, state = _train(row.build(operator.attrgetter(name)(optax)), row)
    assert optax.tree.get(state, "rectification_count") > LAST_RAW_STEP
    assert run.losses[-1] <= run.losses[LAST_RAW_STEP] / 10
    if row.by_hand is not None:
        # Measured 1e-7, the rounding of parameters near 4.
        chex.assert_trees_all_close(run.updates, row.by_hand(run), rtol=0, atol=5e-7)


def _users_own():
    """A user's transformation: one moment, and a required keyword in `update`."""

    def init(params):
        return jnp.int32(0), jax.tree.map(jnp.zeros_like, params)

    def update(updates, state, params, *, weight):
        count = state[0] + 1
        nu = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g**2, state[1], updates)
        scale = weight * jnp.sqrt(1 - B2**count)
        updates = jax.tree.map(lambda g, v: scale * g / jnp.sqrt(v), updates, nu)
        return updates, (count, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def _normal_gradients():
    return jax.tree.map(
        lambda p: jnp.asarray(problems.normal_gradients(12, *p.shape), p.dtype), START
    )


@pytest.mark.parametrize(
    "inner",
    [
        optax.scale_by_adam(b2=B2),
        optax.scale_by_adam(b2=B2, eps=1e-2),
        optax.scale_by_belief(b2=B2),
        optax.scale_by_yogi(b2=B2),
        optax.scale_by_rms(decay=B2, bias_correction=True),
        optax.scale_by_amsgrad(b2=B2),
        optax.lamb(0.1, b2=B2, weight_decay=0.01),
        _users_own(),
    ],
    ids=["adam", "adam_eps", "belief", "yogi", "rms", "amsgrad", "lamb", "users_own"],
)
def test_rectify_is_the_factor_times_the_inner_update(inner):
    transform = optax_radam.rectify(inner, B2)
    inner = optax.with_extra_args_support(inner)
    gradients = _normal_gradients()
    state, inner_state = transform.init(START), inner.init(START)
    for t in range(1, 13):
        g = jax.tree.map(operator.itemgetter(t - 1), gradients)
        updates, state = transform.update(g, state, START, weight=2.0)
        inner_updates, inner_state = inner.update(g, inner_state, START, weight=2.0)
        factor = optax.tree.get(state, "rectification")
        expected = float(oracles.rectification(t, B2)) if t > LAST_RAW_STEP else 0
        np.testing.assert_allclose(factor, expected, rtol=5e-7)
        chex.assert_trees_all_equal(updates, times(factor, inner_updates))


@pytest.mark.parametrize(
    "normalize",
    [optax.scale_by_trust_ratio(), optax.clip_by_global_norm(1e-3)],
    ids=["trust_ratio", "clip_that_acts"],
)
def test_normalization_cancels_the_factor_unless_it_comes_before(normalize):
    def updates(transform):
        def step(state, gradients):
            return transform.update(gradients, state, START)[::-1]

        _, updates = jax.lax.scan(step, transform.init(START), _normal_gradients())
        return jax.tree.map(lambda u: u[LAST_RAW_STEP:], updates)

    adam = optax.scale_by_adam(b2=B2)
    expected = updates(optax.chain(adam, normalize))
    cancelled = updates(optax.chain(optax_radam.rectify(adam, B2), normalize))
    chex.assert_trees_all_close(cancelled, expected, rtol=1e-5)
    kept = updates(optax_radam.rectify(optax.chain(adam, normalize), B2))
    steps = range(LAST_RAW_STEP + 1, 13)
    factors = np.array([float(oracles.rectification(t, B2)) for t in steps])
    chex.assert_trees_all_close(kept, times(factors, expected), rtol=1e-5)
