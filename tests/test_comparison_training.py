import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from made_up import made_up_dataset, made_up_task

from experiments.cifar10 import model
from experiments.cifar10.config import Config
from experiments.cifar10.model import CNN
from experiments.comparison import optimizers, training
from experiments.comparison.config import Arm, Run

# 20 images in batches of 8: the third has 4, and is padded.
CONFIG = Config(epochs=2, batch_size=8, learning_rates=(0.05,))
ADAM, RADAM, SGD = (Arm(name, "constant") for name in ("adam", "radam", "sgd"))


@pytest.fixture(scope="module")
def trainer():
    return training.Trainer(made_up_task(), CONFIG)


def _cross_entropies(logits, labels):
    logits = np.asarray(logits, np.float64)
    log_sums = np.log(np.exp(logits).sum(axis=1))
    return log_sums - logits[np.arange(len(labels)), labels]


def test_schedule_free_runs_are_evaluated_with_averaged_weights(trainer, monkeypatch):
    run = Run(Arm("schedule-free-radam", "constant"), 0.05, seed=0)
    averages = []

    def average(state, params):
        averages.append(jax.tree.map(lambda y, z: (y - 0.1 * z) / 0.9, params, state.z))
        return params

    entry = optimizers.OPTIMIZERS["schedule-free-radam"]
    with monkeypatch.context() as patch:
        patch.setitem(
            optimizers.OPTIMIZERS,
            "schedule-free-radam",
            entry._replace(evaluated=average),
        )
        *_, as_trained = trainer.train(run)
    *_, metrics = trainer.train(run)
    loss, accuracy = trainer.evaluate(averages[-1])
    np.testing.assert_allclose(metrics.test_loss, loss, rtol=1e-5)
    assert metrics.test_accuracy == accuracy
    assert metrics.test_loss != as_trained.test_loss


def test_an_epoch_is_the_plain_loop_over_unpadded_batches(monkeypatch):
    """Without dropout, whose masks a padded batch would draw differently."""
    monkeypatch.setattr(model, "DROPOUT_RATE", 0.0)
    dataset = made_up_dataset()
    trainer = training.Trainer(made_up_task(), dataclasses.replace(CONFIG, epochs=1))
    run = Run(SGD, 0.05, seed=3)
    params = trainer.initial_state(run).params
    (metrics,) = trainer.train(run)

    graphdef = nnx.graphdef(CNN((8, 8, 1), 3, rngs=nnx.Rngs(0)))
    optimizer = optax.sgd(0.05, momentum=0.9)
    state = optimizer.init(params)
    order = trainer._order(jax.random.key(3), 0)[:20]
    losses, right = [], []

    @jax.jit
    def gradients_and_logits(params, pixels, labels):
        def loss(params):
            logits = nnx.merge(graphdef, params)(pixels)
            chosen = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
            return -jnp.mean(chosen), logits

        return jax.grad(loss, has_aux=True)(params)

    for start in (0, 8, 16):
        batch = order[start : start + 8]
        pixels = jnp.float32(dataset.train_inputs[batch]) / 16
        labels = dataset.train_labels[batch]
        gradients, logits = gradients_and_logits(params, pixels, labels)
        losses.extend(_cross_entropies(logits, labels))
        right.extend(np.argmax(logits, axis=1) == labels)
        updates, state = optimizer.update(gradients, state)
        params = optax.apply_updates(params, updates)
    logits = nnx.merge(graphdef, params)(jnp.float32(dataset.test_inputs) / 16)

    assert metrics.epoch == 1
    assert metrics.step == 3
    np.testing.assert_allclose(metrics.train_loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics.train_accuracy, np.mean(right))
    expected = _cross_entropies(logits, dataset.test_labels).mean()
    np.testing.assert_allclose(metrics.test_loss, expected, rtol=1e-4)
    expected = np.mean(np.argmax(logits, axis=1) == dataset.test_labels)
    np.testing.assert_allclose(metrics.test_accuracy, expected)
    assert metrics.examples_per_second == pytest.approx(20 / metrics.seconds)


def test_a_seed_fixes_all_that_is_random_for_every_arm(trainer):
    """At a rate that moves nothing, all arms see the same images and masks."""
    curves = {
        (arm, seed): [
            (m.train_loss, m.test_loss) for m in trainer.train(Run(arm, 1e-30, seed))
        ]
        for arm in (ADAM, RADAM)
        for seed in (0, 1)
    }
    assert curves[ADAM, 0] == curves[RADAM, 0]
    assert curves[ADAM, 1] == curves[RADAM, 1]
    assert curves[ADAM, 0] != curves[ADAM, 1]
    first, second = curves[ADAM, 0]
    assert first[0] != second[0]  # other batches and masks in the second epoch,
    np.testing.assert_allclose(first[0], second[0], rtol=0.5)  # and sums begun anew
    assert first[1] == second[1]


