import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import optax_radam


def _updates(transform, gradients):
    """Updates of every step, (steps, n)."""
    state = transform.init(jnp.zeros_like(gradients[0]))

    def step(state, gradient):
        updates, state = transform.update(gradient, state)
        return state, updates

    return jax.lax.scan(step, state, gradients)[1]


@pytest.mark.usefixtures("strict_promotion")
def test_momentum_first_then_adams_direction():
    gradients = jnp.asarray(problems.normal_gradients(10, 4), jnp.float32)
    b1, b2, eps, eps_root = 0.8, 0.99, 1e-3, 1e-2
    actual = _updates(optax_radam.scale_by_moments(b1, b2, eps, eps_root), gradients)
    m = v = np.zeros(4)
    for index, g in enumerate(np.asarray(gradients, np.float64)):
        t = index + 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        expected = m / (1 - b1**t)
        if t >= 6:  # rho_t passes 5 between steps 5 and 6
            expected = expected / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        np.testing.assert_allclose(actual[index], expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("b2", [0.0, 0.5, 0.9, 0.999])
def test_without_threshold_it_is_adam(b2):
    gradients = jnp.asarray(problems.normal_gradients(20, 4), jnp.float32)
    actual = _updates(optax_radam.scale_by_moments(b2=b2, threshold=None), gradients)
    expected = _updates(optax.scale_by_adam(b2=b2), gradients)
    # Optax's 1 - b2^t has cancellation at the first steps.
    np.testing.assert_allclose(actual, expected, rtol=3e-5)


@pytest.mark.parametrize("gradients", ["constant", "noise"])
@pytest.mark.parametrize("decay", [0.999, 0.9999, 0.99999])
def test_slow_averages_do_not_drift(decay, gradients):
    """Both moments over 1 / (1 - decay) steps, compared with sums in float64.

    float32(decay) + float32(1 - decay) misses 1 by up to 1.4e-3 of 1 - decay.
    """
    steps, elements = round(1 / (1 - decay)), 64  # elements round independently
    g = np.ones((steps, elements), np.float32)
    if gradients == "noise":
        g += np.random.default_rng(0).random(g.shape, np.float32)
    transform = optax_radam.scale_by_moments(decay, decay)

    @jax.jit
    def run(g):
        def step(state, gradient):
            return transform.update(gradient, state)[1], None

        return jax.lax.scan(step, transform.init(g[0]), g)[0]

    state = run(g)
    weights = (1 - decay) * decay ** np.arange(steps - 1, -1, -1.0)
    for moment, exact in ((state.mu, weights @ g), (state.nu, weights @ g**2.0)):
        assert abs(np.mean(moment / exact) - 1) < 5e-6


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("make", [float, jnp.float32], ids=["number", "array"])
def test_fast_averages_forget(make, decay):
    """A gradient of 1e12 has a rounding error of 65,536, which must not outlast it."""
    transform = optax_radam.scale_by_moments(make(decay), make(decay), threshold=None)
    state = transform.init(jnp.ones([]))
    for gradient in (1e12, 1.0, 1.0):
        _, state = transform.update(jnp.float32(gradient), state)
    exact = (1 - decay) * (decay**2 * 1e12 + decay + 1)
    np.testing.assert_allclose(state.mu, exact, rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-50])
def test_zero_gradients_without_eps_give_zeros(eps):
    updates = _updates(optax_radam.scale_by_moments(eps=eps), jnp.zeros((10, 3)))
    np.testing.assert_array_equal(updates, 0)


def test_nan_and_overflow_are_not_hidden_by_a_small_denominator():
    """NaN must come out, so that `optax.apply_if_finite` sees it."""
    transform = optax_radam.scale_by_moments(b2=0.9, threshold=None)
    state = transform.init(jnp.zeros(2))
    state = state._replace(nu=jnp.array([jnp.nan, 1.0]))
    updates, _ = transform.update(jnp.ones(2), state)
    np.testing.assert_array_equal(jnp.isnan(updates), [True, False])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("threshold", [5.0, None])
def test_gradients_that_are_not_finite_show_and_can_be_stopped(threshold, bad):
    transform = optax_radam.scale_by_moments(threshold=threshold)
    gradients = jnp.full(2, bad)
    updates, _ = transform.update(gradients, transform.init(gradients))
    assert not jnp.any(jnp.isfinite(updates))
    guarded = optax.apply_if_finite(transform, max_consecutive_errors=3)
    updates, state = guarded.update(gradients, guarded.init(gradients))
    chex.assert_tree_all_finite((updates, state.inner_state))


