import dataclasses
import typing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import problems
import pytest

import optax_radam


def _halving(count):
    return jnp.asarray(0.01 * 0.5 ** (np.arange(100) / 10))[count]


@pytest.mark.usefixtures("x64", "strict_promotion")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fallback": "skip"},
        {"fallback": "shifted"},
        {"fallback": "shifted", "b2": 0.9, "threshold": 12.5, "nesterov": True},
        {"b1": 0.0, "b2": 0.95},
        {"b1": 0.5, "b2": 0.99999},
        {"eps": 1e-2, "eps_root": 1e-3},
        {"threshold": 4.0},
        {"threshold": 20.5, "fallback": "skip"},
        {"weight_decay": 0.1, "start": 1.0},
        {"weight_decay": _halving, "start": 1.0},
        {"learning_rate": _halving},
        {"nesterov": True},
        {"nesterov": True, "fallback": "skip", "b1": 0.5},
        {"amsgrad": True, "b2": 0.9},
        {"amsgrad": True, "nesterov": True, "eps_root": 1e-3},
    ],
    ids=lambda settings: "-".join(settings) or "defaults",
)
def test_follows_algorithm_2_in_float64(settings):
    settings = {"learning_rate": 0.01, **settings}
    start = settings.pop("start", 0.0)
    gradients = problems.normal_gradients(100, 4)
    expected = oracles.radam_trajectory(gradients, start=start, **settings)
    actual = problems.trajectory(optax_radam.radam(**settings), gradients, start)
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-13)


def test_follows_algorithm_2_in_float32():
    gradients = problems.normal_gradients(300, 4)
    expected = oracles.radam_trajectory(gradients, 1e-3)
    single = jnp.asarray(gradients, jnp.float32)
    actual = problems.trajectory(optax_radam.radam(1e-3), single)
    # Measured 3e-7: the rounding of 300 additions to parameters of size 0.1.
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_complex_parameters_have_a_real_second_moment():
    parts = problems.normal_gradients(20, 2, 3)
    gradients = (parts[:, 0] + 1j * parts[:, 1]).astype(np.complex64)
    expected = oracles.radam_trajectory(gradients, 0.01)
    actual = problems.trajectory(optax_radam.radam(0.01), gradients)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    state = optax_radam.radam(0.01).init(jnp.zeros(3, jnp.complex64))
    assert optax.tree.get(state, "nu").dtype == jnp.float32


@pytest.mark.parametrize("fallback", ["momentum", "skip", "shifted"])
def test_is_the_chain_built_by_hand_bit_for_bit(fallback):
    radam = optax_radam.radam(
        1e-2, 0.8, 0.99, 1e-6, 1e-9, 4.5, fallback=fallback, weight_decay=0.1
    )
    threshold, factor = {
        "momentum": (4.5, {"before": 1.0}),
        "skip": (4.5, {"before": 0.0}),
        "shifted": (None, {"shifted": True}),
    }[fallback]
    by_hand = optax.chain(
        optax_radam.scale_by_moments(0.8, 0.99, 1e-6, 1e-9, threshold),
        optax_radam.scale_by_rectification(0.99, 4.5, **factor),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(1e-2),
    )
    params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
    states = [radam.init(params), by_hand.init(params)]
    chex.assert_trees_all_equal(*states)
    random = np.random.default_rng(0)
    for _ in range(10):
        gradients = jax.tree.map(
            lambda p: jnp.asarray(random.standard_normal(p.shape), p.dtype), params
        )
        updates, states = zip(
            *(
                jax.jit(transform.update)(gradients, state, params)
                for transform, state in zip((radam, by_hand), states, strict=True)
            ),
            strict=True,
        )
        chex.assert_trees_all_equal(*updates)
        chex.assert_trees_all_equal(*states)


MASKS = {
    "tree": {"net": {"w": True, "b": False}, "head": True},
    "prefix": {"net": False, "head": True},
    "function": lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mask", MASKS)
def test_mask_says_what_decays(mask):
    shapes = {"net": {"w": (2, 3), "b": (3,)}, "head": (3, 1)}
    decays = {
        "tree": {"net": {"w": True, "b": False}, "head": True},
        "prefix": {"net": {"w": False, "b": False}, "head": True},
        "function": {"net": {"w": True, "b": False}, "head": True},
    }[mask]
    gradients = jax.tree.map(
        lambda shape: problems.normal_gradients(10, *shape, seed=len(shape)),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    optimizer = optax_radam.radam(0.01, weight_decay=0.1, mask=MASKS[mask])
    actual = problems.trajectory(optimizer, gradients, start=1.0)
    expected = jax.tree.map(
        lambda g, decay: oracles.radam_trajectory(
            g, 0.01, weight_decay=0.1 * decay, start=1.0
        ),
        gradients,
        decays,
    )
    chex.assert_trees_all_close(actual, expected, rtol=1e-11)


@pytest.mark.parametrize("mask", MASKS)
def test_missing_gradients_under_a_mask(mask):
    params = {
        "net": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)},
        "head": jnp.ones((3, 1)),
    }
    optimizer = optax_radam.radam(0.01, weight_decay=0.1, mask=MASKS[mask])
    state = optimizer.init(params)
    for gradients in (params | {"net": None}, params | {"head": None}):
        updates, state = optimizer.update(gradients, state, params)
        chex.assert_trees_all_equal_structs(updates, gradients)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Model:
    """A tree that can be called, like Equinox's models."""

    w: typing.Any
    b: typing.Any

    def __call__(self, x):
        return x @ self.w + self.b