def test_runs_repeat_exactly_and_are_traced_once_for_all_rates(monkeypatch):
    step = chex.assert_max_traces(training.Trainer._step, n=1)
    monkeypatch.setattr(
        training.Trainer, "_step", lambda self, arm, *rest: step(self, arm, *rest)
    )
    chex.clear_trace_counter()
    trainer = training.Trainer(made_up_task(), CONFIG)

    def curve(rate, seed):
        untimed = [m[:-2] for m in trainer.train(Run(RADAM, rate, seed))]
        return untimed, [m.step for m in trainer.train(Run(RADAM, rate, seed))]

    first, steps = curve(0.05, 0)
    assert steps == [3, 6]
    assert curve(0.05, 0)[0] == first
    assert curve(0.01, 0)[0] != first
    assert curve(0.05, 1)[0] != first


def test_each_epoch_visits_every_image_once_in_an_order_of_its_own():
    root = jax.random.key(0)
    orders = [training.epoch_order(root, epoch, 20, 8) for epoch in range(3)]
    for order in orders:
        assert order.shape == (24,)
        np.testing.assert_array_equal(np.sort(order[:20]), np.arange(20))
        np.testing.assert_array_equal(order[20:], 0)
    assert not np.array_equal(orders[0], orders[1])
    assert training.epoch_order(root, 0, 16, 8).shape == (16,)


def test_every_step_has_dropout_masks_of_its_own():
    roots = [jax.random.key(seed) for seed in range(2)]
    keys = [
        training.dropout_key(root, epoch, position)
        for root in roots
        for epoch in range(3)
        for position in range(3)
    ]
    keys += [jax.random.fold_in(root, purpose) for root in roots for purpose in (0, 1)]
    distinct = {tuple(jax.random.key_data(key).tolist()) for key in keys}
    assert len(distinct) == len(keys)


def test_evaluation_covers_the_test_images_in_partial_batches(monkeypatch):
    whole = training.Trainer(made_up_task(), CONFIG)
    params = whole.initial_state(Run(ADAM, 0.1, 0)).params
    monkeypatch.setattr(training, "_EVALUATION_BATCH", 3)  # 3 + 3 + 1 of 7
    parts = training.Trainer(made_up_task(), CONFIG).evaluate(params)
    np.testing.assert_allclose(parts, whole.evaluate(params), rtol=1e-6)


def test_learning_rates_reach_the_optimizer_as_scheduled(trainer):
    """One step of SGD moves parameters by the first rate of the schedule."""
    schedules = {
        "constant": 0.05,
        "untuned-linear-warmup": 0.05 * 0.001 / 2,
        # The run has 6 steps: a warmup of 0.6, then a line to 1e-5 at step 6.
        "warmup-linear-decay": 0.05 + (1e-5 - 0.05) * (1 - 0.6) / (6 - 0.6),
    }
    order = trainer._order(jax.random.key(0), 0)
    moved = {}
    for schedule in schedules:
        run = Run(Arm("sgd", schedule), 0.05, 0)
        before = trainer.initial_state(run)
        after = trainer._compiled_step(run.arm, before)(
            trainer.initial_state(run),
            *trainer._train_data,
            order,
            jax.random.key(0),
            jnp.float32(0.05),
        )
        difference = jax.tree.map(jnp.subtract, after.params, before.params)
        moved[schedule] = float(optax.tree.norm(difference))
    for schedule, rate in schedules.items():
        ratio = moved[schedule] / moved["constant"]
        np.testing.assert_allclose(ratio, rate / 0.05, rtol=1e-3)


def test_progress_is_told_at_the_end_of_each_epoch(trainer):
    told = []
    metrics = list(trainer.train(Run(ADAM, 0.05, 0), told.append))
    assert [p.epoch for p in told if p.examples == 20] == [1, 2]
    ends = [p.loss for p in told if p.examples == 20]
    np.testing.assert_allclose(ends, [m.train_loss for m in metrics])


def test_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(ValueError, match="--batch-size must be at most 20"):
        training.Trainer(made_up_task(), dataclasses.replace(CONFIG, batch_size=21))
