"""A step as compiled by XLA: it reads and writes only what it must.

This needs a recent XLA: jax 0.7's copies, so the tests with the oldest jax skip it.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_radam
from benchmarks import hlo

LARGE = 10_000  # elements, of leaves whose traffic counts

OPTIMIZERS = {
    "radam": optax_radam.radam(1e-3),
    "skip": optax_radam.radam(1e-3, fallback="skip"),
    "decay": optax_radam.radam(1e-3, weight_decay=0.1),
    "schedules": optax_radam.radam(
        1e-3,
        optax.linear_schedule(0.95, 0.85, 100),
        lambda count: 1 - (count + 1.0) ** -0.8,
    ),
    "amsgrad": optax_radam.radam(1e-3, amsgrad=True, nesterov=True),
    "rectified Adam": optax.chain(
        optax_radam.rectify(optax.scale_by_adam(), b2=0.999),
        optax.scale_by_learning_rate(1e-3),
    ),
}


def _compile(optimizer, params):
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    step = jax.jit(step, donate_argnums=(0, 1))
    # With XLA's newest code for loops, which conftest.py turns off.
    options = {"xla_backend_extra_options": ""}
    return step.lower(params, state, params).compile(options)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="counts CPU's loops")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_loop_for_each_moment_and_one_for_the_parameters(name, dtype):
    leaves = [LARGE, 2 * LARGE, 3 * LARGE]
    params = [jax.ShapeDtypeStruct((n,), dtype) for n in leaves]
    compiled = _compile(OPTIMIZERS[name], params)

    assert compiled.memory_analysis().temp_size_in_bytes < LARGE
    loops = [k for k in hlo.kernels(compiled.as_text()) if not k.is_scalar]
    per_leaf = 4 if name == "amsgrad" else 3
    assert len(loops) == per_leaf * len(leaves)


def test_leaves_alike_are_traced_once():
    params = [jax.ShapeDtypeStruct((n % 2 + 3,), jnp.float32) for n in range(20)]
    optimizer = optax_radam.radam(1e-3)
    state = jax.eval_shape(optimizer.init, params)
    lowered = jax.jit(optimizer.update).lower(params, state)
    assert lowered.as_text().count("stablehlo.sqrt %") == 2 + 1  # and that of r_t
