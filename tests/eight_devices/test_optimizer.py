"""Every transformation on sharded parameters: placement of the state, and exchanges.

Rows of `contract_cases` x layouts x types of mesh axes. Expected is the result of one
device.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_cases import CASES
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_radam
from benchmarks import collectives

STEPS = 8  # crosses the threshold, which is passed at step 6

SHAPES = {
    "matrix": ((16, 8), jnp.float32),
    "scalar": ((), jnp.float32),
    "half": ((8, 16), jnp.bfloat16),
    "complex": ((8, 8), jnp.complex64),
}
# Arrays not named here are replicated on every device.
LAYOUTS = {
    "replicated": {},
    "fully_sharded": {
        "matrix": P(("data", "model")),
        "half": P(None, ("data", "model")),
        "complex": P(("data", "model")),
    },
    "tensor_parallel": {
        "matrix": P(None, "model"),
        "half": P("model"),
    },
    "mix": {
        "matrix": P("data", "model"),
        "half": P("model", "data"),
        "complex": P(None, "data"),
    },
}
AXIS_TYPES = {
    "auto": (AxisType.Auto, AxisType.Auto),
    "explicit": (AxisType.Explicit, AxisType.Explicit),
    "both": (AxisType.Explicit, AxisType.Auto),
}
# The moments of the other row are Optax's own.
OURS = {case.name: case for case in CASES if case.all_ours or case.keeps_moments}
COMBINATIONS = [
    *((name, "mix", "auto") for name in OURS),
    *(("radam_variant", layout, "auto") for layout in LAYOUTS if layout != "mix"),
    ("radam_variant", "fully_sharded", "explicit"),
    ("radam_variant", "mix", "explicit"),
    ("radam_variant", "mix", "both"),
    ("schedule_free_radam", "mix", "explicit"),
]
# Units in the last place of parameters, of which schedule-free's updates are
# differences: one of bfloat16's, and two of float32's.
TOLERANCE = {"half": {"rtol": 8e-3, "atol": 8e-3}}
FLOAT32_TOLERANCE = {"rtol": 1e-6, "atol": 5e-7}


@functools.cache
def _numbers():
    """Parameters, and the gradients of each step; one of the parameters is None."""
    random = np.random.default_rng(0)

    def draw(shape, dtype):
        imaginary = 1j * random.standard_normal(shape)
        drawn = random.standard_normal(shape) + imaginary
        if not jnp.issubdtype(dtype, jnp.complexfloating):
            drawn = drawn.real
        return np.asarray(drawn, dtype)

    trees = [
        {name: draw(*shape) for name, shape in SHAPES.items()} | {"absent": None}
        for _ in range(1 + STEPS)
    ]
    return trees[0], trees[1:]


def _placed(tree, layout, axes):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=AXIS_TYPES[axes])
    specs = LAYOUTS[layout]
    return {
        name: leaf
        if leaf is None
        else jax.device_put(leaf, NamedSharding(mesh, specs.get(name, P())))
        for name, leaf in tree.items()
    }


def _all_placed(layout, axes):
    params, all_gradients = _numbers()
    return [_placed(tree, layout, axes) for tree in (params, *all_gradients)]


def _one_step(transform, params, state, gradients):
    updates, state = transform.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, updates


@functools.cache
def _on_one_device(name):
    """Parameters and state after all steps, and the updates of the last."""
    transform = OURS[name].build()
    params, all_gradients = _numbers()
    step = jax.jit(functools.partial(_one_step, transform))
    state = jax.jit(transform.init)(params)
    for gradients in all_gradients:
        params, state, updates = step(params, state, gradients)
    return params, state, updates


def _name(path):
    """Name of the parameter that a leaf belongs to; None for a scalar of the state."""
    return getattr(path[-1], "key", None) if path else None


def _check_places(tree, params):
    """Checks that each leaf has its parameter's sharding; scalars are everywhere."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where = jax.tree_util.keystr(path)
        if _name(path) in SHAPES:
            expected = params[_name(path)].sharding
            assert leaf.sharding.is_equivalent_to(expected, leaf.ndim), where
        else:
            assert leaf.ndim == 0, where
            assert leaf.sharding.is_fully_replicated, where


def _check_numbers(actual, expected):
    def check(path, ours, theirs):
        tolerance = TOLERANCE.get(_name(path), FLOAT32_TOLERANCE)
        assert ours.dtype == theirs.dtype, path
        wide = jnp.promote_types(ours.dtype, jnp.float32)  # for NumPy
        ours, theirs = (np.asarray(x.astype(wide)) for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, **tolerance, err_msg=str(path))

    jax.tree_util.tree_map_with_path(check, actual, expected)


def _check_sends_nothing(compiled):
    assert collectives.of(compiled.as_text()) == []


