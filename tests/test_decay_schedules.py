"""Decay rates that change: bias corrections and r_t under schedules and arrays."""

import functools

import chex
import decay_oracles
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import problems
import pytest
from decay_runs import COUNTS, CYCLE, RATES, STEPS, schedule_of, updates_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import optax_radam
from optax_radam import _history

FALLBACKS = ["momentum", "skip"]

every_schedule = pytest.mark.parametrize("name", RATES)


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"fallback": "skip", "threshold": 9.5},
        {"nesterov": True},
    ],
    ids=["momentum", "skip", "nesterov"],
)
@every_schedule
def test_follows_the_definitions(name, variant):
    gradients = problems.normal_gradients(STEPS, 4).astype(np.float32)
    (b1, exact_b1), (b2, exact_b2) = schedule_of(CYCLE), schedule_of(RATES[name])
    actual, _ = updates_of(optax_radam.radam(1.0, b1, b2, **variant), gradients)
    expected = decay_oracles.radam_updates(
        gradients.astype(float), exact_b1, exact_b2[:STEPS], **variant
    )
    # Updates are of order one; rounding of the moments is most of the difference.
    np.testing.assert_allclose(actual, expected, atol=3e-4)


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_no_momentum_in_mid_run(fallback):
    """After b2 drops, too few gradients have most of the weight."""
    b2, exact = schedule_of(RATES["drops"])
    optimizer = optax_radam.radam(1.0, b2=b2, fallback=fallback)
    updates, _ = updates_of(optimizer, np.ones((110, 2)))
    stands_still = ~updates.any(axis=1)
    assert np.all(stands_still[:5] == (fallback == "skip"))
    factors = [decay_oracles.rectification(exact[:step]) for step in range(6, 111)]
    np.testing.assert_array_equal(stands_still[5:], np.equal(factors, 0))
    np.testing.assert_array_equal(np.flatnonzero(stands_still[5:]) + 6, [101, 102, 103])


@pytest.mark.parametrize(
    "variant",
    [{}, {"fallback": "skip"}, {"nesterov": True}, {"amsgrad": True}],
    ids=str,
)
@pytest.mark.parametrize("b2", [0.999, 0.9999])
def test_a_constant_schedule_is_the_number(b2, variant):
    gradients = 1 + problems.normal_gradients(300, 4) ** 2
    schedules = map(optax.constant_schedule, (0.9, b2))
    actual, _ = updates_of(optax_radam.radam(1.0, *schedules, **variant), gradients)
    expected, _ = updates_of(optax_radam.radam(1.0, b2=b2, **variant), gradients)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_moments_divide_ever_after():
    b2, _ = schedule_of(RATES["drops"])
    updates, _ = updates_of(optax_radam.scale_by_moments(b2=b2), np.full((110, 2), 1e3))
    np.testing.assert_allclose(updates[:5], 1e3, rtol=1e-6)
    np.testing.assert_allclose(updates[5:], 1, rtol=1e-6)


def test_infinite_updates_are_silenced_in_mid_run():
    b2, _ = schedule_of(RATES["drops"])
    transform = optax_radam.scale_by_rectification(b2, before=1.0)
    _, state = updates_of(transform, np.ones((100, 2)))
    updates, _ = transform.update(jnp.full(2, jnp.inf), state)
    np.testing.assert_array_equal(updates, 0)


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_a_b2_that_stays_low_stops_training(fallback):
    """First only the limit N is too low; later n is too."""
    b2, exact = schedule_of(np.where(COUNTS < 1500, 0.999, 0.66))
    assert decay_oracles.length(decay_oracles.weights(exact[:1501])) > 5
    optimizer = optax_radam.radam(1.0, b2=b2, fallback=fallback)
    updates, _ = updates_of(optimizer, np.ones((STEPS, 2)))
    assert updates[1499].all()
    np.testing.assert_array_equal(updates[1500:], 0)


def _factors(rates):
    """r_t of each step in float32: one program, whose loop carries the sums."""
    table = jnp.asarray(rates, jnp.float32) if np.ndim(rates) else None

    @jax.jit
    def run():
        def step(history, count):
            b2 = rates if table is None else table[count]
            return _history.advance(history, b2, 5.0)

        steps = jnp.arange(10**6)
        return jax.lax.scan(step, _history.no_lengths(), steps)[1]

    return np.asarray(run())


