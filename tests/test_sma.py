import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import optax_radam
from optax_radam import _sma

pytestmark = pytest.mark.usefixtures("strict_promotion")

# Every small step, where rho passes 4 and 5, then some steps up to ten million.
STEPS = np.unique(np.r_[1:60, np.geomspace(60, 1e7, 60)].astype(np.int32))
_random = np.random.default_rng(0)
LARGE_B2 = [0.9, 0.95, 0.99, 0.999, 0.9995, 0.9999, 0.99999, 0.999999]
LARGE_B2 += list(1 - 10 ** _random.uniform(-6, -1, 12))
SMALL_B2 = [0.7, 0.75, 0.8, 0.85, 0.8854309106135735]
SMALL_B2 += list(_random.uniform(0.7, 0.9, 12))


def _worst_errors(b2, exact_b2, smallest_rho=0):
    """Largest relative errors of rho_t, and of r_t where rho_t >= smallest_rho."""
    functions = jax.jit(
        lambda step, b2: (
            optax_radam.sma_length(step, b2),
            optax_radam.rectification(step, b2),
        ),
        static_argnums=() if isinstance(b2, jax.Array) else 1,
    )
    rho_errors, r_errors = [], []
    found = jax.device_get(functions(STEPS, b2))
    for step, rho, r in zip(STEPS, *found, strict=True):
        expected_rho = oracles.sma_length(int(step), exact_b2)
        expected_r = oracles.rectification(int(step), exact_b2)
        rho_errors.append(oracles.relative_error(rho, expected_rho))
        if expected_r == 0:
            assert r == 0
        elif expected_rho >= smallest_rho:
            r_errors.append(oracles.relative_error(r, expected_r))
    return max(rho_errors), max(r_errors)


@pytest.mark.parametrize("b2", LARGE_B2)
def test_large_b2_matches_60_digits_in_float32(b2):
    rho_error, r_error = _worst_errors(b2, b2)
    assert rho_error < 5e-7
    assert r_error < 5e-7


@pytest.mark.parametrize("b2", SMALL_B2)
def test_small_b2_matches_60_digits_in_float32(b2):
    rho_error, r_error = _worst_errors(b2, b2, smallest_rho=5)
    assert rho_error < 5e-7
    assert r_error < 1e-6


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("b2", LARGE_B2 + SMALL_B2)
def test_every_b2_matches_60_digits_in_float64(b2):
    rho_error, r_error = _worst_errors(b2, b2)
    assert rho_error < 1e-12
    assert r_error < 1e-12


@pytest.mark.parametrize("b2", LARGE_B2 + SMALL_B2)
def test_traced_b2_matches_60_digits_at_its_float32_value(b2):
    b2 = jnp.float32(b2)
    rho_error, r_error = _worst_errors(b2, float(b2), smallest_rho=5)
    assert rho_error < 5e-7
    assert r_error < 1e-6


@pytest.mark.parametrize("b2", [0.0, 1e-30, 0.3, 0.5, 0.59])
@pytest.mark.parametrize("make", [float, jnp.float32])
def test_b2_too_small_to_rectify_is_exact_and_never_nan(b2, make):
    rho = np.asarray(optax_radam.sma_length(STEPS, make(b2)))
    for step, actual in zip(STEPS, rho, strict=True):
        expected = oracles.sma_length(int(step), float(make(b2)))
        assert oracles.relative_error(actual, expected) < 5e-7
    np.testing.assert_array_equal(optax_radam.rectification(STEPS, make(b2)), 0)


def test_b2_just_large_enough_to_rectify():
    """rho_inf is 4.01 here; its distance to 4 must not be a float32 difference."""
    expected = oracles.rectification(10**4, 0.601)
    actual = optax_radam.rectification(10**4, 0.601)
    assert oracles.relative_error(actual, expected) < 5e-5
    assert optax_radam.rectification(10**4, 0.601) <= 1


@pytest.mark.parametrize("b2", [0.0, 0.5, 0.9, 0.999, 0.999999])
def test_sma_length_limit(b2):
    error = oracles.relative_error(
        optax_radam.sma_length_limit(b2), oracles.sma_length_limit(b2)
    )
    assert error < 1e-7


@pytest.mark.parametrize("b2", LARGE_B2)
def test_first_step_at_which_rho_reaches_5(b2):
    steps = np.arange(1, 12)
    actual = _sma.is_tractable(steps, b2, 5.0)
    expected = [oracles.sma_length(int(step), b2) >= 5 for step in steps]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999, 0.999999])
