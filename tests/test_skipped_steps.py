"""Skipped steps: skipped gradients, and layers that start to train late."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import problems
import pytest

import optax_radam

B2 = 0.99
STEPS = 40
BAD_STEPS = [0, 3, 4, 9, 10, 30]  # counted from 0


class Row(NamedTuple):
    """A wrapper that skips gradients."""

    wrap: Callable[[optax.GradientTransformation], Any]
    bad: float  # a gradient that it skips
    kept: Callable[[Any], Any]  # the state that a skipped gradient must not change
    every: int = 1  # gradients for each update


def _accumulate(should_skip):
    def wrap(optimizer):
        steps = optax.MultiSteps(optimizer, 3, should_skip_update_fn=should_skip)
        return steps.gradient_transformation()

    return wrap


_ACCUMULATED = operator.attrgetter(
    "inner_opt_state", "acc_grads", "mini_step", "gradient_step"
)
_SKIP_LARGE = functools.partial(optax.skip_large_updates, max_squared_norm=1e6)

ROWS = {
    "apply_if_finite": Row(
        functools.partial(optax.apply_if_finite, max_consecutive_errors=5),
        np.nan,
        operator.attrgetter("inner_state"),
    ),
    "skip_not_finite": Row(
        _accumulate(optax.skip_not_finite), np.inf, _ACCUMULATED, every=3
    ),
    "skip_large_updates": Row(_accumulate(_SKIP_LARGE), 1e4, _ACCUMULATED, every=3),
}


def _updates(optimizer, gradients):
    """The updates of each step, and the state after the last one."""
    params = jnp.ones_like(gradients[0])

    def step(state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return state, updates

    state, updates = jax.lax.scan(step, optimizer.init(params), gradients)
    return updates, state


@pytest.mark.parametrize("fallback", ["momentum", "skip"])
@pytest.mark.parametrize("name", ROWS)
def test_skipped_gradients_leave_no_trace(name, fallback):
    row = ROWS[name]
    radam = optax_radam.radam(0.1, b2=B2, fallback=fallback, weight_decay=0.01)
    optimizer = row.wrap(radam)
    gradients = problems.normal_gradients(STEPS, 3).astype(np.float32)
    good = np.delete(np.arange(STEPS), BAD_STEPS)
    expected, state_without = _updates(optimizer, jnp.asarray(gradients[good]))
    gradients[BAD_STEPS, 1] = row.bad
    updates, state = _updates(optimizer, jnp.asarray(gradients))
    np.testing.assert_array_equal(updates[good], expected)
    np.testing.assert_array_equal(updates[np.array(BAD_STEPS)], 0)
    chex.assert_trees_all_equal(row.kept(state), row.kept(state_without))
    count = len(good) // row.every
    assert optax.tree.get(state, "rectification_count") == count
    factor = optax.tree.get(state, "rectification")
    expected_factor = float(oracles.rectification(count, B2))
    np.testing.assert_allclose(factor, expected_factor, rtol=5e-7)


@pytest.mark.parametrize(
    ("optimizer", "first", "longest"),
    [(optax_radam.radam(1.0), 1.624, 3.399), (optax.adam(1.0, b2=0.999), 2.515, 5.241)],
    ids=["radam", "adam"],
)
def test_steps_after_a_thousand_zero_gradients_are_too_long(optimizer, first, longest):
    gradients = np.float32(np.arange(1040) >= 1000)
    steps = -np.asarray(_updates(optimizer, gradients)[0])[1000:]
    np.testing.assert_allclose(steps[[0, 11]], [first, longest], rtol=1e-3)
    assert np.argmax(steps) == 11


def test_partition_that_waits_begins_like_a_fresh_optimizer():
    wait = 9
    schedule = optax.cosine_decay_schedule(0.1, STEPS)
    radam = optax_radam.radam(schedule, b2=B2, weight_decay=0.01)
    late = optax.conditionally_mask(radam, lambda step: step >= wait)
    optimizer = optax.partition(
        {"now": radam, "late": late}, {"head": "now", "body": "late"}
    )
    normal = functools.partial(problems.normal_gradients, STEPS)
    gradients = {"head": normal(3), "body": normal(2, 3, seed=1)}
    gradients = jax.tree.map(np.float32, gradients)
    trained = problems.trajectory(optimizer, gradients, start=1.0)
    np.testing.assert_array_equal(trained["body"][:wait], 1)
    fresh = problems.trajectory(radam, gradients["body"][wait:], start=1.0)
    np.testing.assert_allclose(trained["body"][wait:], fresh, rtol=1e-6)
    alone = problems.trajectory(radam, gradients["head"], start=1.0)
    np.testing.assert_allclose(trained["head"], alone, rtol=1e-6)