@pytest.mark.parametrize(
    "mask",
    [_Model(True, False), lambda params: _Model(True, False)],
    ids=["tree", "function"],
)
def test_mask_may_be_a_model(mask):
    params = _Model(jnp.ones((2, 2)), jnp.ones(2))
    optimizer = optax_radam.radam(0.1, weight_decay=0.1, mask=mask)
    gradients = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    chex.assert_trees_all_close(updates, _Model(-0.01 * params.w, 0 * params.b))


def test_traced_masks_are_refused():
    params = jnp.ones(2)
    optimizer = optax_radam.radam(0.1, weight_decay=0.1, mask=lambda p: jnp.any(p > 0))
    with pytest.raises(TypeError, match=r"`mask` is .*Tracer.* a tree of booleans"):
        jax.jit(optimizer.update)(params, optimizer.init(params), params)


def test_mask_may_be_bare_where_the_parameters_are():
    optimizer = optax_radam.radam(0.1, weight_decay=0.1, mask=lambda p: p.ndim > 1)
    params = jnp.ones(2)
    updates, _ = optimizer.update(0 * params, optimizer.init(params), params)
    np.testing.assert_array_equal(updates, 0)


@pytest.mark.parametrize(
    "weight_decay",
    [0.1, jnp.float32(0.1), optax.constant_schedule(0.1)],
    ids=["number", "array", "schedule"],
)
def test_decay_keeps_16_bit_updates(weight_decay):
    optimizer = optax_radam.radam(0.1, weight_decay=weight_decay)
    params = jnp.ones(2, jnp.bfloat16)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates.dtype == jnp.bfloat16


def test_update_passes_extra_arguments_on():
    optimizer = optax.with_extra_args_support(optax_radam.radam(0.1))
    params = jnp.ones(2)
    state = optimizer.init(params)
    with_extra, _ = optimizer.update(params, state, params, value=1.0, unknown=None)
    without, _ = optimizer.update(params, state)
    np.testing.assert_array_equal(with_extra, without)


def test_params_are_needed_only_for_a_decay():
    gradients = jnp.ones(2)
    for optimizer in (optax_radam.radam(0.1), optax_radam.radam(0.1, weight_decay=0)):
        optimizer.update(gradients, optimizer.init(gradients))
    for decay in (0.1, jnp.float32(0), optax.constant_schedule(0.0)):
        optimizer = optax_radam.radam(0.1, weight_decay=decay)
        state = optimizer.init(gradients)
        with pytest.raises(ValueError, match="params"):
            optimizer.update(gradients, state)
        optimizer.update(gradients, state, gradients)


def test_injected_decays_need_params_unless_static():
    gradients = jnp.ones(2)
    injected = optax.inject_hyperparams(optax_radam.radam)(learning_rate=0.1)
    with pytest.raises(ValueError, match="params"):
        injected.update(gradients, injected.init(gradients))
    make = optax.inject_hyperparams(optax_radam.radam, static_args=("weight_decay",))
    injected = make(learning_rate=0.1)
    injected.update(gradients, injected.init(gradients))


def test_state_does_not_depend_on_the_values_of_numbers():
    def structure(**settings):
        state = optax_radam.radam(**settings).init(jnp.ones(2))
        return jax.tree.structure(state)

    assert structure(learning_rate=0.0) == structure(
        learning_rate=0.1, weight_decay=0.1, eps_root=1.0, fallback="skip"
    )


@pytest.mark.parametrize(
    "learning_rate",
    [0.1, jnp.float32(0.1), optax_radam.warmup_linear_decay_schedule(0.1, 10)],
    ids=["number", "array", "schedule"],
)
def test_one_trace_for_every_schedule(learning_rate):
    optimizer = optax_radam.radam(learning_rate)
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1), donate_argnums=1)
    state = optimizer.init(jnp.ones(2))
    for _ in range(12):
        _, state = update(jnp.ones(2), state)