@pytest.mark.parametrize("magnitude", [1e-30, 1e-15, 1.0, 1e18])
def test_updates_are_finite_at_every_scale_of_gradients(magnitude):
    gradients = jnp.full((10, 2), magnitude, jnp.float32)
    assert jnp.all(jnp.isfinite(_updates(optax_radam.scale_by_moments(), gradients)))


def test_weakly_typed_parameters_are_traced_once():
    transform = optax_radam.scale_by_moments()
    update = jax.jit(chex.assert_max_traces(transform.update, n=1))
    gradient = jnp.asarray(2.0)
    assert gradient.weak_type
    state = transform.init(gradient)
    for _ in range(3):
        _, state = update(gradient, state)


def test_count_saturates():
    transform = optax_radam.scale_by_moments()
    state = transform.init(jnp.ones(2))
    largest = jnp.int32(jnp.iinfo(jnp.int32).max)
    updates, state = transform.update(jnp.ones(2), state._replace(count=largest))
    assert state.count == largest
    assert jnp.all(jnp.isfinite(updates))


def test_moments_in_the_dtypes_asked_for():
    params = {
        "half": jnp.ones(2, jnp.bfloat16),
        "single": jnp.ones(2),
        "complex": jnp.ones(2, jnp.complex64),
    }
    transform = optax_radam.scale_by_moments(
        mu_dtype=jnp.bfloat16, nu_dtype=jnp.float32, amsgrad=True
    )
    state = transform.init(params)
    _, after = transform.update(params, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert {k: v.dtype for k, v in state.mu.items()} == {
        "half": jnp.bfloat16,
        "single": jnp.bfloat16,
        "complex": jnp.complex64,
    }
    for moment in (state.nu, state.nu_max):
        assert {v.dtype for v in moment.values()} == {jnp.dtype("float32")}


@pytest.mark.usefixtures("x64")
def test_wide_moments_of_narrow_leaves():
    """16-bit gradients give the same results as when cast to float64."""
    gradients = jnp.asarray(problems.normal_gradients(30, 4), jnp.bfloat16)
    wide = optax_radam.scale_by_moments(mu_dtype=jnp.float64, nu_dtype=jnp.float64)
    actual = _updates(wide, gradients)
    exact = _updates(optax_radam.scale_by_moments(), gradients.astype(jnp.float64))
    np.testing.assert_allclose(actual, exact, rtol=1e-12)


def test_first_moment_of_16_bits_costs_no_more_than_its_rounding():
    gradients = jnp.asarray(problems.normal_gradients(200, 50), jnp.float32)
    narrow = _updates(optax_radam.scale_by_moments(mu_dtype=jnp.bfloat16), gradients)
    exact = _updates(optax_radam.scale_by_moments(), gradients)
    assert narrow.dtype == jnp.float32
    # mu is rounded to 2^-9 of itself each step, and remembers ten steps.
    assert np.abs(narrow - exact).max() < 10 * 2.0**-9


def test_amsgrad_is_turned_on_and_off_in_the_state():
    plain, amsgrad = (
        optax_radam.scale_by_moments(amsgrad=flag) for flag in (False, True)
    )
    gradient = jnp.ones(2)
    _, state = plain.update(gradient, plain.init(gradient))
    with pytest.raises(ValueError, match=r"`amsgrad` is True, .* copy of its `nu` to"):
        amsgrad.update(gradient, state)
    _, state = amsgrad.update(gradient, state._replace(nu_max=jnp.array(state.nu)))
    with pytest.raises(ValueError, match=r"`amsgrad` is False, .* None to turn it off"):
        plain.update(gradient, state)
    plain.update(gradient, state._replace(nu_max=None))


def test_different_trees_are_refused():
    transform = optax_radam.scale_by_moments()
    state = transform.init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"`updates` must have the structure.*'b'"):
        transform.update({"w": jnp.ones(2), "b": jnp.ones(1)}, state)
    with pytest.raises(ValueError, match=r"`updates` must have the shapes.*\(3,\)"):
        transform.update({"w": jnp.ones(3)}, state)
    with pytest.raises(TypeError, match=r"`updates` must be real .* complex64 stands"):
        transform.update({"w": jnp.ones(2, jnp.complex64)}, state)
    with pytest.raises(TypeError, match=r"`updates` must be real .* complex64 stands"):
        transform.update({"w": 1j}, transform.init({"w": jnp.ones([])}))
    state = transform.init({"w": None})
    with pytest.raises(ValueError, match=r"`updates` must have .* where it got None"):
        transform.update({"w": jnp.ones(2)}, state)


