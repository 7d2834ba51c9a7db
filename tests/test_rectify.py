import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import problems
import pytest

import optax_radam

B2 = 0.99


@pytest.mark.parametrize("before", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("threshold", [4.0, 5.0, 7.5])
def test_factor_of_each_step(before, threshold):
    transform = optax_radam.scale_by_rectification(B2, threshold, before=before)
    state = transform.init(jnp.zeros(2))
    for t in range(1, 40):
        updates, state = transform.update(jnp.array([1.0, -2.0]), state)
        tractable = oracles.sma_length(t, B2) >= threshold
        factor = float(oracles.rectification(t, B2)) if tractable else before
        np.testing.assert_allclose(updates, [factor, -2 * factor], rtol=5e-7)
        found = optax.tree.get(state, "rectification")
        np.testing.assert_allclose(found, factor, rtol=5e-7)


def test_shifted_factor_of_each_step():
    inner = optax.scale(3.0)
    transform = optax_radam.rectify(inner, B2, shifted=True)
    state = transform.init(jnp.zeros(2))
    for t in range(1, 10):
        updates, state = transform.update(jnp.array([1.0, -2.0]), state)
        factor = float(oracles.rectification(t + 5, B2))  # tractable from step 6 on
        np.testing.assert_allclose(updates, [3 * factor, -6 * factor], rtol=5e-7)


@pytest.mark.parametrize(
    ("inner", "bounded"),
    [
        (optax.scale_by_adam(b2=B2), True),
        (optax.scale_by_belief(b2=B2), True),
        (optax.scale_by_rms(B2, bias_correction=True), True),
        (optax.scale_by_adan(b3=B2), True),
        (optax.scale_by_stddev(B2, bias_correction=True), False),
        (optax.contrib.scale_by_acprop(b2=B2), False),
    ],
    ids=["adam", "belief", "rms", "adan", "stddev", "acprop"],
)
def test_first_steps_that_shifted_takes(inner, bounded):
    transform = optax_radam.rectify(inner, B2, shifted=True)
    gradients = jnp.asarray(problems.normal_gradients(5, 1000), jnp.float32)
    state = transform.init(gradients[0])
    _, updates = jax.lax.scan(
        lambda s, g: transform.update(g, s)[::-1], state, gradients
    )
    assert bool((abs(updates) <= 0.5).all()) == bounded


@pytest.mark.parametrize("before", [0.0, -0.0, 1e-50, jnp.float32(0)])
@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
def test_silence_is_zero_even_of_infinite_updates(bad, before):
    transform = optax_radam.scale_by_rectification(B2, before=before)
    updates, _ = transform.update(jnp.full(2, bad), transform.init(jnp.zeros(2)))
    np.testing.assert_array_equal(updates, 0)


def test_infinite_updates_where_float32_rounds_rho_to_4():
    # The limit of rho_t is 4 + 1.2e-8 there.
    b2 = 0.6 + 1e-9
    threshold = 4 + 1e-9
    transform = optax_radam.scale_by_rectification(b2, threshold, before=1.0)
    state = transform.init(jnp.zeros(1))._replace(rectification_count=jnp.int32(10_000))
    updates, state = transform.update(jnp.array([jnp.inf]), state)
    assert state.rectification == 0
    np.testing.assert_array_equal(updates, 0)


@pytest.mark.parametrize("before", [0.0, 0.5])
def test_gradient_to_the_factor_before(before):
    def update(before):
        transform = optax_radam.scale_by_rectification(B2, before=before)
        return transform.update(jnp.float32(2.0), transform.init(jnp.zeros([])))[0]

    assert jax.grad(update)(before) == 2.0


@pytest.mark.parametrize("before", [0.0, 0.5])
@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
def test_gradient_to_the_factor_before_leaves_out_what_is_not_finite(bad, before):
    def update(before):
        transform = optax_radam.scale_by_rectification(B2, before=before)
        return transform.update(jnp.array([2.0, bad]), transform.init(jnp.zeros(2)))[0]

    np.testing.assert_array_equal(jax.jacobian(update)(before), [2.0, 0.0])


def test_16_bit_updates_are_multiplied_in_float32():
    transform = optax_radam.scale_by_rectification(B2)
    state = transform.init(None)._replace(rectification_count=jnp.int32(99))
    values = np.linspace(0.1, 3, 64)
    updates, _ = transform.update(jnp.asarray(values, jnp.bfloat16), state)
    exact = np.asarray(jnp.asarray(values, jnp.bfloat16), np.float64)
    exact = exact * float(oracles.rectification(100, B2))
    # One rounding, of half a unit in the last place; rounding r_t too gives more.
    error = np.abs(np.asarray(updates, np.float64) / exact - 1)
    assert error.max() <= 2.0**-8


@pytest.mark.usefixtures("x64")
def test_state_made_without_64_bits_keeps_its_dtypes():
    transform = optax_radam.scale_by_rectification(B2)
    state = transform.init(jnp.zeros(2))
    state = state._replace(rectification=jnp.zeros([], jnp.float32))
    gradients = jnp.ones((10, 2), jnp.float32)
    after, _ = jax.lax.scan(lambda s, g: transform.update(g, s)[::-1], state, gradients)
    assert after.rectification.dtype == jnp.float32
    expected = float(oracles.rectification(10, B2))
    np.testing.assert_allclose(after.rectification, expected, rtol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"b2": 0.5}, ValueError, r"`b2` must be in \(0.666666667, 1\).*got 0.5"),
        ({"b2": 1.0}, ValueError, r"`b2` must be a number in \[0, 1\), got 1.0"),
        ({"b2": 0.9, "threshold": 3}, ValueError, "`threshold` must be .*got 3"),
        ({"b2": 0.9, "before": np.nan}, ValueError, "`before` must be .* got nan"),
        ({"b2": 0.9, "before": "1"}, TypeError, "`before` must be .* got '1'"),
    ],
)
@pytest.mark.parametrize("name", ["scale_by_rectification", "rectification_schedule"])
def test_bad_arguments(name, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(optax_radam, name)(**arguments)


def test_rectify_refuses_what_is_no_transformation():
    with pytest.raises(TypeError, match=r"`inner` must be an optax.GradientTransform"):
        optax_radam.rectify(optax.scale_by_adam, 0.999)


def test_states_of_other_kinds_are_refused():
    transform = optax_radam.scale_by_rectification(B2)
    for state in (transform.init(None)._asdict(), optax.scale_by_adam().init(None)):
        with pytest.raises(
            TypeError,
            match="`state` must be a ScaleByRectificationState, got one of type "
            f"`{type(state).__name__}`. Restore .* target, .*from_optax_state",
        ):
            transform.update(jnp.ones(2), state)