def test_bias_correction(decay):
    for step in (1, 2, 10, 10**5, 10**7):
        expected = -np.expm1(step * np.log(max(decay, 1e-300)))
        actual = _sma.bias_correction(jnp.int32(step), decay)
        np.testing.assert_allclose(actual, expected, rtol=3e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("step", [1, 4, 5, 6, 100, 693, 694, 10**5, 10**7])
@pytest.mark.parametrize("b2", [0.9, 0.999, 0.99999])
def test_gradient_to_b2_matches_finite_differences(step, b2):
    def factor(b2):
        return optax_radam.rectification(step, b2)

    h = 1e-6 * (1 - b2)
    difference = (factor(b2 + h) - factor(b2 - h)) / (2 * h)
    gradient = jax.grad(factor)(jnp.float64(b2))
    np.testing.assert_allclose(gradient, difference, rtol=1e-5, atol=1e-6 / (1 - b2))


@pytest.mark.parametrize("b2", [0.0, 0.3, 0.6, 0.999999])
def test_gradients_are_finite_everywhere(b2):
    steps = jnp.asarray([1.0, 2.0, 4.0, 5.0, 6.0, 1e3, 1e7])
    gradient = jax.grad(lambda s, b: optax_radam.rectification(s, b).sum(), (0, 1))
    for each in gradient(steps, jnp.float32(b2)):
        assert jnp.all(jnp.isfinite(each))


@pytest.mark.parametrize("function", ["sma_length", "rectification"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32, jnp.bfloat16])
def test_shape_and_dtype(function, shape, dtype):
    result = getattr(optax_radam, function)(jnp.full(shape, 7, dtype), 0.999)
    assert result.shape == shape
    assert result.dtype == jnp.float32


@pytest.mark.parametrize("function", ["sma_length", "rectification"])
@pytest.mark.parametrize(
    ("step", "b2", "error", "message"),
    [
        (5, 1.0, ValueError, r"`b2` must be a number in \[0, 1\), got 1.0"),
        (5, -0.1, ValueError, r"`b2` must be a number in \[0, 1\), got -0.1"),
        (5, float("nan"), ValueError, r"`b2` must be a number in \[0, 1\), got nan"),
        (5, "0.9", TypeError, r"`b2` must be a number in \[0, 1\), got '0.9'"),
        (5, True, TypeError, r"`b2` must be a number in \[0, 1\), got True"),
        (5, np.ones(2), TypeError, r"`b2` must be .* of shape \(2,\) and dtype"),
        (0, 0.9, ValueError, r"`step` must be a finite number >= 1, got 0"),
        (np.nan, 0.9, ValueError, r"`step` must be a finite number >= 1, got nan"),
    ],
)
def test_bad_arguments(function, step, b2, error, message):
    with pytest.raises(error, match=message):
        getattr(optax_radam, function)(step, b2)
    if step == 5:
        with pytest.raises(error, match=message):
            optax_radam.sma_length_limit(b2)


def test_the_threshold_itself_is_tractable():
    rho = _sma.sma_length(10, 0.99)
    assert _sma.is_tractable(10, 0.99, rho)
    assert not _sma.is_tractable(10, 0.99, np.nextafter(rho, np.float32(np.inf)))


@pytest.mark.parametrize("b2", [0.9, 0.999, 0.999999, 1 - 1e-10])
@pytest.mark.parametrize("step", [6, 10])
def test_tractable_from_the_step_whose_rho_reaches_the_threshold(step, b2):
    rho = float(oracles.sma_length(step, b2))
    assert not _sma.is_tractable(step, b2, rho * (1 + 1e-11))
    assert _sma.is_tractable(step, b2, rho * (1 - 1e-11))
    assert not _sma.is_tractable(step - 1, b2, rho * (1 - 1e-11))


@pytest.mark.parametrize(("step", "slope"), [(1, 0.0), (2, 2.0), (10, 2.0)])
def test_gradient_of_rho_at_b2_0(step, slope):
    """rho_1 is 1; later, rho_t is rho_inf minus a term without slope there."""
    assert jax.grad(_sma.sma_length, 1)(step, 0.0) == slope


@pytest.mark.parametrize(
    "step",
    [2**31, 2**40, 10**39, np.int64(2**32 + 6), np.float64(1e300), jnp.float32(1e38)],
    ids=str,
)
def test_steps_beyond_those_of_optax(step):
    """Steps beyond the range of int32, and of float32."""
    assert optax_radam.sma_length(step, 0.999) == jnp.float32(1999)
    assert optax_radam.rectification(step, 0.999) == 1


@pytest.mark.parametrize("b2", [0.5, 0.999])
def test_nan_gives_nan(b2):
    steps = jnp.array([1.0, jnp.nan, 6.0])
    for function in (optax_radam.sma_length, optax_radam.rectification):
        found = function(steps, b2)
        np.testing.assert_array_equal(jnp.isnan(found), jnp.isnan(steps))
        gradient = jax.grad(lambda t, f=function: jnp.nansum(f(t, b2)))(steps)
        assert jnp.all(jnp.isfinite(gradient[jnp.array([0, 2])]))


@pytest.mark.parametrize("step", ["1", 1j, None, np.array(["x"])], ids=str)
def test_steps_that_are_no_numbers(step):
    with pytest.raises(TypeError, match="`step` must be a real number or an array"):
        optax_radam.rectification(step, 0.9)
