"""`init` and `update` as compiled for TPUs and GPUs.

Programs are compiled ahead of time for described devices that this machine lacks.
"""

import math

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optax_radam
from benchmarks import accelerators, collectives, hlo, trees

LEAF = [(4096, 6144)]  # each dimension can be split over 512 devices
RATE = 1e-3
F32, BF16 = jnp.float32, jnp.bfloat16
# Bytes that must be read and written for each parameter, by its dtype. An update reads
# the gradient, and reads and writes the parameter and its state.
VARIANTS = {
    "radam": (optax_radam.radam(RATE), F32, (16, 12)),
    "skip": (optax_radam.radam(RATE, fallback="skip"), F32, (16, 12)),
    "shifted": (optax_radam.radam(RATE, fallback="shifted"), F32, (16, 12)),
    "decay": (optax_radam.radam(RATE, weight_decay=0.1), F32, (16, 12)),
    "nesterov": (optax_radam.radam(RATE, nesterov=True), F32, (16, 12)),
    "schedules": (
        optax_radam.radam(
            optax.cosine_decay_schedule(RATE, 100),
            weight_decay=optax.linear_schedule(0.1, 0.0, 100),
        ),
        F32,
        (16, 12),
    ),
    "decay_rates": (
        optax_radam.radam(
            RATE,
            optax.linear_schedule(0.95, 0.85, 100),
            lambda count: 1 - (count + 1.0) ** -0.8,
        ),
        F32,
        (16, 12),
    ),
    "bfloat16": (optax_radam.radam(RATE), BF16, (10, 8)),
    "mu_dtype": (optax_radam.radam(RATE, mu_dtype=BF16), F32, (14, 10)),
    "amsgrad": (optax_radam.radam(RATE, amsgrad=True), F32, (20, 16)),
    "schedule_free": (optax_radam.schedule_free_radam(), F32, (20, 16)),
}


def _on(*names):
    return pytest.mark.parametrize("mesh", names, indirect=True)


def _check_init(optimizer, params, mesh):
    """Checks that `init` sends nothing, and puts every moment with its parameter."""
    init = jax.jit(optimizer.init).lower(params).compile()
    assert collectives.of(init.as_text()) == []
    _check_places(init.output_shardings, optimizer, params, mesh)


def _check_places(shardings, optimizer, params, mesh):
    expected = accelerators.state_beside(params, mesh, optimizer)

    def check(path, sharding, leaf):
        where = jax.tree_util.keystr(path)
        assert sharding.is_equivalent_to(leaf.sharding, leaf.ndim), where

    jax.tree_util.tree_map_with_path(check, shardings, expected)


def _check_update(optimizer, params, mesh, must_move=(16, 12)):
    """Checks that every byte moves once, in one kernel a leaf; nothing is sent."""
    update = accelerators.compile_update(optimizer, params, mesh)
    assert {kernel.operation for kernel in update.kernels} == {"fusion"}
    assert len(update.kernels) <= len(params)  # compilers may merge small leaves
    assert (update.read, update.written) == must_move
    assert collectives.of(update.compiled.as_text()) == []
    memory = update.compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 4096 + 512 * len(params)
    # Only parameters and state are written, in place of the old ones.
    written = sum(kernel.written for kernel in update.kernels)
    assert memory.alias_size_in_bytes >= written


@_on("TPU v5e", "TPU v6e", "H100")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_leaf_is_one_kernel(variant, mesh):
    optimizer, dtype, must_move = VARIANTS[variant]
    params = accelerators.spread(LEAF, mesh, dtype)
    _check_update(optimizer, params, mesh, must_move)


@_on("TPU v5e", "8 TPU v5e", "H100", "8 H100")
def test_gpt2(mesh):
    params = accelerators.spread(trees.gpt2(), mesh)
    optimizer = optax_radam.radam(RATE, fallback="skip")
    _check_update(optimizer, params, mesh)
    if mesh.size > 1:
        _check_init(optimizer, params, mesh)


@_on("8 TPU v5e", "8 H100")
@pytest.mark.parametrize("variant", ["bfloat16", "mu_dtype", "amsgrad", "decay_rates"])
def test_init_puts_moments_where_their_parameters_are(variant, mesh):
    optimizer, dtype, _ = VARIANTS[variant]
    _check_init(optimizer, accelerators.spread(LEAF, mesh, dtype), mesh)


@_on("8 TPU v5e", "8 H100")
def test_init_reads_each_parameter_once(mesh):
    params = accelerators.spread(LEAF, mesh)
    compiled = jax.jit(optax_radam.radam(RATE).init).lower(params).compile()
    found = [k for k in hlo.kernels(compiled.as_text()) if not k.is_scalar]
    size = math.prod(LEAF[0]) * 4 // mesh.size
    # The first kernel makes `mu`, and `nu` is a copy of it.
    assert [(k.operation, k.read, k.written) for k in found] == [
        ("fusion", size, size),
        ("copy", size, size),
    ]


@_on("8 TPU v5e", "8 H100")
def test_parameters_and_state_made_together_stay_together(mesh):
    optimizer = optax_radam.radam(RATE)
    params = accelerators.spread([(1024, 64)], mesh)
    (place,) = (leaf.sharding for leaf in params.values())

    def make(key):
        drawn = jax.random.normal(key, (1024, 64))
        params = {"000": jax.lax.with_sharding_constraint(drawn, place)}
        return params, optimizer.init(params)

    key = jax.eval_shape(lambda: jax.random.key(0))
    whole = NamedSharding(mesh, P())
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)
    compiled = jax.jit(make).lower(key).compile()
    made, state = compiled.output_shardings
    assert made["000"].is_equivalent_to(place, 2)
    _check_places(state, optimizer, params, mesh)


@_on("256 TPU v5e", "512 TPU v5p", "256 H100")
def test_a_leaf_on_many_devices(mesh):
    optimizer = optax_radam.radam(RATE)
    params = accelerators.spread(LEAF, mesh)
    _check_init(optimizer, params, mesh)
    _check_update(optimizer, params, mesh)


@pytest.mark.soak
@_on("256 TPU v5e", "256 H100")
def test_seven_billion_parameters(mesh):
    optimizer = optax_radam.radam(RATE, fallback="skip", weight_decay=0.1)
    params = accelerators.spread(trees.seven_billion(), mesh)
    _check_init(optimizer, params, mesh)
    _check_update(optimizer, params, mesh)


@_on("8 TPU v5e", "8 H100")
def test_gradients_of_sharded_parameters_are_reduced_and_scattered(mesh):
    """`benchmarks.collectives` must not mistake this for a sum of the whole."""
    params = accelerators.spread([(1024, 1024)], mesh)
    (place,) = (leaf.sharding for leaf in params.values())
    batch = jax.ShapeDtypeStruct(
        (64 * mesh.size, 1024), F32, sharding=NamedSharding(mesh, P("d"))
    )

    def gradient(params, x):
        return jax.grad(lambda p: jnp.mean((x @ p["000"] - x) ** 2))(params)

    gradient = jax.jit(gradient, out_shardings={"000": place})
    found = dict(collectives.of(gradient.lower(params, batch).compile().as_text()))
    assert found.keys() == {"all-gather", "reduce-scatter"}
    assert found["reduce-scatter"] == 1024 * 1024 * 4