@pytest.mark.parametrize(("name", "layout", "axes"), COMBINATIONS)
def test_state_stays_in_place_sends_nothing_and_is_right(name, layout, axes):
    transform = OURS[name].build()
    params, *all_gradients = _all_placed(layout, axes)
    _check_places(transform.init(params), params)
    init = jax.jit(transform.init).lower(params).compile()
    _check_sends_nothing(init)
    state = init(params)
    _check_places(state, params)

    step = jax.jit(functools.partial(_one_step, transform), donate_argnums=(0, 1))
    compiled = step.lower(params, state, all_gradients[0]).compile()
    _check_sends_nothing(compiled)
    start = params
    for gradients in all_gradients:
        # It was compiled for these places, and refuses others.
        params, state, updates = compiled(params, state, gradients)
    assert start["matrix"].is_deleted()
    _check_places((params, state, updates), all_gradients[0])
    _check_numbers((params, state, updates), _on_one_device(name))


@pytest.mark.parametrize("axes", ["auto", "explicit"])
def test_update_is_traced_once(axes):
    transform = OURS["radam_variant"].build()
    params, gradients, *_ = _all_placed("mix", axes)
    state = jax.jit(transform.init)(params)
    update = jax.jit(chex.assert_max_traces(transform.update, n=1))
    for _ in range(STEPS):
        _, state = update(gradients, state, params)


def _run(transform, params, all_gradients):
    """All steps in one program, whose loop carries the state."""

    def body(carry, gradients):
        *carry, updates = _one_step(transform, *carry, gradients)
        return tuple(carry), updates

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *all_gradients)
    carry, updates = jax.lax.scan(body, (params, transform.init(params)), stacked)
    return *carry, jax.tree.map(lambda u: u[-1], updates)


def _check_run(run, params, all_gradients):
    compiled = jax.jit(run).lower(params, all_gradients).compile()
    _check_sends_nothing(compiled)
    results = compiled(params, all_gradients)
    _check_places(results, params)
    _check_numbers(results, _on_one_device("radam_variant"))


@pytest.mark.parametrize("axes", ["auto", "explicit"])
def test_state_in_a_scan(axes):
    params, *all_gradients = _all_placed("mix", axes)
    transform = OURS["radam_variant"].build()
    _check_run(functools.partial(_run, transform), params, all_gradients)


def test_within_shard_map():
    """Each device has its own piece and does not see the others."""
    params, *all_gradients = _all_placed("mix", "auto")

    def spec(path, _):
        return LAYOUTS["mix"].get(_name(path), P())

    specs = functools.partial(jax.tree_util.tree_map_with_path, spec)
    run = jax.shard_map(
        functools.partial(_run, OURS["radam_variant"].build()),
        mesh=params["matrix"].sharding.mesh,
        in_specs=(specs(params), specs(all_gradients)),
        out_specs=specs(_on_one_device("radam_variant")),
    )
    _check_run(run, params, all_gradients)


def test_moments_of_missing_gradients_stay_in_place():
    transform = OURS["radam"].build()
    params, gradients, *_ = _all_placed("mix", "auto")
    gradients |= {"matrix": None, "half": None}
    state = jax.jit(transform.init)(params)
    compiled = jax.jit(transform.update).lower(gradients, state, params).compile()
    _check_sends_nothing(compiled)
    _check_places(compiled(gradients, state, params), params)


def test_rectified_stage_of_optax_keeps_what_it_was_given():
    """Optax makes its moments, and places them if it does so outside of `jit`."""
    transform = optax_radam.rectify(optax.scale_by_belief(b2=0.99), b2=0.99)
    params, gradients, *_ = _all_placed("mix", "auto")
    del params["complex"], gradients["complex"]
    state = transform.init(params)
    _check_places(state, params)
    compiled = jax.jit(transform.update).lower(gradients, state, params).compile()
    _check_sends_nothing(compiled)
    _check_places(compiled(gradients, state, params), params)


@pytest.mark.parametrize("layout", ["replicated", "fully_sharded"])
def test_gradients_from_elsewhere(layout):
    """Replicated gradients need no transfer; others move to where the state is."""
    transform = OURS["radam_variant"].build()
    params, gradients, *_ = _all_placed("mix", "auto")
    gradients = _placed(gradients, layout, "auto")
    state = jax.jit(transform.init)(params)
    places = None
    if layout == "fully_sharded":  # with Auto axes, compilers may move the state
        places = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    update = jax.jit(transform.update, out_shardings=places)
    compiled = update.lower(gradients, state, params).compile()
    _check_places(compiled(gradients, state, params), params)
    sent = collectives.of(compiled.as_text())
    assert (sent == []) == (layout == "replicated")