def test_states_of_other_kinds_are_refused():
    transform = optax_radam.scale_by_moments()
    for state in (transform.init(None)._asdict(), optax.scale_by_adam().init(None)):
        with pytest.raises(
            TypeError,
            match="`state` must be a ScaleByMomentsState, got one of type "
            f"`{type(state).__name__}`. Restore .* target, .*from_optax_state",
        ):
            transform.update(jnp.ones(2), state)


def test_abstract_states_pass():
    transform = optax_radam.scale_by_moments()
    state = jax.eval_shape(transform.init, jnp.ones(2))
    _, after = jax.eval_shape(transform.update, jnp.ones(2), state)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@pytest.mark.parametrize("flag", ["nesterov", "amsgrad"])
def test_traced_flags_are_refused(flag):
    def init(value):
        return optax_radam.scale_by_moments(**{flag: value}).init(jnp.ones(2))

    message = (
        rf"`{flag}` must be True or False, got .*Tracer.* a static argument.*"
        rf"`static_args=\('{flag}',\)`"
    )
    with pytest.raises(TypeError, match=message):
        jax.jit(init)(True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"b1": 1.0}, ValueError, r"`b1` must be a number in \[0, 1\), got 1.0"),
        ({"b1": None}, TypeError, r"`b1` must be a number in \[0, 1\), got None"),
        ({"b2": 1.5}, ValueError, r"`b2` must be a number in \[0, 1\), got 1.5"),
        (
            {"b2": 0.5},
            ValueError,
            r"`b2` must be in \(0.666666667, 1\) for threshold 5.0, got 0.5",
        ),
        (
            {"b2": 0.6, "threshold": 4.0},
            ValueError,
            r"`b2` must be in \(0.6, 1\) for threshold 4.0, got 0.6",
        ),
        ({"b2": 1.0, "threshold": None}, ValueError, r"`b2` must be a number in"),
        ({"eps": -1e-8}, ValueError, "`eps` must be a finite number >= 0, got -1e-08"),
        ({"eps": 10**400}, ValueError, "`eps` must be a finite number >= 0, got 1000"),
        ({"eps": np.array("x")}, TypeError, "`eps` must be a finite .*, got array"),
        ({"eps": np.inf}, ValueError, "`eps` must be a finite number >= 0, got inf"),
        ({"eps_root": "0"}, TypeError, "`eps_root` must be a finite .*, got '0'"),
        ({"nesterov": "yes"}, TypeError, "`nesterov` must be True or False, got 'yes'"),
        ({"amsgrad": 0}, TypeError, "`amsgrad` must be True or False, got 0"),
        ({"mu_dtype": "narrow"}, TypeError, "`mu_dtype` must be None or .* 'narrow'"),
        ({"mu_dtype": {"w": "f"}}, TypeError, "`mu_dtype` must be None or .* got {'w'"),
        ({"mu_dtype": 32}, TypeError, "`mu_dtype` must be None or .* got 32"),
        (
            {"mu_dtype": jnp.complex64},
            TypeError,
            "`mu_dtype` must be None or a real .* is complex64. Complex leaves get",
        ),
        ({"mu_dtype": jnp.int32}, TypeError, "`mu_dtype` must be .* which is int32"),
        ({"nu_dtype": jnp.zeros(2)}, TypeError, "`nu_dtype` must be .* got Array"),
        (
            {"nu_dtype": jnp.bfloat16},
            ValueError,
            "`nu_dtype` must be .* at least 32 bits, got bfloat16: .* stops moving",
        ),
        (
            {"nu_dtype": "float64"},
            ValueError,
            "`nu_dtype` is float64, which needs `jax_enable_x64`",
        ),
        ({"threshold": 3.9}, ValueError, "`threshold` must be a .* >= 4, got 3.9"),
        ({"threshold": 1j}, TypeError, r"`threshold` must be .* got 1j .* complex"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        optax_radam.scale_by_moments(**arguments)
