"""Promises of every transformation: rows of `contract_cases` x dtypes x trees."""

import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from contract_cases import CASES

import optax_radam

STEPS = 8  # crosses the threshold, which is passed at step 6


def _parametrize(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


every_case = _parametrize(CASES)
cases_all_ours = _parametrize([case for case in CASES if case.all_ours])
cases_with_moments = _parametrize([case for case in CASES if case.keeps_moments])


def _run(transform, params, gradients, steps=STEPS):
    """Updates of the last of some steps, and the state after it."""
    update = jax.jit(chex.assert_max_traces(transform.update, n=1))
    state = transform.init(params)
    for _ in range(steps):
        updates, state = update(gradients, state, params)
    return updates, state


@every_case
@pytest.mark.parametrize("tree", problems.trees())
def test_structure_dtypes_and_one_trace(case, tree):
    params = problems.trees()[tree]
    transform = case.build()
    before = transform.init(params)
    updates, after = _run(transform, params, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    chex.assert_tree_all_finite(updates)


@cases_with_moments
def test_mixed_gradient_and_parameter_dtypes(case):
    params = {"w": jnp.ones(3, jnp.float32)}
    updates, _ = _run(case.build(), params, {"w": jnp.ones(3, jnp.bfloat16)})
    assert updates["w"].dtype == jnp.float32


@every_case
@pytest.mark.usefixtures("x64")
def test_float64(case):
    params = {"w": jnp.ones(3, jnp.float64), "single": jnp.ones(3, jnp.float32)}
    updates, _ = _run(case.build(), params, params)
    chex.assert_trees_all_equal_dtypes(updates, params)


@cases_all_ours
def test_missing_gradients_pass_through(case):
    params = {"trained": jnp.ones(2), "frozen": {"w": jnp.ones(2), "b": jnp.ones(1)}}
    gradients = {"trained": jnp.ones(2), "frozen": None}
    updates, state = _run(case.build(), params, gradients)
    assert updates["frozen"] is None
    chex.assert_trees_all_equal_shapes_and_dtypes(state, case.build().init(params))


@every_case
def test_scan_and_vmap_repeat_the_loop(case):
    transform = case.build()
    params = {"w": jnp.linspace(-1.0, 1.0, 3)}
    all_gradients = {"w": jnp.asarray(problems.normal_gradients(STEPS, 3))}

    def step(state, gradients):
        updates, state = transform.update(gradients, state, params)
        return state, updates

    state, looped = transform.init(params), []
    for index in range(STEPS):
        gradients = jax.tree.map(operator.itemgetter(index), all_gradients)
        state, updates = step(state, gradients)
        looped.append(updates)
    expected = jax.tree.map(lambda *u: jnp.stack(u), *looped)

    scanned_state, scanned = jax.lax.scan(step, transform.init(params), all_gradients)
    chex.assert_trees_all_close(scanned, expected, rtol=1e-6, atol=1e-7)
    chex.assert_trees_all_close(scanned_state, state, rtol=1e-6, atol=1e-7)

    batched = jax.tree.map(lambda g: jnp.stack([g, 2 * g], axis=1), all_gradients)
    many = jax.vmap(lambda _: transform.init(params))(jnp.arange(2))
    _, both = jax.lax.scan(jax.vmap(step), many, batched)
    first = jax.tree.map(lambda u: u[:, 0], both)
    chex.assert_trees_all_close(first, expected, rtol=1e-6, atol=1e-7)


@every_case
def test_inject_hyperparams_gives_the_same_and_traces_once(case):
    params = {"w": jnp.linspace(-1.0, 1.0, 3)}
    injected = optax.inject_hyperparams(case.factory, case.static)(**case.numbers)
    expected, _ = _run(case.build(), params, params)
    actual, state = _run(injected, params, params)
    # float32 hyperparameters: 1 - b2 is off by 6e-8 / 0.01.
    chex.assert_trees_all_close(actual, expected, rtol=1e-5)
    assert set(state.hyperparams) >= set(case.numbers)


@every_case
def test_transformation_made_under_jit_can_be_used_outside(case):
    """Such as by a function that makes a sharded model and its optimizer."""
    made = []
    params = {"w": jnp.ones(3)}

    @jax.jit
    def init(params):
        made.append(case.build())
        return made[0].init(params)

    state = init(params)
    actual, expected = (
        jax.jit(t.update)(params, state, params) for t in (made[0], case.build())
    )
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)


@cases_with_moments
def test_donated_state_under_jit(case):
    transform = case.build()
    params = {"w": jnp.ones(3)}
    expected, _ = _run(transform, params, params, steps=2)
    update = jax.jit(transform.update, donate_argnums=1)
    first = jax.jit(transform.init)(params)
    _, second = update(params, first, params)
    updates, _ = update(params, second, params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)
    moments = [leaf for leaf in jax.tree.leaves((first, second)) if leaf.ndim]
    assert all(leaf.is_deleted() for leaf in moments)


@every_case
@pytest.mark.parametrize(
    "leaf", [jnp.arange(3), jnp.ones(3, bool)], ids=["int", "bool"]
)
def test_integer_and_boolean_leaves_are_refused_by_path(case, leaf):
    params = {"net": [jnp.ones(2), {"ids": leaf}]}
    transform = case.build()
    message = r"`params\['net'\]\[1\]\['ids'\]` has dtype (int|bool).*optax.masked"
    with pytest.raises(TypeError, match=message):
        transform.init(params)
    floating = {"net": [jnp.ones(2), {"ids": jnp.ones(3)}]}
    if case.all_ours:
        with pytest.raises(TypeError, match=message.replace("params", "updates")):
            transform.update(params, transform.init(floating), floating)
    masked = optax.masked(transform, {"net": [True, {"ids": False}]})
    masked.update(params, masked.init(params), params)


@cases_all_ours
def test_leaves_of_8_bits_are_refused(case):
    leaf = jnp.ones(3, jnp.float8_e4m3fn)
    with pytest.raises(
        TypeError, match=r"`params` has dtype float8_e4m3fn; .* 16 bits"
    ):
        case.build().init(leaf)


@every_case
def test_gradients_through_steps_are_finite(case):
    """Gradients to parameters, also where a gradient is exactly zero."""

    def trained(params):
        transform = case.build()

        def step(carry, _):
            params, state = carry
            updates, state = transform.update(2 * params, state, params)
            if not case.is_optimizer:
                updates = -0.1 * updates
            return (optax.apply_updates(params, updates), state), None

        carry = (params, transform.init(params))
        (params, _), _ = jax.lax.scan(step, carry, length=STEPS)
        return jnp.sum(params**2)

    gradient = jax.jit(jax.grad(trained))(jnp.array([1.0, -2.0, 0.0]))
    assert jnp.all(jnp.isfinite(gradient))
    assert gradient[0] != 0


@pytest.mark.usefixtures("strict_promotion")
@cases_all_ours
def test_strict_promotion(case):
    params = {"half": jnp.ones(3, jnp.bfloat16), "single": jnp.ones(3)}
    _run(case.build(), params, params)


@pytest.mark.usefixtures("x64", "strict_promotion")
@cases_all_ours
def test_strict_promotion_of_wider_gradients(case):
    """A state made without 64 bits continues with them."""
    transform = case.build()
    state, wide = transform.init(jnp.ones(3, jnp.float32)), jnp.ones(3, jnp.float64)
    updates, _ = transform.update(wide, state, wide)
    assert updates.dtype == jnp.float64


def test_second_moment_of_16_bit_leaves_does_not_stall():
    """After 2,000 steps at g = 1e-3 from a large start; optax.radam's is 7x too big."""
    gradients = np.full(2000, 1e-3)
    gradients[0] = 1.0
    transform = optax_radam.scale_by_moments()
    state = transform.init(jnp.zeros(1, jnp.bfloat16))
    assert state.mu.dtype == jnp.bfloat16
    assert state.nu.dtype == jnp.float32

    def step(state, gradient):
        gradient = gradient.astype(jnp.bfloat16).reshape(1)
        return transform.update(gradient, state)[1], None

    state, _ = jax.lax.scan(step, state, jnp.asarray(gradients))
    expected = 0.0
    for g in gradients:
        expected = 0.999 * expected + 0.001 * float(jnp.bfloat16(g)) ** 2
    np.testing.assert_allclose(state.nu, expected, rtol=1e-4)