def test_reports_of_the_state():
    optimizer = optax_radam.radam(optax.constant_schedule(0.1))
    state = optimizer.init(jnp.ones(2))
    for _ in range(6):
        _, state = optimizer.update(jnp.ones(2), state)
    expected = float(oracles.rectification(6, 0.999))
    actual = optax.tree.get(state, "rectification")
    np.testing.assert_allclose(actual, expected, rtol=5e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"mask": lambda params: jax.tree.map(lambda p: p.ndim > 1, params)},
            r"`mask` is False; .*`static_args=\('mask',\)`",
        ),
        ({"mu_dtype": jnp.float32}, r"`mu_dtype` .*`static_args=\('mu_dtype',\)`"),
    ],
    ids=["mask", "mu_dtype"],
)
def test_what_optax_takes_for_a_schedule_is_refused_with_the_remedy(settings, message):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    with pytest.raises(TypeError, match=message):
        optax.inject_hyperparams(optax_radam.radam)(0.1, **settings).init(params)
    make = optax.inject_hyperparams(optax_radam.radam, static_args=tuple(settings))
    make(0.1, **settings).init(params)


def test_injected_numbers_of_16_bit_parameters():
    """0.999 is 1 in bfloat16."""
    params = jnp.ones(2, jnp.bfloat16)
    make = optax.inject_hyperparams(optax_radam.radam)
    with pytest.raises(ValueError, match=r"`b2` must be a number in .* got .*bfloat16"):
        make(0.1).init(params)
    make = optax.inject_hyperparams(optax_radam.radam, hyperparam_dtype=jnp.float32)
    optimizer = make(0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert jnp.all(jnp.isfinite(updates))


@pytest.mark.parametrize(
    "params", [{"w": jnp.ones((5, 2))}, {"v": jnp.ones(2)}, None], ids=str
)
def test_decay_refuses_other_parameters(params):
    optimizer = optax_radam.radam(0.1, weight_decay=0.1)
    gradients = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="params"):
        optimizer.update(gradients, optimizer.init(gradients), params)


_MASK = {"w": True, "b": False}


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (True, TypeError, "`mask` is True; `mask` must be None, a tree of booleans"),
        (0.5, TypeError, "`mask` is 0.5; .* or a function from the parameters"),
        (float, TypeError, "`mask` is <class 'float'>"),
        ("w", TypeError, "`mask` is 'w'"),
        (_MASK | {"b": 1}, TypeError, r"`mask\['b'\]` is 1"),
        (_Model(True, 0), TypeError, r"`mask.b` is 0"),
        (_MASK | {"b": [True, "no"]}, TypeError, r"`mask\['b'\]\[1\]` is 'no'"),
        (_MASK | {"b": np.ones(2, bool)}, TypeError, r"`mask\['b'\]` is array"),
        (lambda params: _MASK | {"w": None, "b": 2}, TypeError, r"`mask\['b'\]` is 2"),
        ({"w": True}, ValueError, "`mask` must be a prefix of the tree of `params`"),
        (
            lambda params: {"w": True},
            ValueError,
            "`mask` must be a prefix of the tree of `params`",
        ),
    ],
    ids=[
        "bool",
        "number",
        "class",
        "string",
        "int_leaf",
        "int_leaf_of_model",
        "string_leaf",
        "array_leaf",
        "leaf_of_function",
        "other_tree",
        "other_tree_of_function",
    ],
)
def test_bad_masks(mask, error, message):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    with pytest.raises(error, match=message):
        optax_radam.radam(0.1, mask=mask).init(params)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"learning_rate": -0.1}, ValueError, "`learning_rate` must be .* got -0.1"),
        ({"learning_rate": np.nan}, ValueError, "`learning_rate` must be .* got nan"),
        ({"learning_rate": "1"}, TypeError, "`learning_rate` must be .* got '1'"),
        ({"weight_decay": -1}, ValueError, "`weight_decay` must be .* got -1"),
        ({"weight_decay": None}, TypeError, "`weight_decay` must be .* got None"),
        (
            {"fallback": "sgd"},
            ValueError,
            r"`fallback` must be one of \('momentum', 'skip', 'shifted'\), got 'sgd'",
        ),
        ({"fallback": np.array(["skip"])}, ValueError, "`fallback` must be one of"),
        ({"learning_rate": float}, TypeError, "`learning_rate` must be .* got <class"),
        ({"threshold": None}, TypeError, "`threshold` must be .* >= 4, got None"),
        ({"b1": 1}, ValueError, r"`b1` must be a number in \[0, 1\), got 1"),
        ({"nesterov": 1}, TypeError, "`nesterov` must be True or False, got 1"),
        ({"amsgrad": None}, TypeError, "`amsgrad` must be True or False, got None"),
        ({"mu_dtype": "int8"}, TypeError, "`mu_dtype` must be .* got 'int8'"),
        ({"nu_dtype": jnp.float16}, ValueError, "`nu_dtype` must be .* at least 32"),
        ({"b2": 2 / 3}, ValueError, r"`b2` must be in \(0.666666667, 1\)"),
    ],
)
def test_bad_arguments(settings, error, message):
    with pytest.raises(error, match=message):
        optax_radam.radam(**{"learning_rate": 0.1, **settings})
