"""Properties for every decay rate, step, gradient and state that Hypothesis draws."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import optax_radam

# The same draws in every run; no example relies on the fixture of conftest.py.
_properties = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

STEPS = 8
FIRST_TRACTABLE = 5  # the index of step 6, at b2 = 0.999
ELEMENTS = 8
RATE = 1e-3
LARGEST_COUNT = 2**31 - 1
VARIANTS = {
    "momentum": {},
    "skip": {"fallback": "skip"},
    "shifted": {"fallback": "shifted"},
    "nesterov": {"nesterov": True},
    "amsgrad": {"amsgrad": True},
}

every_variant = pytest.mark.parametrize("variant", VARIANTS)
without_amsgrad = pytest.mark.parametrize(
    "variant", [variant for variant in VARIANTS if variant != "amsgrad"]
)


# Compiled once for each variant, not for each example.
@functools.partial(jax.jit, static_argnames=("variant", "b2", "weight_decay"))
def _train(gradients, variant, start=None, eps=1e-8, count=0, **settings):
    """Updates of every step, and the state after the last."""
    optimizer = optax_radam.radam(RATE, eps=eps, **VARIANTS[variant], **settings)
    if start is None:
        start = jax.tree.map(lambda g: jnp.zeros_like(g[0]), gradients)
    count = jnp.asarray(count, jnp.int32)
    state = optax.tree.set(
        optimizer.init(start), count=count, rectification_count=count
    )

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), updates

    (_, state), updates = jax.lax.scan(step, (start, state), gradients)
    return updates, state


def _as_leaves(elements):
    """Leaves of several shapes, all elements between them."""
    matrix, scalar, vector = np.split(elements, [4, 5], axis=-1)
    rest = elements.shape[:-1]
    return [matrix.reshape(*rest, 2, 2), scalar.reshape(rest), vector]


def _as_elements(leaves):
    return np.concatenate([leaf.reshape(STEPS, -1) for leaf in leaves], axis=1)


def _assert_close(actual, expected, rtol):
    """Compares relative to a step's largest: with mixed signs, sums cancel."""
    largest = np.abs(expected).max(axis=1, keepdims=True)
    assert np.all(np.abs(actual - expected) <= rtol * largest)


def _signed(low, high):
    """Zeros, and numbers of both signs from 10**low to 10**high."""
    signs, exponents = st.sampled_from([1.0, -1.0, 0.0]), st.floats(low, high)
    return st.builds(lambda sign, e: np.float32(sign * 10**e), signs, exponents)


def _gradients(elements):
    shape = (STEPS, ELEMENTS)
    return hnp.arrays(np.float32, shape, elements=elements, fill=st.nothing())


ordinary_gradients = _gradients(_signed(-1, 1))
extreme_gradients = _gradients(_signed(-30, 18))
# float32 has no squares of numbers above 1.8e19.
overflowing_gradients = _gradients(st.one_of(_signed(-1, 1), _signed(19.3, 38.3)))
every_eps = st.floats(-8, 0).map(lambda exponent: 10**exponent)
# From 0 to 0.999999, where the distance to 1 is what counts.
decay_rates = st.floats(0, 6).map(lambda exponent: 1 - 10**-exponent)


@settings(_properties, max_examples=60)
@given(b2=decay_rates, start=st.floats(0, 7).map(lambda e: int(10**e)))
@example(b2=0.6029160379367873, start=1000)  # where rounding would exceed 1
@pytest.mark.parametrize("make", [float, jnp.float32])
def test_r_rises_to_1_and_rho_to_its_limit(make, b2, start):
    b2 = make(b2)
    # Another form of rho takes over at step 1 / -log(b2).
    takeover = int(-1 / np.log(max(float(b2), 0.5)))
    starts = np.array([1, start, max(takeover - 500, 1)])
    steps = np.sort((starts[:, None] + np.arange(1000)).ravel()).astype(np.int32)
    r = np.asarray(optax_radam.rectification(steps, b2))
    assert np.all(r[1:] >= r[:-1] - 2 * np.spacing(r[:-1]))
    assert np.all((r >= 0) & (r <= 1))
    rho = optax_radam.sma_length(steps, b2)
    assert np.all(rho <= optax_radam.sma_length_limit(b2))


@every_variant
@_properties
@given(ordinary_gradients, st.permutations(range(ELEMENTS)))
def test_permuted_elements_get_permuted_updates(variant, gradients, order):
    """Elements move within and between leaves; leaves also reverse their order."""
    start = np.linspace(-1, 1, ELEMENTS, dtype=np.float32)

    def run(order, direction):
        tree = _as_leaves(gradients[:, order])[::direction]
        params = _as_leaves(start[order])[::direction]
        updates, _ = _train(tree, variant, params, weight_decay=0.1)
        return _as_elements(updates[::direction])

    expected = run(np.arange(ELEMENTS), 1)[:, order]
    _assert_close(run(order, -1), expected, rtol=1e-6)


@every_variant
@_properties
@given(ordinary_gradients)
def test_negated_gradients_and_parameters_negate_the_updates(variant, gradients):
    start = np.linspace(-1, 1, ELEMENTS, dtype=np.float32)
    negated, _ = _train(-gradients, variant, -start, weight_decay=0.1)
    updates, _ = _train(gradients, variant, start, weight_decay=0.1)
    np.testing.assert_array_equal(negated, -updates)


