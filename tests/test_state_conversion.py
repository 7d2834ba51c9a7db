"""Ten steps of one optimizer, conversion, ten of the other: equal to twenty of each."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_radam

PARAMS = {"w": jnp.ones((3, 2)), "b": -jnp.ones(2)}
_RATE = optax.exponential_decay(0.02, 10, 0.5)


def _decay_masked(radam, rate):
    """The optimizer with a masked decay, which has a state; for Optax's, a chain."""
    mask = {"w": True, "b": False}
    if radam is optax_radam.radam:
        return radam(rate, weight_decay=0.1, mask=mask)
    return optax.chain(
        optax.scale_by_radam(),
        optax.add_decayed_weights(0.1, mask),
        optax.scale_by_learning_rate(rate),
    )


def _stages(radam, rate):
    """The stages of radam, directly in a chain with others."""
    if radam is optax_radam.radam:
        stages = (
            optax_radam.scale_by_moments(),
            optax_radam.scale_by_rectification(0.999, before=1.0),
        )
    else:
        stages = (optax.scale_by_radam(),)
    return optax.chain(
        optax.clip(1.5),
        *stages,
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(rate),
    )


def _injected(radam, rate):
    static = ("weight_decay",) if radam is optax_radam.radam else ()
    return optax.inject_hyperparams(radam, static_args=static)(learning_rate=rate)


def _partition(radam, rate):
    return optax.partition(
        {"a": radam(rate), "b": optax.sgd(rate)}, {"w": "a", "b": "b"}
    )


WHERE = {
    "alone": lambda radam, rate: radam(rate),
    "chain": lambda radam, rate: optax.chain(optax.clip(1.5), radam(rate)),
    "first_in_chain": lambda radam, rate: optax.chain(radam(rate), optax.scale(0.5)),
    "named_chain": lambda radam, rate: optax.named_chain(("radam", radam(rate))),
    "multi_steps": lambda radam, rate: optax.MultiSteps(radam(rate), 2),
    "masked": lambda radam, rate: optax.masked(radam(rate), {"w": True, "b": False}),
    "partition": _partition,
    "injected": _injected,
    "decay_masked": _decay_masked,
    "stages": _stages,
}


def _gradients(step):
    return jax.tree.map(
        lambda p: jnp.asarray(
            np.random.default_rng(step).standard_normal(p.shape), p.dtype
        ),
        PARAMS,
    )


def _run(optimizer, params, state, steps):
    chex.clear_trace_counter()  # which counts by place in the code
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    for step in steps:
        updates, state = update(_gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def _both_ways(where, rate):
    make = functools.partial(WHERE[where], rate=rate)
    ours, theirs = (make(radam) for radam in (optax_radam.radam, optax.radam))
    rates = {"b1": 0.9, "b2": 0.999}
    if where == "injected":
        rates = jax.tree.map(jnp.float32, rates)
    yield theirs, functools.partial(optax_radam.from_optax_state, **rates), ours
    yield ours, optax_radam.to_optax_state, theirs


@pytest.mark.parametrize("rate", [0.02, _RATE], ids=["constant", "scheduled"])
@pytest.mark.parametrize("where", WHERE)
def test_ten_and_ten_steps_are_twenty(where, rate):
    for first, convert, second in _both_ways(where, rate):
        params, state = _run(first, PARAMS, first.init(PARAMS), range(10))
        state = convert(state)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, second.init(PARAMS))
        params, _ = _run(second, params, state, range(10, 20))
        expected, _ = _run(second, PARAMS, second.init(PARAMS), range(20))
        # Optax's r_t is off by up to 0.6%, in steps 6 to 10 of size 0.02 r_t; ten
        # steps of the wrong moments or at the wrong count differ by 1e-2.
        chex.assert_trees_all_close(params, expected, atol=2e-5)


@pytest.mark.usefixtures("x64")
def test_closer_where_optax_is_more_exact():
    """In float64 a difference of 1e-10 is left, which is Optax's error."""
    params = jax.tree.map(lambda p: p.astype(jnp.float64), PARAMS)
    ours, theirs = optax_radam.radam(0.02), optax.radam(0.02)
    middle, state = _run(theirs, params, theirs.init(params), range(10))
    state = optax_radam.from_optax_state(state)
    actual, _ = _run(ours, middle, state, range(10, 20))
    expected, _ = _run(theirs, params, theirs.init(params), range(20))
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-9)


