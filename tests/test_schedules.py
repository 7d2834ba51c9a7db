import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import optax_radam

pytestmark = pytest.mark.usefixtures("strict_promotion")

COUNTS = np.array([0, 1, 3, 4, 5, 9, 10, 99, 499, 500, 501, 4999, 5000, 10**7])


@pytest.mark.parametrize("b2", [0.9, 0.999, 0.99999])
@pytest.mark.parametrize("before", [0.0, 0.25])
def test_rectification_schedule(b2, before):
    factors = optax_radam.rectification_schedule(b2, before=before)(COUNTS)
    expected = [
        float(oracles.rectification(int(count) + 1, b2))
        if oracles.sma_length(int(count) + 1, b2) >= 5
        else before
        for count in COUNTS
    ]
    np.testing.assert_allclose(factors, expected, rtol=5e-7)


@pytest.mark.parametrize("b2", [0.0, 0.9, 0.999, 0.99999])
def test_untuned_linear_warmup_schedule(b2):
    factors = optax_radam.untuned_linear_warmup_schedule(b2)(COUNTS)
    expected = [min(1.0, (int(count) + 1) * (1 - b2) / 2) for count in COUNTS]
    np.testing.assert_allclose(factors, expected, rtol=3e-7)


@pytest.mark.parametrize("b2", [0.0, 0.9, 0.999, 0.99999])
def test_untuned_exponential_warmup_schedule(b2):
    factors = optax_radam.untuned_exponential_warmup_schedule(b2)(COUNTS)
    expected = [-math.expm1(-(1 - b2) * (int(count) + 1)) for count in COUNTS]
    np.testing.assert_allclose(factors, expected, rtol=3e-7)


def _first_tractable_step(b2, threshold):
    return next(t for t in itertools.count(1) if oracles.sma_length(t, b2) >= threshold)


@pytest.mark.parametrize(
    ("b2", "threshold"),
    [(0.999, 5.0), (0.999, 4.0), (0.7, 5.0), (0.9, 15.5), (0.99, 100), (0.99999, 7.5)],
)
def test_shifted_schedule_begins_at_the_first_tractable_step(b2, threshold):
    first = _first_tractable_step(b2, threshold)
    schedule = optax_radam.rectification_schedule(b2, threshold, shifted=True)
    expected = [float(oracles.rectification(int(c) + first, b2)) for c in COUNTS]
    np.testing.assert_allclose(schedule(COUNTS), expected, rtol=1e-6)


def test_shifted_schedule_of_traced_numbers():
    @jax.jit
    def factor(count, b2, threshold):
        schedule = optax_radam.rectification_schedule(b2, threshold, shifted=True)
        return schedule(count)

    for b2, threshold in [(0.9, 5.0), (0.99, 20.5)]:
        expected = oracles.rectification(_first_tractable_step(b2, threshold), b2)
        actual = factor(0, jnp.float32(b2), jnp.float32(threshold))
        np.testing.assert_allclose(actual, float(expected), rtol=1e-5)


@pytest.mark.parametrize("b2", [0.9, 0.999])
def test_effective_period_of_the_exponential_warmup(b2):
    schedule = optax_radam.untuned_exponential_warmup_schedule(b2)
    expected = 1 / math.expm1(1 - b2)
    actual = optax_radam.effective_warmup_period(schedule, 30_000)
    assert isinstance(actual, float)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("b2", [0.9, 0.99, 0.999])
def test_effective_period_of_the_linear_warmup(b2):
    schedule = optax_radam.untuned_linear_warmup_schedule(b2)
    steps = 2 / (1 - b2)  # of which the sum of 1 - t / steps is (steps - 1) / 2
    actual = optax_radam.effective_warmup_period(schedule, 10_000)
    np.testing.assert_allclose(actual, (steps - 1) / 2, rtol=1e-5)


def test_effective_period_of_rectification():
    schedule = optax_radam.rectification_schedule(0.999)
    expected = sum(
        1 - (oracles.rectification(t, 0.999) if t >= 6 else 0) for t in range(1, 40_001)
    )
    actual = optax_radam.effective_warmup_period(schedule, 40_000)
    np.testing.assert_allclose(actual, float(expected), rtol=1e-5)
    np.testing.assert_allclose(
        actual, 1033.3, atol=0.05
    )  # Ma and Yarats: about 1 / (1 - b2)


def test_effective_period_of_a_constant():
    assert optax_radam.effective_warmup_period(optax.constant_schedule(0.75), 8) == 2


def test_effective_period_of_more_steps_than_counts():
    """A warmup, and 0.5 at the last count, which occurs 1 + 1000 times."""

    def schedule(count):
        warmup = jnp.minimum((count + 1) / 1000, 1)
        return jnp.where(count < 2**31 - 1, warmup, 0.5)

    actual = optax_radam.effective_warmup_period(schedule, 2**31 + 1000)
    np.testing.assert_allclose(actual, 499.5 + 500.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: optax_radam.multiply_schedules(),
            TypeError,
            "`schedules` must be at least one schedule",
        ),
        (
            lambda: optax_radam.multiply_schedules(1.0, "x"),
            TypeError,
            r"`schedules\[1\]` must be .* got 'x'",
        ),
        (
            lambda: optax_radam.multiply_schedules(-1.0),
            ValueError,
            r"`schedules\[0\]` must be .* got -1.0",
        ),
        (
            lambda: optax_radam.effective_warmup_period(0.1, 10),
            TypeError,
            "`schedule` must be a function, got 0.1",
        ),
        (
            lambda: optax_radam.effective_warmup_period(abs, 10.0),
            TypeError,
            "`steps` must be an integer >= 1, got 10.0",
        ),
        (
            lambda: optax_radam.effective_warmup_period(abs, 0),
            ValueError,
            "`steps` must be a finite number >= 1, got 0",
        ),
        (
            lambda: optax_radam.rectification_schedule(0.9, shifted="yes"),
            TypeError,
            "`shifted` must be True or False, got 'yes'",
        ),
        (
            lambda: jax.jit(
                lambda flag: optax_radam.rectification_schedule(0.9, shifted=flag)(0)
            )(True),
            TypeError,
            r"`shifted` must be True or False, got .*Tracer.* a static argument.*"
            r"`static_args=\('shifted',\)`",
        ),
    ],
    ids=[
        "none",
        "string",
        "negative",
        "no_schedule",
        "float",
        "zero",
        "shifted",
        "traced",
    ],
)
def test_bad_arguments_of_combinations(call, error, message):
    with pytest.raises(error, match=message):
        call()