@pytest.mark.parametrize(
    ("exponents", "rtol"), [(st.integers(-49, 46), 0), (st.floats(-49.8, 46.5), 1e-6)]
)
@every_variant
@_properties
@given(_gradients(_signed(0, 1)), st.data())
def test_a_common_factor_scales_out(variant, exponents, rtol, gradients, data):
    """Factors from 1e-15 to 1e15; exact for powers of two; linear before tractable."""
    factor = np.float32(2.0 ** data.draw(exponents))
    gradients[:, 0] = 0  # an element whose moments stay 0
    expected, _ = _train(gradients, variant, eps=0.0)
    actual, _ = _train(factor * gradients, variant, eps=0.0)
    raw_steps = 0 if variant == "shifted" else FIRST_TRACTABLE
    early, late = np.split(actual, [raw_steps])
    _assert_close(np.concatenate([early / factor, late]), expected, rtol)


def _through_flax(state):
    serialization = pytest.importorskip("flax.serialization")
    new = jax.tree.map(jnp.zeros_like, state)
    return serialization.from_bytes(new, serialization.to_bytes(state))


def _assert_same_state(optimizer, actual, expected, gradient):
    """Checks that the states and their next updates are equal, bit for bit."""
    chex.assert_trees_all_equal(actual, expected, strict=True)
    after = [optimizer.update(gradient, state)[0] for state in (actual, expected)]
    chex.assert_trees_all_equal(*after)


@every_variant
@_properties
@given(extreme_gradients)
def test_state_survives_round_trips(variant, gradients):
    _, state = _train(gradients, variant)
    optimizer = optax_radam.radam(RATE, **VARIANTS[variant])
    leaves, structure = jax.tree.flatten(state)
    for restored in (
        structure.unflatten(leaves),
        pickle.loads(pickle.dumps(state)),
        _through_flax(state),
    ):
        _assert_same_state(optimizer, restored, state, gradients[0])


@without_amsgrad  # which Optax cannot continue
@_properties
@given(extreme_gradients)
def test_our_state_survives_a_visit_to_optax(variant, gradients):
    _, state = _train(gradients, variant)
    optimizer = optax_radam.radam(RATE, **VARIANTS[variant])
    visited = optax_radam.from_optax_state(optax_radam.to_optax_state(state))
    # Optax does not store the factor last applied, which no update reads.
    expected = optax.tree.set(state, rectification=jnp.zeros([]))
    _assert_same_state(optimizer, visited, expected, gradients[0])


@pytest.mark.parametrize("rate", [RATE, optax.constant_schedule(RATE)])
@_properties
@given(extreme_gradients)
def test_state_of_optax_survives_a_visit_here(rate, gradients):
    dtypes = jnp.float32, jnp.bfloat16, jnp.complex64
    gradient = [jnp.asarray(gradients[0], dtype) for dtype in dtypes]
    optimizer = optax.radam(rate)
    _, state = optimizer.update(gradient, optimizer.init(gradient))
    visited = optax_radam.to_optax_state(optax_radam.from_optax_state(state))
    _assert_same_state(optimizer, visited, state, gradient)


@every_variant
@_properties
@given(ordinary_gradients, st.integers(0, STEPS))
def test_counts_stay_at_the_largest_int32(variant, gradients, steps_before):
    """Updates are then those of any late step, without bias correction."""
    run = functools.partial(_train, gradients, variant, b2=0.9)
    updates, state = run(count=LARGEST_COUNT - steps_before)
    for name in ("count", "rectification_count"):
        assert optax.tree.get(state, name) == LARGEST_COUNT
    assert optax.tree.get(state, "rectification") > 1 - 1e-6
    np.testing.assert_allclose(updates, run(count=10**6)[0], rtol=1e-6)


@every_variant
@_properties
@given(extreme_gradients, every_eps)
@example(gradients=np.full((STEPS, ELEMENTS), 1e-30, np.float32), eps=1e-8)
@example(gradients=np.full((STEPS, ELEMENTS), 1e18, np.float32), eps=1e-8)
def test_extreme_gradients_leave_elements_that_move(variant, gradients, eps):
    ordinary = np.ones((2, ELEMENTS), np.float32)  # one alone could cancel the mean
    updates, state = _train(np.concatenate([gradients, ordinary]), variant, eps=eps)
    chex.assert_tree_all_finite((updates, state))
    assert np.all(np.any(updates[-2:] != 0, axis=0))


def _assert_forgotten(gradients, eps, variant):
    """Checks that a thousand ordinary steps later, updates have their usual size.

    The root of a second moment, 1.3e19 at most, falls below 1 within 840 steps at
    b2 = 0.9, and within 89,000 at 0.999.
    """
    ordinary = np.ones((1000, ELEMENTS), np.float32)
    gradients = np.concatenate([gradients, ordinary])
    updates, state = _train(gradients, variant, eps=eps, b2=0.9)
    chex.assert_tree_all_finite((updates, state))
    np.testing.assert_allclose(updates[-1], -RATE / (1 + eps), rtol=1e-5)


@without_amsgrad  # which never forgets
@_properties
@given(extreme_gradients, every_eps)
def test_extreme_gradients_are_forgotten(variant, gradients, eps):
    _assert_forgotten(gradients, eps, variant)


@without_amsgrad
@_properties
@given(overflowing_gradients, every_eps)
def test_gradients_whose_squares_overflow_are_forgotten(variant, gradients, eps):
    _assert_forgotten(gradients, eps, variant)


@_properties
@given(overflowing_gradients)
@example(gradients=np.full((STEPS, ELEMENTS), 1e38, np.float32))
def test_amsgrad_is_finite_where_squares_overflow(gradients):
    chex.assert_tree_all_finite(_train(gradients, "amsgrad"))
