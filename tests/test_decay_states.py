"""States where decay rates may change: histories, conversions and refusals."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from decay_runs import CYCLE, RATES, schedule_of, updates_of

import optax_radam

LAST = {"b1": 0.9, "b2": 0.999}


def _optimizers(b1, b2, **settings):
    """The optimizer under test, and Optax's at the defaults."""
    return optax_radam.radam(0.02, b1, b2, **settings), optax.radam(0.02)


def test_a_run_of_optax_goes_on_under_a_schedule():
    gradients = problems.normal_gradients(60, 3)
    # Optax's rates in its ten steps; others later.
    b1 = optax.piecewise_constant_schedule(0.9, {10: 0.9})
    b2 = optax.piecewise_constant_schedule(0.999, {10: 0.99})
    ours, theirs = _optimizers(b1, b2)
    expected, _ = updates_of(ours, gradients)
    _, state = updates_of(theirs, gradients[:10])
    state = optax_radam.from_optax_state(state, b1=b1, b2=b2)
    actual, state = updates_of(ours, gradients[10:], state)
    np.testing.assert_allclose(actual, expected[10:], atol=2e-5)
    with pytest.raises(ValueError, match="made for a schedule or an array"):
        optax_radam.radam(0.02).update(gradients[0], state)
    theirs.update(jnp.ones(3), optax_radam.to_optax_state(state))


@pytest.mark.parametrize("threshold", [5.0, 8.5])
def test_a_run_with_numbers_goes_on_with_others(threshold):
    """Converted both ways, states equal those that each optimizer would have made."""
    gradients = problems.normal_gradients(7, 3)
    numbers = optax_radam.radam(0.02, threshold=threshold)
    schedules = optax_radam.radam(
        0.02, *map(optax.constant_schedule, (0.9, 0.999)), threshold=threshold
    )
    (_, closed), (_, followed) = (
        updates_of(o, gradients) for o in (numbers, schedules)
    )
    convert = functools.partial(
        optax_radam.from_optax_state,
        b1=optax.constant_schedule(0.9),
        b2=optax.constant_schedule(0.999),
        threshold=threshold,
    )
    for converted in (convert(closed), convert(followed), jax.jit(convert)(closed)):
        chex.assert_trees_all_close(converted, followed, rtol=1e-6)
    back = optax_radam.from_optax_state(followed)
    chex.assert_trees_all_close(back, closed, rtol=1e-6)
    jax.jit(schedules.update, donate_argnums=1)(jnp.ones(3), convert(closed))


def test_a_rectification_alone_goes_on_under_a_schedule():
    b2, _ = schedule_of(RATES["grows"])
    number, scheduled = (
        optax_radam.rectify(optax.scale_by_rss(), rate) for rate in (0.99, b2)
    )
    _, state = updates_of(number, np.ones((20, 3)))
    _, expected = updates_of(scheduled, np.ones((20, 3)))
    converted = optax_radam.from_optax_state(state, b2=b2)
    actual, expected = (state[1].length_history for state in (converted, expected))
    assert actual.rectified == expected.rectified
    for ours, theirs in zip(actual[:3], expected[:3], strict=True):  # both halves
        np.testing.assert_allclose(*(sum(map(float, x)) for x in (ours, theirs)), 1e-6)


def _histories(state):
    moments, rectification, *_ = state
    return moments.decay_history, rectification.length_history


def test_batched_states_are_replayed_each_to_its_count():
    b1, b2 = (schedule_of(rates)[0] for rates in (CYCLE, RATES["grows"]))
    counts = jnp.array([0, 3, 50])
    many = jax.vmap(lambda _: optax.radam(0.1).init(jnp.ones(2)))(counts)
    batched = optax_radam.from_optax_state(
        optax.tree.set(many, count=counts), b1=b1, b2=b2
    )
    optimizer = optax_radam.radam(0.1, b1, b2)
    state = optimizer.init(jnp.ones(2))
    for step in range(51):
        for index in np.flatnonzero(counts == step):
            chex.assert_trees_all_close(
                jax.tree.map(lambda x, i=index: x[i], _histories(batched)),
                _histories(state),
                rtol=1e-6,
                atol=1e-7,
            )
        _, state = optimizer.update(jnp.ones(2), state)


@pytest.mark.parametrize(
    ("b1", "b2"),
    [(0.9, 0.999), (jnp.float32(0.9), 0.999), (0.9, jnp.float32(0.999))],
    ids=["numbers", "b1", "b2"],
)
def test_histories_are_kept_of_what_may_change(b1, b2):
    moments, rectification, *_ = optax_radam.radam(0.1, b1, b2).init(jnp.ones(2))
    changes = [not isinstance(rate, float) for rate in (b1, b2)]
    history = moments.decay_history
    assert (history is not None) == any(changes)
    if history is not None:
        assert [part is not None for part in history] == changes
    assert (rectification.length_history is not None) == changes[1]
    assert len(jax.tree.leaves(history)) == (2 * changes[0] + 7 * changes[1])