def _keras_radam_learning_rate(t, lr, total_steps, proportion, min_lr):
    """keras-rectified-adam's `lr_t`, from its description, in Python's float64."""
    warmup_steps = total_steps * proportion
    decay_steps = max(total_steps - warmup_steps, 1)
    if t <= warmup_steps:
        return lr * (t / warmup_steps)
    return lr + (min_lr - lr) / decay_steps * min(t - warmup_steps, decay_steps)


def test_product_of_schedules():
    warmup = optax_radam.untuned_linear_warmup_schedule(0.99)
    decay = optax_radam.warmup_linear_decay_schedule(1e-3, 1000, 0.0)
    schedule = optax_radam.multiply_schedules(warmup, decay, 2.0)
    for count in (0, 50, 199, 500, 2000):
        t = count + 1
        rate = _keras_radam_learning_rate(t, 1e-3, 1000, 0.0, 0.0)
        expected = min(1, t * 0.01 / 2) * rate * 2
        np.testing.assert_allclose(schedule(count), expected, rtol=1e-6, atol=1e-12)
    optimizer = optax_radam.radam(schedule)
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    state = optimizer.init(jnp.ones(2))
    for _ in range(3):
        _, state = update(jnp.ones(2), state)


@pytest.mark.parametrize("total_steps", [1000, 5000, 5003])
@pytest.mark.parametrize("proportion", [0.0, 0.1, 0.123, 0.9])
@pytest.mark.parametrize("end_value", [0.0, 1e-5])
def test_warmup_linear_decay_schedule(total_steps, proportion, end_value):
    schedule = optax_radam.warmup_linear_decay_schedule(
        1e-3, total_steps, proportion, end_value
    )
    expected = [
        _keras_radam_learning_rate(int(c) + 1, 1e-3, total_steps, proportion, end_value)
        for c in COUNTS
    ]
    np.testing.assert_allclose(schedule(COUNTS), expected, rtol=2e-6, atol=1e-10)
    assert schedule(total_steps - 1) == jnp.float32(end_value)
    assert schedule(10**8) == jnp.float32(end_value)


def test_warmup_of_a_proportion_that_float32_rounds_to_1():
    schedule = optax_radam.warmup_linear_decay_schedule(1e-3, 100, 0.99999999, 1e-5)
    expected = [0.99e-3, 1e-5, 1e-5]  # its end is that of the warmup too
    np.testing.assert_allclose(schedule(np.array([98, 99, 100])), expected, rtol=1e-6)


def test_warmup_linear_decay_defaults():
    schedule = optax_radam.warmup_linear_decay_schedule(2.0, 100)
    assert schedule(9) == 2.0
    assert schedule(99) == 0.0


SCHEDULES = {
    "rectification": optax_radam.rectification_schedule(0.999),
    "untuned_linear_warmup": optax_radam.untuned_linear_warmup_schedule(0.999),
    "warmup_linear_decay": optax_radam.warmup_linear_decay_schedule(1e-3, 100),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_trace_for_all_counts_and_the_largest_does_not_wrap(name):
    schedule = jax.jit(chex.assert_max_traces(SCHEDULES[name], n=1))
    values = [schedule(jnp.int32(count)) for count in (0, 5, 1000, 2**31 - 1)]
    assert all(value.shape == () and value.dtype == jnp.float32 for value in values)
    expected = {"warmup_linear_decay": 0.0}.get(name, 1.0)
    np.testing.assert_allclose(values[-1], expected, rtol=1e-6)


def test_arguments_may_be_traced():
    @jax.jit
    def value(peak, total, proportion, end):
        return optax_radam.warmup_linear_decay_schedule(peak, total, proportion, end)(9)

    actual = value(*map(jnp.float32, (1.0, 100.0, 0.2, 0.0)))
    np.testing.assert_allclose(actual, 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.nan, 10), ValueError, "`peak_value` must be a finite number, got nan"),
        ((1.0, 0), ValueError, "`total_steps` must be a finite number >= 1, got 0"),
        ((1.0, None), TypeError, "`total_steps` must be .* >= 1, got None"),
        ((1.0, 10, 1.0), ValueError, r"`warmup_proportion` must .* \[0, 1\), got 1.0"),
        ((1.0, 10, -0.1), ValueError, r"`warmup_proportion` must .*, got -0.1"),
        ((1.0, 10, 0.1, np.inf), ValueError, "`end_value` must be .*, got inf"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        optax_radam.warmup_linear_decay_schedule(*arguments)


@pytest.mark.parametrize("b2", [1.0, -0.1])
def test_untuned_warmup_refuses_b2(b2):
    with pytest.raises(ValueError, match=r"`b2` must be a number in \[0, 1\)"):
        optax_radam.untuned_linear_warmup_schedule(b2)
