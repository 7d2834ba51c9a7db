"""A Flax NNX model spread over eight devices: its state, and its training."""

import functools

import chex
import jax
import optax
import pytest

import optax_radam
from benchmarks import sharding

OPTIMIZER = optax_radam.radam(1e-2, fallback="skip")
SPREAD = [layout for layout in sharding.LAYOUTS if layout.spread]
MIX = SPREAD[-1]


@functools.cache
def _training(layout):
    return sharding.training(layout, OPTIMIZER)


def _check_places(tree, params):
    for name in ("mu", "nu"):
        for moment, param in zip(
            jax.tree.leaves(optax.tree.get(tree, name)),
            jax.tree.leaves(params),
            strict=True,
        ):
            assert moment.sharding.is_equivalent_to(param.sharding, param.ndim)


@pytest.mark.parametrize("layout", SPREAD, ids=lambda layout: layout.name)
def test_state_is_never_whole_on_one_device(layout):
    run = _training(layout)
    init = jax.jit(OPTIMIZER.init).lower(run.params).compile()
    mine = sharding.bytes_on_one_device(run.params)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(run.params))
    assert mine < 0.13 * whole

    # Both moments, three scalars, and a pointer to each array; and nothing else.
    memory = init.memory_analysis()
    results = len(jax.tree.leaves(init.out_info))
    assert memory.output_size_in_bytes <= 2 * mine + 3 * 4 + 8 * (results + 1)
    assert memory.temp_size_in_bytes < 0.01 * whole
    state = init(run.params)
    _check_places(state, run.params)
    assert sharding.bytes_on_one_device(state) == 2 * mine + 3 * 4


def _train(layout):
    run = _training(layout)
    state = jax.jit(OPTIMIZER.init)(run.params)
    step = jax.jit(run.step, donate_argnums=1)
    step = step.lower(run.params, state, run.batch).compile()
    params = run.params
    for _ in range(8):
        # It was compiled for these places, and refuses others.
        params, state = step(params, state, run.batch)
    _check_places(state, params)
    return params, state


def test_training_keeps_places_and_is_that_of_one_device():
    alone = _train(sharding.Layout("one device", 1, 1))
    # Sums over the batch have another order. The rounding of a gradient near zero is
    # divided by an equally small root: a thousandth of the rate.
    chex.assert_trees_all_close(
        *(jax.tree.leaves(jax.device_get(x)) for x in (_train(MIX), alone)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_step_sends_what_its_gradient_sends():
    run = _training(MIX)
    state = jax.jit(OPTIMIZER.init)(run.params)
    gradient = sharding.traffic(run.gradient, run.params, run.batch)
    assert gradient["all-reduce"] > 0
    assert sharding.traffic(run.step, run.params, state, run.batch) == gradient
