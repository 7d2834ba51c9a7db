import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import optax_radam

STEPS = np.array([1, 4, 5, 6, 7, 100, 10**6], np.int32)


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("before", [0.0, 1.0])
@pytest.mark.parametrize("b2", [0.9, 0.999])
def test_says_what_60_digits_say(b2, before):
    found = optax_radam.describe(STEPS, b2, before=before)
    rho = [float(oracles.sma_length(int(t), b2)) for t in STEPS]
    r = [float(oracles.rectification(int(t), b2)) for t in STEPS]
    np.testing.assert_array_equal(found["step"], STEPS)
    np.testing.assert_allclose(found["rho"], rho, rtol=5e-7)
    np.testing.assert_allclose(found["r"], r, rtol=1e-6)
    np.testing.assert_array_equal(found["tractable"], np.array(rho) >= 5)
    expected = np.where(np.array(rho) >= 5, r, before)
    np.testing.assert_allclose(found["factor"], expected, rtol=1e-6)


def test_is_traced_once_and_agrees_with_the_state():
    optimizer = optax_radam.radam(0.1, fallback="skip")
    state = optimizer.init(jnp.ones(2))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state):
        _, state = optimizer.update(jnp.ones(2), state)
        return state, optax_radam.describe(state[1].rectification_count)

    for _ in range(8):
        state, found = step(state)
        assert found["factor"] == state[1].rectification
    assert found["factor"] > 0


@pytest.mark.parametrize(
    "step", [2**31, np.int64(2**32 + 6), np.array([2**32 + 6, 7])], ids=str
)
def test_steps_that_int32_does_not_hold(step):
    found = optax_radam.describe(step, 0.9)
    np.testing.assert_allclose(found["step"], step, rtol=1e-7)
    for name in ("r", "factor"):
        expected = [float(oracles.rectification(int(t), 0.9)) for t in np.ravel(step)]
        np.testing.assert_allclose(np.ravel(found[name]), expected, rtol=1e-6)


def test_unsigned_steps_are_kept_exactly():
    step = 3_000_000_001  # which float32 rounds
    assert int(optax_radam.describe(np.uint32(step))["step"]) == step


def test_no_steps():
    found = optax_radam.describe(np.zeros((0, 2), np.int64))
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(
        ["step", "rho", "r", "tractable", "factor"], (0, 2)
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match="`step` must be a finite number >= 1, got 0"):
        optax_radam.describe(0)
    with pytest.raises(ValueError, match=r"`b2` must be in \(0.666666667, 1\)"):
        optax_radam.describe(1, 0.5)
