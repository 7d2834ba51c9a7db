"""Groups of parameters that few steps visit: what r_t assumes, and how to count visits.

Expected numbers are NumPy's, in float64, from the visited gradients only.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import problems
import pytest

import optax_radam

pytestmark = pytest.mark.usefixtures("x64")

B1, B2, STEPS = 0.9, 0.99, 60
VISITS = {
    "late": np.arange(STEPS) >= 9,
    "rare": np.random.default_rng(3).random(STEPS) < 0.3,
}


@pytest.mark.parametrize("fallback", ["momentum", "skip", "shifted"])
@pytest.mark.parametrize("name", VISITS)
def test_masked_group_counts_its_own_visits(name, fallback):
    visits = VISITS[name]
    settings = {"b2": B2, "fallback": fallback, "weight_decay": 0.01}
    radam = optax_radam.radam(0.1, **settings)
    masked = optax.conditionally_mask(
        radam, lambda step, visited: visited, forward_extra_args=True
    )
    optimizer = optax.partition(
        {"always": radam, "visited": masked}, {"body": "always", "table": "visited"}
    )
    gradients = {
        "body": problems.normal_gradients(STEPS, 3),
        "table": problems.normal_gradients(STEPS, 2, 4, seed=1),
    }
    params = jax.tree.map(lambda g: jnp.ones(g.shape[1:]), gradients)

    def step(carry, inputs):
        params, state = carry
        gradient, visited = inputs
        updates, state = optimizer.update(gradient, state, params, visited=visited)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state)

    inputs = (jax.tree.map(jnp.asarray, gradients), jnp.asarray(visits))
    start = (params, optimizer.init(params))
    _, (trained, states) = jax.lax.scan(step, start, inputs)

    def expected(gradients):
        return oracles.radam_trajectory(gradients, 0.1, start=1.0, **settings)

    body, table = gradients["body"], gradients["table"][visits]
    np.testing.assert_allclose(trained["body"], expected(body), rtol=1e-12)
    np.testing.assert_allclose(trained["table"][visits], expected(table), rtol=1e-12)
    previous = np.concatenate([np.ones((1, 2, 4)), trained["table"][:-1]])
    np.testing.assert_array_equal(trained["table"][~visits], previous[~visits])

    # The state right after each visit; r_t of "shifted" is five steps ahead.
    state = jax.tree.map(lambda x: x[visits], states.inner_states["visited"])
    ahead = 5 if fallback == "shifted" else 0
    before = {"momentum": 1.0, "skip": 0.0}.get(fallback)
    m = v = np.zeros((2, 4))
    for i, gradient in enumerate(table):
        m = B1 * m + (1 - B1) * gradient
        v = B2 * v + (1 - B2) * gradient**2
        shared = {"rtol": 1e-12, "atol": 1e-15}
        np.testing.assert_allclose(optax.tree.get(state, "mu")["table"][i], m, **shared)
        np.testing.assert_allclose(optax.tree.get(state, "nu")["table"][i], v, **shared)
        tractable = oracles.sma_length(i + 1 + ahead, B2) >= 5
        r = float(oracles.rectification(i + 1 + ahead, B2)) if tractable else before
        factor = optax.tree.get(state, "rectification")[i]
        np.testing.assert_allclose(factor, r, rtol=5e-7)
    everywhere = optax.tree.get(states.inner_states["always"], "rectification_count")
    assert everywhere[-1] == STEPS
    assert optax.tree.get(state, "rectification_count")[-1] == visits.sum()


def test_rate_of_rarely_visited_rows_varies_as_the_integral_says():
    """r_t / sqrt(v_hat) in the library's own state, 10% of the steps visited."""
    visited, steps, rows = 0.1, 1000, 8192
    optimizer = optax_radam.radam(1.0, b2=B2)
    draw = np.random.default_rng(0)
    seeds = jnp.asarray(draw.integers(2**31, size=steps))

    def step(state, seed):
        keys = jax.random.split(jax.random.key(seed))
        gradient = jax.random.normal(keys[0], (rows,))
        gradient *= jax.random.bernoulli(keys[1], visited, (rows,))
        _, state = optimizer.update(gradient, state, gradient)
        return state, None

    state, _ = jax.lax.scan(step, optimizer.init(jnp.zeros(rows)), seeds)
    # In units of 1 / mean square, as for a dense gradient of variance 1.
    v_hat = optax.tree.get(state, "nu") / (1 - B2**steps) / visited
    actual = np.var(optax.tree.get(state, "rectification") / np.sqrt(v_hat))
    weights = B2 ** np.arange(steps)
    weights /= visited * weights.sum()
    expected = oracles.variance_of_rate(weights, visits=visited)
    # One standard error is 3%, by eight seeds.
    np.testing.assert_allclose(actual, expected, rtol=0.1)
    # r_t is meant to hold the variance at that of a dense gradient.
    assert actual > 15 * oracles.variance_limit(B2)


def test_sparse_row_at_step_ten_thousand():
    """The figures of docs/warmup.md: r_t is 1 to 0.03% there, and promises 1."""
    b2, step = 0.999, 10_000
    r = float(oracles.rectification(step, b2))

    def variance(visited):
        weights = b2 ** np.arange(step)
        weights /= visited * weights.sum()
        of_rate = r**2 * oracles.variance_of_rate(weights, visits=visited)
        return of_rate / oracles.variance_limit(b2)

    actual = [variance(visited) for visited in (1.0, 0.1, 0.01)]
    np.testing.assert_allclose(actual, [1.0, 14.8, 189.4], rtol=2e-3)