@pytest.mark.parametrize(
    ("built", "made"),
    [
        ({"b1": jnp.float32(0.9)}, {}),
        ({"b2": jnp.float32(0.999)}, {}),
        ({}, {"b1": jnp.float32(0.9)}),
        ({}, {"b2": jnp.float32(0.999)}),
        ({"b1": jnp.float32(0.9)}, {"b2": jnp.float32(0.999)}),
    ],
    ids=str,
)
def test_states_for_rates_of_another_kind_are_refused(built, made):
    state = optax_radam.radam(0.1, **made).init(jnp.ones(2))
    optimizer = optax_radam.radam(0.1, **built)
    (name, *_), kind = built or made, "a schedule or an array" if built else "a number"
    with pytest.raises(
        ValueError, match=f"`{name}` is {kind}, but the state was .*from_optax_state"
    ):
        optimizer.update(jnp.ones(2), state)
    optimizer.update(jnp.ones(2), optax_radam.from_optax_state(state, **(LAST | built)))


def test_a_rectification_refuses_states_for_rates_of_another_kind():
    number, array = map(optax_radam.scale_by_rectification, (0.999, jnp.float32(0.999)))
    for one, other in ((number, array), (array, number)):
        with pytest.raises(ValueError, match=r"`b2` is .*but the state was made for"):
            one.update(jnp.ones(2), other.init(jnp.ones(2)))


def test_shifted_takes_an_array_for_a_constant():
    gradients = problems.normal_gradients(20, 3)
    number, array = (
        optax_radam.radam(0.02, b2=b2, fallback="shifted")
        for b2 in (0.99, jnp.float32(0.99))
    )
    expected, state = updates_of(number, gradients)
    actual, _ = updates_of(array, gradients)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    state = optax_radam.from_optax_state(state, b2=jnp.float32(0.99))
    array.update(jnp.ones(3), state)


@pytest.mark.parametrize(
    "make",
    [
        lambda b2: optax_radam.radam(0.1, b2=b2, fallback="shifted"),
        lambda b2: optax_radam.rectify(optax.scale_by_adam(), b2, shifted=True),
    ],
    ids=["radam", "rectify"],
)
def test_shifted_refuses_schedules(make):
    with pytest.raises(
        TypeError, match=r"`b2` must be a number with `shifted=True` \(`fallback=\"sh"
    ):
        make(optax.constant_schedule(0.999))


@pytest.mark.parametrize(
    "function",
    [
        optax_radam.sma_length_limit,
        functools.partial(optax_radam.sma_length, 5),
        functools.partial(optax_radam.rectification, 5),
        functools.partial(optax_radam.describe, 5),
        optax_radam.rectification_schedule,
        optax_radam.untuned_linear_warmup_schedule,
        lambda b2: optax_radam.schedule_free_radam(b2=b2),
    ],
    ids=["limit", "length", "r", "describe", "schedule", "warmup", "schedule_free"],
)
def test_functions_of_the_count_refuse_schedules(function):
    with pytest.raises(TypeError, match=r"`b2` must be a number.*scale_by_rectificat"):
        function(optax.constant_schedule(0.999))


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("b2", [jnp.float32(0), lambda count: count / (count + 1.0)])
def test_b2_may_be_0(b2, jit):
    optimizer = optax_radam.radam(0.1, b2=b2)
    state = optimizer.init(jnp.ones(2))
    update = jax.jit(optimizer.update) if jit else optimizer.update
    for _ in range(3):
        updates, state = update(jnp.ones(2), state)
    chex.assert_tree_all_finite((updates, state))


@pytest.mark.parametrize("name", ["b1", "b2"])
@pytest.mark.parametrize(
    ("rate", "error", "got"),
    [
        (jnp.float32(1.0), ValueError, r"got Array\(1"),
        (jnp.float32(-0.1), ValueError, r"got Array\(-0.1"),
        (lambda count: 1.0, ValueError, "got 1.0"),
        (lambda count: 1 - jnp.float32(count) ** -0.8, ValueError, r"got Array\(-inf"),
        (lambda count: jnp.zeros(2), TypeError, r"of shape \(2,\)"),
        (float, TypeError, "got <class 'float'>"),
    ],
    ids=["one", "negative", "schedule", "count_0", "shape", "class"],
)
def test_rates_outside_the_range(name, rate, error, got):
    def update():
        optimizer = optax_radam.radam(0.1, **{name: rate})
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))

    where = r"\(count\)" if callable(rate) and rate is not float else ""
    with pytest.raises(error, match=rf"`{name}{where}` must be a number in .*{got}"):
        update()