def test_after_a_checkpoint(tmp_path):
    """Orbax restores it with a target, as users of `optax.radam` do."""
    checkpoint = pytest.importorskip("orbax.checkpoint")
    theirs = optax.chain(optax.clip(1.5), optax.radam(_RATE))
    params, state = _run(theirs, PARAMS, theirs.init(PARAMS), range(10))
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "step", {"params": params, "state": state})
        checkpointer.wait_until_finished()
        target = {"params": PARAMS, "state": theirs.init(PARAMS)}
        restored = checkpointer.restore(tmp_path / "step", target)
    ours = optax.chain(optax.clip(1.5), optax_radam.radam(_RATE))
    state = optax_radam.from_optax_state(restored["state"])
    params, _ = _run(ours, restored["params"], state, range(10, 20))
    expected, _ = _run(ours, PARAMS, ours.init(PARAMS), range(20))
    chex.assert_trees_all_close(params, expected, atol=2e-5)


def test_dictionaries_of_a_checkpoint_are_refused_with_the_remedy():
    state = optax.radam(0.1).init(PARAMS)[0]._asdict()
    with pytest.raises(ValueError, match=r"`state` must hold a ScaleByAdamState.*init"):
        optax_radam.from_optax_state(state)


def test_within_a_train_state():
    """Any tree works; the rest of it does not change."""
    train_state = {"step": 3, "opt_state": optax.radam(0.1).init(PARAMS), "key": None}
    converted = optax_radam.from_optax_state(train_state)
    assert converted["step"] == 3
    chex.assert_trees_all_equal(
        converted["opt_state"], optax_radam.radam(0.1).init(PARAMS)
    )


def test_a_stage_alone_becomes_two():
    stages = optax_radam.scale_by_moments(), optax_radam.scale_by_rectification(0.999)
    converted = optax_radam.from_optax_state(optax.scale_by_radam().init(PARAMS))
    chex.assert_trees_all_equal(converted, optax.chain(*stages).init(PARAMS))


def test_batched_states():
    """States of many runs at once, by `jax.vmap`."""
    many = jnp.ones((3, 2))
    state = jax.vmap(optax.radam(0.1).init)(many)
    converted = optax_radam.from_optax_state(state)
    expected = jax.vmap(optax_radam.radam(0.1).init)(many)
    chex.assert_trees_all_equal_shapes_and_dtypes(converted, expected)


def test_dtypes_of_second_moments():
    params = {
        "half": jnp.ones(2, jnp.bfloat16),
        "complex": jnp.ones(2, jnp.complex64),
        "single": jnp.ones(2),
    }
    ours, theirs = optax_radam.radam(0.1), optax.radam(0.1)
    _, state = theirs.update(params, theirs.init(params))
    converted = optax_radam.from_optax_state(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(converted, ours.init(params))
    back = optax_radam.to_optax_state(converted)
    chex.assert_trees_all_equal(back, state)


def test_converted_state_can_be_donated_and_converted_under_jit():
    ours, theirs = optax_radam.radam(0.1), optax.radam(0.1)
    state = jax.jit(optax_radam.from_optax_state)(theirs.init(PARAMS))
    eager = optax_radam.from_optax_state(theirs.init(PARAMS))
    chex.assert_trees_all_equal(state, eager)
    jax.jit(ours.update, donate_argnums=1)(PARAMS, eager)


def test_second_moments_of_optax_that_have_overflowed_become_finite():
    theirs, ours = optax.radam(0.1), optax_radam.radam(0.1)
    spike = jax.tree.map(lambda p: jnp.full_like(p, 1e20), PARAMS)
    _, state = theirs.update(spike, theirs.init(PARAMS))
    assert jnp.all(jnp.isinf(state[0].nu["b"]))
    updates, state = ours.update(PARAMS, optax_radam.from_optax_state(state))
    chex.assert_tree_all_finite((updates, state))


def test_abstract_states():
    abstract = jax.eval_shape(optax.radam(0.1).init, PARAMS)
    converted = jax.eval_shape(optax_radam.from_optax_state, abstract)
    expected = jax.eval_shape(optax_radam.radam(0.1).init, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(converted, expected)


def test_states_that_cannot_be_converted():
    with pytest.raises(
        ValueError, match=r"must hold a ScaleByAdamState or a .*, and none is in"
    ):
        optax_radam.from_optax_state(optax.sgd(0.1).init(PARAMS))
    with pytest.raises(ValueError, match="must hold a ScaleByMomentsState"):
        optax_radam.to_optax_state(optax.radam(0.1).init(PARAMS))
    with pytest.raises(
        ValueError, match=r"AMSGrad's `nu_max`.*replace `nu_max` by None"
    ):
        optax_radam.to_optax_state(optax_radam.radam(0.1, amsgrad=True).init(PARAMS))
    moments = optax_radam.scale_by_moments().init(PARAMS)
    with pytest.raises(
        TypeError, match=r"convert it by `optax_radam.from_optax_state`"
    ):
        optax_radam.scale_by_moments().update(
            PARAMS, optax.scale_by_radam().init(PARAMS)
        )
    with pytest.raises(ValueError, match="must have a ScaleByRectificationState after"):
        optax_radam.to_optax_state(moments)
