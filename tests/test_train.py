"""The functions of experiments/train.py, without files, flags and groups."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from groups import in_double

from experiments import train
from experiments.train import Examples, Task

RATES = jnp.array([0.1, 0.3, 0.2])  # of the three steps of an epoch


@pytest.fixture(scope="module")
def linear():
    """Logits of 20 training and 7 test examples, linear in eight features."""
    random = np.random.default_rng(0)

    def examples(n):
        features = random.normal(size=(n, 8)).astype(np.float32)
        return jax.tree.map(jnp.asarray, Examples(features, np.arange(n) % 3))

    return Task(
        examples(20),
        examples(7),
        lambda rngs: nnx.Linear(8, 3, rngs=rngs),
        lambda model, inputs, key: model(inputs),
    )


def _momentum(rate):
    return optax.sgd(rate, momentum=0.9)


def _start(task, optimizer, seed=0):
    return jax.jit(functools.partial(train.init, task, optimizer))(seed)


def _step(task, optimizer):
    return jax.jit(functools.partial(train.train_step, task, optimizer))


def test_the_example_of_the_docstring():
    results = doctest.testmod(train)
    assert results.attempted > 5
    assert results.failed == 0


def _softmax_regression(weights, features, labels):
    """Summed cross-entropy, correct answers and summed gradient, in float64 NumPy."""
    kernel, bias = weights
    scores = features @ kernel + bias
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).sum()
    error = probabilities - np.eye(3)[labels]
    right = np.sum(scores.argmax(1) == labels)
    return loss, right, (features.T @ error, error.sum(0))


@pytest.mark.usefixtures("x64")
def test_an_epoch_is_the_plain_loop_over_unpadded_batches(linear):
    """20 examples in batches of 8: the third has 4, and is padded."""
    linear = in_double(linear)
    state, step = _start(linear, _momentum, seed=3), _step(linear, _momentum)
    weights = [np.float64(state.params[name][...]) for name in ("kernel", "bias")]
    velocity = [np.zeros_like(weight) for weight in weights]
    batches = train.batches(3, 0, 20, 8)
    loss_sum = correct = 0
    for position in range(3):
        state = step(linear.train, state, 3, batches, RATES)

        batch = batches.ravel()[8 * position : 20][:8]
        features, labels = (np.asarray(array)[batch] for array in linear.train)
        loss, right, gradients = _softmax_regression(weights, features, labels)
        loss_sum, correct = loss_sum + loss, correct + right
        for index, gradient in enumerate(gradients):
            velocity[index] = 0.9 * velocity[index] + gradient / len(batch)
            weights[index] = weights[index] - RATES[position] * velocity[index]

    np.testing.assert_allclose(state.params["kernel"][...], weights[0], rtol=1e-10)
    np.testing.assert_allclose(state.params["bias"][...], weights[1], rtol=1e-10)
    assert state.step == 3
    np.testing.assert_allclose(state.loss_sum, loss_sum, rtol=1e-5)
    assert state.correct == correct


def test_sums_begin_again_with_each_epoch(linear):
    state, step = _start(linear, _momentum), _step(linear, _momentum)
    sums = []
    for epoch in (0, 1):
        for _ in range(3):
            batches = train.batches(0, epoch, 20, 8)
            state = step(linear.train, state, 0, batches, jnp.zeros(3))
        sums.append((state.loss_sum, state.correct))
    np.testing.assert_allclose(*sums, rtol=1e-6)  # a rate of zero learns nothing


@pytest.mark.parametrize("batch_size", [3, 7, 1024])
def test_evaluation_covers_every_example_once(linear, monkeypatch, batch_size):
    """Evaluates in batches of 3, 3 and 1, or in one."""
    monkeypatch.setattr(train, "_EVALUATION_BATCH", batch_size)
    state = _start(linear, _momentum)
    loss, accuracy = train.evaluate(linear, linear.test, state.params, {})
    weights = [np.float64(state.params[name][...]) for name in ("kernel", "bias")]
    expected, right, _ = _softmax_regression(weights, *map(np.asarray, linear.test))
    np.testing.assert_allclose(loss, expected / 7, rtol=1e-5)
    np.testing.assert_allclose(accuracy, right / 7, rtol=1e-6)


def test_sums_leave_out_what_is_not_valid():
    logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0], [1.0, 1.0]]))
    labels = jnp.array([1, 0, 1])
    loss, right = jax.jit(train.sums)(logits, labels, jnp.array([True, True, False]))
    np.testing.assert_allclose(loss, np.log(4 / 3) + np.log(4), rtol=1e-6)
    assert right == 1


def test_an_example_with_several_labels_counts_by_the_mean_of_their_losses():
    logits = jnp.log(jnp.array([[[1.0, 3.0], [1.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]]]))
    labels = jnp.array([[1, 0], [1, 1]])
    loss, right = jax.jit(train.sums)(logits, labels, jnp.array([True, False]))
    np.testing.assert_allclose(loss, (np.log(4 / 3) + np.log(4)) / 2, rtol=1e-6)
    assert right == 1


def test_each_epoch_visits_every_example_once_in_an_order_of_its_own():
    orders = [train.batches(0, epoch, 20, 8).ravel() for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order[:20]), np.arange(20))
        np.testing.assert_array_equal(order[20:], order[:4])
    assert len({tuple(order.tolist()) for order in orders}) == 3
    assert not np.array_equal(orders[0], train.batches(1, 0, 20, 8).ravel())
    assert train.batches(0, 0, 16, 8).shape == (2, 8)


@pytest.mark.usefixtures("x64")
def test_indices_are_those_of_single_precision_in_double():
    assert train.batches(0, 0, 20, 8).dtype == jnp.int32


def test_every_seed_purpose_epoch_and_step_has_a_key_of_its_own():
    paths = [(train._WEIGHTS,), *((train._ORDER, epoch) for epoch in range(3))]
    paths += [(train._STEP, epoch, step) for epoch in range(3) for step in range(3)]
    keys = {
        tuple(jax.random.key_data(train.make_key(seed, *path)).tolist())
        for seed in (0, 1, 2**32 - 1)
        for path in paths
    }
    assert len(keys) == 3 * len(paths)


def test_a_seed_fixes_all_that_is_random_for_every_optimizer(linear):
    """At rate zero with one batch, losses show differences in weights and masks."""

    def logits(model, inputs, key):
        return model(inputs * jax.random.bernoulli(key, shape=inputs.shape))

    def losses(optimizer, seed):
        step, state = _step(task, optimizer), _start(task, optimizer, seed)
        found = []
        for _ in range(4):  # two epochs of two steps
            before = state.loss_sum if len(found) % 2 else 0
            state = step(task.train, state, seed, batches, jnp.zeros(2))
            found.append(float(state.loss_sum - before))
        return found

    task, batches = linear._replace(logits=logits), jnp.tile(jnp.arange(8), (2, 1))
    curves = [losses(optax.adam, seed) for seed in (0, 1)]
    assert [losses(optax.sgd, seed) for seed in (0, 1)] == curves
    different = {round(loss, 4) for curve in curves for loss in curve}
    assert len(different) == 8  # each step has masks of its own


class _Counting(nnx.Module):
    """A model that counts its training batches, in a statistic like BatchNorm's."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(8, 3, rngs=rngs)
        self.batches = nnx.BatchStat(jnp.zeros([]))

    def __call__(self, inputs, key):
        if key is not None:
            self.batches[...] += 1
        return self.linear(inputs)


def test_training_changes_statistics_and_evaluation_does_not(linear):
    task = linear._replace(
        make_model=_Counting, logits=lambda model, inputs, key: model(inputs, key)
    )
    state, step = _start(task, _momentum), _step(task, _momentum)
    for _ in range(2):
        state = step(task.train, state, 0, train.batches(0, 0, 20, 8), RATES)
    assert state.statistics["batches"][...] == 2
    train.evaluate(task, task.test, state.params, state.statistics)
    assert state.statistics["batches"][...] == 2
    assert state.opt_state[0].trace.keys() == {"linear"}