@pytest.mark.parametrize("b2", [0.9, 0.999, 0.99999])
def test_a_million_steps_do_not_drift_from_60_digits(b2):
    factors = _factors(b2)
    for step in np.unique(np.geomspace(6, 10**6, 50).astype(int)):
        expected = oracles.rectification(int(step), b2)
        assert oracles.relative_error(factors[step - 1], expected) < 1.2e-7


@pytest.mark.parametrize("period", [None, 10**5], ids=["grows", "restarts"])
def test_a_million_steps_do_not_drift_from_the_definitions(period):
    rates = 1 - np.arange(1, 10**6 + 1) ** -0.8
    if period:  # by a b2 of 0, which forgets everything
        rates = np.resize(np.append(np.full(period - 1, 0.99999), 0), 10**6)
    factors = _factors(rates)
    for step in (7, 10, 100, 99_999, 100_000, 100_010, 654_321, 999_990):
        exact = np.asarray(rates[:step].astype(np.float32), float)
        expected = decay_oracles.rectification(exact)
        np.testing.assert_allclose(factors[step - 1], expected, rtol=2e-7)


@every_schedule
def test_exact_variance_of_the_rectified_rate(name):
    """The unit is the long-run variance of Adam's rate at the step's b2."""
    b2, exact = schedule_of(RATES[name])
    transform = optax_radam.scale_by_rectification(b2)
    factors, _ = updates_of(transform, np.ones(STEPS))
    steps = {6, 7, 8, 10, 20, 50, 100, 200, 400, 700, 1100, 1500, 2000}
    steps |= {101, 105, 110, 120, 501, 505, 520, 1001, 1005, 1010, 1020, 1050}
    tractable = [step for step in sorted(steps) if factors[step - 1] > 0]
    assert len(tractable) > 20
    for step in tractable:
        weights = decay_oracles.weights(exact[:step])
        variance = oracles.variance_of_rate(weights / weights.sum())
        variance *= factors[step - 1] ** 2 / oracles.variance_limit(exact[step - 1])
        assert 0.4 < variance < 1.25, step


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("kind", ["array", "schedule"])
def test_gradients_to_the_rates_match_finite_differences(kind, nesterov):
    gradients = jnp.asarray(problems.normal_gradients(30, 3))

    @jax.jit
    def loss(rates):
        b1, b2 = rates
        if kind == "schedule":
            b1 = functools.partial(lambda b, count: b - 0.1 / (count + 1), b1)
            b2 = functools.partial(lambda b, count: b * (1 - (count + 1.0) ** -2), b2)
        optimizer = optax_radam.radam(0.1, b1, b2, nesterov=nesterov)
        return jnp.sum(problems.trajectory(optimizer, gradients)[-1] ** 2)

    rates = jnp.array([0.8, 0.97])
    step = 1e-6 * np.eye(2)
    differences = [(loss(rates + h) - loss(rates - h)) / 2e-6 for h in step]
    np.testing.assert_allclose(jax.grad(loss)(rates), differences, rtol=1e-6)


def test_gradients_are_finite_where_nothing_is_tractable():
    rates = jnp.float32([0.0, 0.6, 0.9, 2 / 3, *[0.99] * 8, 0.5, 0.6, 0.0, 0.99])

    def last_factor(rates):
        transform = optax_radam.scale_by_rectification(lambda count: rates[count])
        state = transform.init(jnp.ones(2))
        for _ in rates:
            _, state = transform.update(jnp.ones(2), state)
        return state.rectification + state.length_history.age.high

    chex.assert_tree_all_finite(jax.grad(last_factor)(rates))


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_injected_rates_are_replaced_in_mid_run(fallback):
    gradients = jnp.asarray(problems.normal_gradients(40, 3), jnp.float32)
    make = optax.inject_hyperparams(optax_radam.radam, static_args=("fallback",))
    optimizer = make(0.1, b1=0.9, b2=0.99, fallback=fallback)
    state = optimizer.init(gradients[0])
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    actual = []
    for count, gradient in enumerate(gradients):
        if count == 20:
            state.hyperparams.update(b1=jnp.float32(0.8), b2=jnp.float32(0.9))
        updates, state = update(gradient, state, gradient)
        actual.append(updates)

    def switched(before, after):
        rates = jnp.float32([before, after])
        return lambda count: rates[jnp.where(count < 20, 0, 1)]

    b1, b2 = switched(0.9, 0.8), switched(0.99, 0.9)
    expected, _ = updates_of(
        optax_radam.radam(0.1, b1, b2, fallback=fallback), gradients
    )
    np.testing.assert_allclose(np.stack(actual), expected, rtol=1e-6, atol=1e-8)


