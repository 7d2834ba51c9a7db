"""Gradients through training steps, across the one where rectification begins."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_radam

STEPS = 20
TRACTABLE = 6  # the first step, at b2 = 0.99
POINT = {
    "start": np.array([1.0, -0.5, 2.0]),
    "learning_rate": 0.05,
    "b1": 0.8,
    "b2": 0.99,
    "eps": 0.1,
}
VARIANTS = {
    "momentum": {},
    "nesterov": {"nesterov": True, "fallback": "skip"},
    "amsgrad": {"amsgrad": True, "weight_decay": 0.1},
    "shifted": {"fallback": "shifted", "eps_root": 1e-4},
}
EVERY_STEP = np.ones(STEPS)
KEPT = {  # factors by which the gradients of the steps are multiplied
    "always_zero": 0 * EVERY_STEP,
    "zero_until_tractable": 1.0 * (np.arange(1, STEPS + 1) >= TRACTABLE),
    "zero_from_tractable": 1.0 * (np.arange(1, STEPS + 1) < TRACTABLE),
}
SOME_ZERO = EVERY_STEP.copy()
SOME_ZERO[[0, TRACTABLE - 1, 11]] = 0


def _final_loss(point, kept, variant):
    """Loss after training on a quartic, one step for each factor."""
    numbers = dict(point)
    params = jnp.asarray(numbers.pop("start"))
    optimizer = optax_radam.radam(**numbers, **VARIANTS[variant])

    def step(carry, factor):
        params, state = carry
        updates, state = optimizer.update(factor * (params + params**3), state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, carry, kept)
    return jnp.sum(params**2 * jnp.arange(1.0, 4.0))


_loss = jax.jit(_final_loss, static_argnames="variant")
_gradient = jax.jit(jax.grad(_final_loss), static_argnames="variant")


def _differences(function, point, h=1e-6):
    """Central finite differences of `function` at every number of `point`."""
    leaves, treedef = jax.tree.flatten(point)
    shifts = np.eye(sum(np.size(leaf) for leaf in leaves))

    def along(shift):
        first, shifted = 0, []
        for leaf in leaves:
            last = first + np.size(leaf)
            part = shift[first:last].reshape(np.shape(leaf))
            shifted.append(np.asarray(leaf) * (1 + part))
            first = last
        return function(treedef.unflatten(shifted))

    quotients = [(along(h * s) - along(-h * s)) / (2 * h) for s in shifts]
    return np.array(quotients)


def _relative(gradient):
    """Gradients with respect to the numbers' logarithms, as in `_differences`."""
    products = jax.tree.map(lambda g, x: g * x, gradient, POINT)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(products)])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kept", [EVERY_STEP, SOME_ZERO], ids=["all", "some_zero"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_finite_differences(variant, kept):
    """Gradients to initial parameters, learning rate, b1, b2, eps, at eps_root = 0."""
    actual = _relative(_gradient(POINT, kept, variant))
    assert np.abs(actual).min() > 1e-5
    expected = _differences(lambda point: _loss(point, kept, variant), POINT)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_to_b1_where_it_is_0(variant):
    """There, a power of b1 has a derivative only at the first step."""

    def loss(b1):
        return _loss(POINT | {"b1": b1}, EVERY_STEP, variant)

    h = 1e-5  # one-sided, for b1 is not negative
    difference = (4 * loss(h) - 3 * loss(0.0) - loss(2 * h)) / (2 * h)
    actual = _gradient(POINT | {"b1": 0.0}, EVERY_STEP, variant)["b1"]
    np.testing.assert_allclose(actual, difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("eps", [0.0, 1e-8])
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_finite_where_those_of_the_steps_are_zero(variant, kept, eps):
    """Zero in some steps or in all; and always zero for one parameter."""
    point = POINT | {"eps": eps, "start": np.array([1.0, -0.5, 0.0])}
    chex.assert_tree_all_finite(_gradient(point, KEPT[kept], variant))


@pytest.mark.soak
@pytest.mark.usefixtures("x64")
def test_hessian_is_that_of_finite_differences():
    def logarithmic(logs):
        point = jax.tree.map(lambda x, log: x * jnp.exp(log), POINT, logs)
        return _final_loss(point, EVERY_STEP[:8], "momentum")

    flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(np.zeros_like, POINT))
    hessian = jax.jit(jax.hessian(lambda x: logarithmic(unravel(x))))(flat)
    gradient = jax.jit(jax.grad(lambda x: logarithmic(unravel(x))))
    h = 1e-6
    differences = [
        (gradient(flat + h * unit) - gradient(flat - h * unit)) / (2 * h)
        for unit in np.eye(flat.size)
    ]
    np.testing.assert_allclose(hessian, np.stack(differences), rtol=1e-5, atol=1e-6)


SECOND_DERIVATIVES = {
    "hessian": jax.hessian,  # forward over reverse
    "gradient of gradient": lambda loss: jax.jacrev(jax.grad(loss)),
}


def _final_loss_unrolled(start, settings, steps):
    """`_final_loss` without a scan."""
    optimizer = optax_radam.radam(0.05, b1=0.8, b2=0.99, **settings)
    params, state = start, optimizer.init(start)
    for _ in range(steps):
        updates, state = optimizer.update(params + params**3, state, params)
        params = optax.apply_updates(params, updates)
    return jnp.sum(params**2 * jnp.arange(1.0, 4.0))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("derivative", "eps"),
    [
        pytest.param("hessian", 1e-8, marks=pytest.mark.soak),
        pytest.param("gradient of gradient", 1e-8, marks=pytest.mark.soak),
        ("gradient of gradient", 0.0),
    ],
)
@pytest.mark.parametrize(
    "variant",
    [
        "momentum",
        "shifted",
        pytest.param("nesterov", marks=pytest.mark.soak),
        pytest.param("amsgrad", marks=pytest.mark.soak),
    ],
)
def test_second_derivatives_in_a_scan_where_a_gradient_is_zero(
    variant, eps, derivative
):
    """They are finite, and equal those of a loop without scan."""

    def scanned(params):
        point = POINT | {"start": params, "eps": eps}
        return _final_loss(point, EVERY_STEP[:7], variant)

    def unrolled(params):
        return _final_loss_unrolled(params, {"eps": eps, **VARIANTS[variant]}, steps=7)

    start = jnp.array([1.0, -0.5, 0.0])
    actual, expected = (
        jax.jit(SECOND_DERIVATIVES[derivative](loss))(start)
        for loss in (scanned, unrolled)
    )
    chex.assert_tree_all_finite(expected)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
