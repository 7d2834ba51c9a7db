"""Trees of parameters, and gradients to feed to them."""

import jax.numpy as jnp
import numpy as np


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