def test_an_injected_b1_is_that_of_the_next_step_too():
    """Nesterov needs the next step's rate, which an injected array does not have."""
    gradients = problems.normal_gradients(30, 3).astype(np.float32)
    b1, exact = schedule_of(np.linspace(0.5, 0.9, 31))
    make = optax.inject_hyperparams(
        optax_radam.scale_by_moments, static_args=("nesterov", "threshold")
    )
    optimizer = make(b1, b2=0.0, threshold=None, nesterov=True)
    actual, _ = updates_of(optimizer, gradients)
    for count, update in enumerate(actual):
        # b2 = 0: the denominator is the gradient's magnitude.
        of_mu, past = decay_oracles.weights(exact[: count + 1]), gradients[: count + 1]
        now = exact[count]
        total = of_mu.sum()
        momentum = now * of_mu @ past / (now * total + 1 - now)
        momentum += (1 - now) * past[-1] / total
        np.testing.assert_allclose(update, momentum / np.abs(past[-1]), rtol=1e-4)


def test_vmap_over_arrays():
    gradients = jnp.asarray(problems.normal_gradients(30, 3), jnp.float32)

    @jax.jit
    def run(b2):
        return problems.trajectory(optax_radam.radam(0.1, b2=b2), gradients)

    rates = jnp.array([0.0, 0.9, 0.99])
    expected = jnp.stack([run(b2) for b2 in rates])
    chex.assert_trees_all_close(jax.vmap(run)(rates), expected, rtol=1e-6)


def test_accumulated_gradients_count_once():
    gradients = problems.normal_gradients(60, 3).astype(np.float32)
    radam = optax_radam.radam(
        0.1, *(schedule_of(r)[0] for r in (CYCLE, RATES["grows"]))
    )
    steps = optax.MultiSteps(radam, 3)
    actual, _ = updates_of(steps.gradient_transformation(), gradients)
    expected, _ = updates_of(radam, gradients.reshape(20, 3, 3).mean(axis=1))
    np.testing.assert_allclose(actual[2::3], expected, atol=1e-6)


# Down to 0, and up to the largest float32 below 1.
decay_rates = st.one_of(
    st.floats(0, 7.2).map(lambda exponent: 1 - 10**-exponent),
    st.sampled_from([0.0, 0.5, 2 / 3, 1 - 2.0**-24]),
)


@functools.partial(jax.jit, static_argnames="fallback")
def _train(gradients, b1, b2, fallback):
    optimizer = optax_radam.radam(
        1.0, lambda count: b1[count], lambda count: b2[count], fallback=fallback
    )

    def step(state, gradient):
        updates, state = optimizer.update(gradient, state)
        return state, (updates, optax.tree.get(state, "rectification"))

    return jax.lax.scan(step, optimizer.init(gradients[0]), gradients)


@pytest.mark.parametrize("fallback", FALLBACKS)
@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(b1=st.lists(decay_rates, min_size=24, max_size=24), b2=st.data())
def test_any_rates_are_finite(fallback, b1, b2):
    length = st.integers(1, 24)
    rates = b2.draw(st.lists(decay_rates, min_size=24, max_size=24))
    rates = np.repeat(rates, b2.draw(length))[:24]  # runs of the same rate
    b1, b2 = np.float32(b1), np.float32(rates)
    gradients = np.cos(np.arange(48, dtype=np.float32)).reshape(24, 2)
    state, (updates, factors) = _train(gradients, b1, b2, fallback)
    chex.assert_tree_all_finite((state, updates))
    assert np.all((factors >= 0) & (factors <= 1))
