"""Least squares trained by Keras, compared with a plain Optax loop."""

import os

import jax
import numpy as np
import optax
import pytest

import optax_radam

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")

from examples.keras_optimizer import OptaxOptimizer  # noqa: E402

_RNG = np.random.default_rng(0)
X, Y = (_RNG.normal(size=(64, n)).astype("float32") for n in (3, 2))
RATE, FEWER = 0.05, 0.5  # and the factor that a callback may set
MASKED = [True, False]  # the kernel, and the bias


@keras.saving.register_keras_serializable("tests")
def decayed():
    return optax_radam.radam(
        optax.exponential_decay(RATE, 10, 0.5),
        b2=0.99,
        fallback="skip",
        weight_decay=0.1,
        mask=MASKED,
    )


@keras.saving.register_keras_serializable("tests")
def schedule_free():
    return optax_radam.schedule_free_radam(RATE, b2=0.99)


MAKERS = pytest.mark.parametrize("make", [decayed, schedule_free])


def _model(make):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(OptaxOptimizer(make), "mse")
    return model


def _fit(model, epochs=3):
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
    return model.fit(X, Y, epochs=epochs, **arguments).history["loss"]


def _values(model):
    return [np.asarray(v) for v in [*model.variables, *model.optimizer.variables]]


@MAKERS
def test_fit_equals_a_plain_loop(make):
    model, optimizer = _model(make), make()
    params = [v.value for v in model.trainable_variables]
    # Copied, since Keras donates them.
    params = jax.tree.map(jax.numpy.array, params)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y):
        gradients = jax.grad(
            lambda p: jax.numpy.mean((x @ p[0] + p[1] - y) ** 2),
        )(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        for start in range(0, len(X), 16):
            batch = slice(start, start + 16)
            params, state = step(params, state, X[batch], Y[batch])
    _fit(model)
    expected = jax.tree.leaves((params, state))
    actual = [v.value for v in model.trainable_variables], model.optimizer.state
    assert jax.tree.structure(actual[1]) == jax.tree.structure(state)
    for one, other in zip(jax.tree.leaves(actual), expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert optax.tree.get(model.optimizer.state, "rectification") > 0


# Keras 3.15 converts JAX's arrays while it saves, as NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@MAKERS
def test_a_saved_model_continues_bit_for_bit(make, tmp_path):
    model = _model(make)
    _fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert _fit(loaded) == _fit(model)
    for one, other in zip(_values(loaded), _values(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_learning_rate_is_a_factor_on_updates():
    model = _model(decayed)
    model.optimizer.build(model.trainable_variables)
    gradients = [np.ones(v.shape, "float32") for v in model.trainable_variables]
    for _ in range(5):  # of "skip"
        model.optimizer.apply(gradients)
    optimizer, state = decayed(), model.optimizer.state
    params = [v.value for v in model.trainable_variables]
    updates, _ = optimizer.update(gradients, state, params)
    model.optimizer.learning_rate = FEWER
    model.optimizer.apply(gradients)
    for old, update, new in zip(
        params, updates, model.trainable_variables, strict=True
    ):
        assert np.all(update != 0)
        np.testing.assert_allclose(new.value, old + FEWER * update, rtol=1e-6)


def test_a_transformation_in_place_of_its_maker_is_refused():
    with pytest.raises(TypeError, match="`make` must be a function without arguments"):
        OptaxOptimizer(optax_radam.radam(RATE))
