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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import optax_radam
from optax_radam import _history

STEPS = 2000
FALLBACKS = ["momentum", "skip"]
_COUNTS = np.arange(STEPS + 1)
# b2 in each step.
RATES = {
    "grows": 1 - (_COUNTS + 1.0) ** -0.8,  # of T5, PaLM and Adafactor
    "ramp": np.interp(_COUNTS, [0, 1000], [0.9, 0.999]),
    "rises": np.where(_COUNTS < 1000, 0.9, 0.999),
    "falls": np.interp(_COUNTS, [100, 1100], [0.999, 0.9]),
    "drops": np.where(_COUNTS < 100, 0.999, 0.9),
    "batch": np.where(_COUNTS < 500, 0.999, 0.999**4),  # four times as large
}
CYCLE = 0.9 + 0.05 * np.cos(_COUNTS / 10)  # of b1
LAST = {"b1": 0.9, "b2": 0.999}

every_schedule = pytest.mark.parametrize("name", RATES)


def _schedule(rates):
    """A schedule of these rates, and the rates rounded to float32, in float64."""
    table = jnp.asarray(rates, jnp.float32)
    return lambda count: table[count], np.asarray(table, np.float64)


def _updates(optimizer, gradients, state=None):
    """Updates of each step, and the state after the last."""
    gradients = jnp.asarray(gradients, jnp.float32)

    @jax.jit
    def run(state):
        def step(state, gradient):
            return optimizer.update(gradient, state, gradient)[::-1]

        return jax.lax.scan(step, state, gradients)

    state, updates = run(optimizer.init(gradients[0]) if state is None else state)
    return np.asarray(updates), state


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
    (b1, exact_b1), (b2, exact_b2) = _schedule(CYCLE), _schedule(RATES[name])
    actual, _ = _updates(optax_radam.radam(1.0, b1, b2, **variant), gradients)
    expected = decay_oracles.radam_updates(
        gradients.astype(float), exact_b1, exact_b2[:STEPS], **variant
    )
    # Updates are of order one; rounding of the moments is most of the difference.
    np.testing.assert_allclose(actual, expected, atol=3e-4)


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_no_momentum_in_mid_run(fallback):
    """After b2 drops, too few gradients have most of the weight."""
    b2, exact = _schedule(RATES["drops"])
    optimizer = optax_radam.radam(1.0, b2=b2, fallback=fallback)
    updates, _ = _updates(optimizer, np.ones((110, 2)))
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
    actual, _ = _updates(optax_radam.radam(1.0, *schedules, **variant), gradients)
    expected, _ = _updates(optax_radam.radam(1.0, b2=b2, **variant), gradients)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_moments_divide_ever_after():
    b2, _ = _schedule(RATES["drops"])
    updates, _ = _updates(optax_radam.scale_by_moments(b2=b2), np.full((110, 2), 1e3))
    np.testing.assert_allclose(updates[:5], 1e3, rtol=1e-6)
    np.testing.assert_allclose(updates[5:], 1, rtol=1e-6)


def test_infinite_updates_are_silenced_in_mid_run():
    b2, _ = _schedule(RATES["drops"])
    transform = optax_radam.scale_by_rectification(b2, before=1.0)
    _, state = _updates(transform, np.ones((100, 2)))
    updates, _ = transform.update(jnp.full(2, jnp.inf), state)
    np.testing.assert_array_equal(updates, 0)


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_a_b2_that_stays_low_stops_training(fallback):
    """First only the limit N is too low; later n is too."""
    b2, exact = _schedule(np.where(_COUNTS < 1500, 0.999, 0.66))
    assert decay_oracles.length(decay_oracles.weights(exact[:1501])) > 5
    optimizer = optax_radam.radam(1.0, b2=b2, fallback=fallback)
    updates, _ = _updates(optimizer, np.ones((STEPS, 2)))
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
    b2, exact = _schedule(RATES[name])
    transform = optax_radam.scale_by_rectification(b2)
    factors, _ = _updates(transform, np.ones(STEPS))
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
    expected, _ = _updates(optax_radam.radam(0.1, b1, b2, fallback=fallback), gradients)
    np.testing.assert_allclose(np.stack(actual), expected, rtol=1e-6, atol=1e-8)


def test_an_injected_b1_is_that_of_the_next_step_too():
    """Nesterov needs the next step's rate, which an injected array does not have."""
    gradients = problems.normal_gradients(30, 3).astype(np.float32)
    b1, exact = _schedule(np.linspace(0.5, 0.9, 31))
    make = optax.inject_hyperparams(
        optax_radam.scale_by_moments, static_args=("nesterov", "threshold")
    )
    optimizer = make(b1, b2=0.0, threshold=None, nesterov=True)
    actual, _ = _updates(optimizer, gradients)
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
    radam = optax_radam.radam(0.1, *(_schedule(r)[0] for r in (CYCLE, RATES["grows"])))
    steps = optax.MultiSteps(radam, 3)
    actual, _ = _updates(steps.gradient_transformation(), gradients)
    expected, _ = _updates(radam, gradients.reshape(20, 3, 3).mean(axis=1))
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


def _optimizers(b1, b2, **settings):
    """The optimizer under test, and Optax's at the defaults."""
    return optax_radam.radam(0.02, b1, b2, **settings), optax.radam(0.02)


def test_a_run_of_optax_goes_on_under_a_schedule():
    gradients = problems.normal_gradients(60, 3)
    # Optax's rates in its ten steps; others later.
    b1 = optax.piecewise_constant_schedule(0.9, {10: 0.9})
    b2 = optax.piecewise_constant_schedule(0.999, {10: 0.99})
    ours, theirs = _optimizers(b1, b2)
    expected, _ = _updates(ours, gradients)
    _, state = _updates(theirs, gradients[:10])
    state = optax_radam.from_optax_state(state, b1=b1, b2=b2)
    actual, state = _updates(ours, gradients[10:], state)
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
    (_, closed), (_, followed) = (_updates(o, gradients) for o in (numbers, schedules))
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
    b2, _ = _schedule(RATES["grows"])
    number, scheduled = (
        optax_radam.rectify(optax.scale_by_rss(), rate) for rate in (0.99, b2)
    )
    _, state = _updates(number, np.ones((20, 3)))
    _, expected = _updates(scheduled, np.ones((20, 3)))
    converted = optax_radam.from_optax_state(state, b2=b2)
    actual, expected = (state[1].length_history for state in (converted, expected))
    assert actual.rectified == expected.rectified
    for ours, theirs in zip(actual[:3], expected[:3], strict=True):  # both halves
        np.testing.assert_allclose(*(sum(map(float, x)) for x in (ours, theirs)), 1e-6)


def _histories(state):
    moments, rectification, *_ = state
    return moments.decay_history, rectification.length_history


def test_batched_states_are_replayed_each_to_its_count():
    b1, b2 = (_schedule(rates)[0] for rates in (CYCLE, RATES["grows"]))
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
    expected, state = _updates(number, gradients)
    actual, _ = _updates(array, gradients)
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
