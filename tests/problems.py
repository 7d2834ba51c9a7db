"""Trees of parameters, their gradients, and training trajectories."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def trees():
    """Parameters by name: nested, a bare leaf, a scalar, mixed dtypes, empty."""
    return {
        "nested": {"a": {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}, "c": [jnp.ones(1)]},
        "leaf": jnp.ones(4),
        "scalar": {"s": jnp.float32(2.0)},
        "mixed": {
            "half": jnp.ones(3, jnp.bfloat16),
            "single": jnp.ones(3, jnp.float32),
            "complex": jnp.ones(2, jnp.complex64),
        },
        "none": {"trained": jnp.ones(2), "absent": None},
        "empty": {},
    }


def normal_gradients(steps, *shape, seed=0):
    """Standard normal float64 gradients, (steps, *shape)."""
    return np.random.default_rng(seed).standard_normal((steps, *shape))


def trajectory(optimizer, gradients, start=0.0):
    """Parameters after each step: a tree like the gradients, (steps, *shape)."""
    gradients = jax.tree.map(jnp.asarray, gradients)
    params = jax.tree.map(lambda g: jnp.full_like(g[0], start), gradients)

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, optimizer.init(params)), gradients)[1]
