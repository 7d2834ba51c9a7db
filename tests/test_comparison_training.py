import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from made_up import made_up_dataset, made_up_task, small_task
from trained import difference, in_float64, state_after

from experiments.cifar10 import model
from experiments.cifar10.config import Config
from experiments.cifar10.model import CNN
from experiments.comparison import population, randomness, training
from experiments.comparison.config import Arm, Run

# 20 images in batches of 8: the third has 4, and is padded.
CONFIG = Config(epochs=2, batch_size=8, learning_rates=(0.05,))
ADAM, RADAM, SGD = (Arm(name, "constant") for name in ("adam", "radam", "sgd"))


@pytest.fixture(scope="module")
def trainer():
    return training.Trainer(small_task(), CONFIG)


def _train(trainer, run, **options):
    """The metrics of a run alone."""
    return [metrics for _, (metrics,) in trainer.train([run], **options)]


def _cross_entropies(logits, labels):
    logits = np.asarray(logits, np.float64)
    log_sums = np.log(np.exp(logits).sum(axis=1))
    return log_sums - logits[np.arange(len(labels)), labels]


def test_schedule_free_runs_are_evaluated_with_averaged_weights(trainer):
    run = Run(Arm("schedule-free-radam", "constant"), 0.05, seed=0)
    *_, (state, (metrics,)) = trainer.train([run])
    trained, z = state.train.weights.params, state.train.opt_state.z
    average = jax.tree.map(lambda y, z: (y - 0.1 * z) / 0.9, trained, z)
    weights = state.train.weights._replace(params=average)
    (loss,), (accuracy,) = trainer.evaluate(weights, trainer._test)
    np.testing.assert_allclose(metrics.test_loss, loss, rtol=1e-5)
    assert metrics.test_accuracy == accuracy
    assert (
        metrics.test_loss != trainer.evaluate(state.train.weights, trainer._test)[0][0]
    )


def test_an_epoch_is_the_plain_loop_over_unpadded_batches(monkeypatch):
    """Without dropout, whose masks a padded batch would draw differently."""
    monkeypatch.setattr(model, "DROPOUT_RATE", 0.0)
    dataset = made_up_dataset()
    trainer = training.Trainer(made_up_task(), dataclasses.replace(CONFIG, epochs=1))
    run = Run(SGD, 0.05, seed=3)
    params = jax.tree.map(
        lambda x: x[0], trainer.initial_state([run]).train.weights.params
    )
    (metrics,) = _train(trainer, run)

    graphdef = nnx.graphdef(CNN((8, 8, 1), 3, rngs=nnx.Rngs(0)))
    optimizer = optax.sgd(0.05, momentum=0.9)
    state = optimizer.init(params)
    order = randomness.epoch_order(jax.random.key(3), 0, 20, 8)[:20]
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
            (m.train_loss, m.test_loss) for m in _train(trainer, Run(arm, 1e-30, seed))
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


@pytest.mark.parametrize("steps_per_call", [1, 2])  # of three in an epoch
def test_runs_repeat_exactly_and_are_traced_once_for_all_rates_and_schedules(
    monkeypatch, steps_per_call
):
    monkeypatch.setitem(training.STEPS_PER_CALL, "cpu", steps_per_call)
    step = chex.assert_max_traces(training.Trainer._step, n=1)
    monkeypatch.setattr(
        training.Trainer, "_step", lambda self, name, *rest: step(self, name, *rest)
    )
    chex.clear_trace_counter()
    trainer = training.Trainer(small_task(), CONFIG)

    def curve(rate, seed, schedule="constant"):
        run = Run(Arm("radam", schedule), rate, seed)
        metrics = _train(trainer, run)
        return [m[:-2] for m in metrics], [m.step for m in metrics]

    first, steps = curve(0.05, 0)
    assert steps == [3, 6]
    assert curve(0.05, 0)[0] == first
    assert curve(0.01, 0)[0] != first
    assert curve(0.05, 1)[0] != first
    assert curve(0.05, 0, "untuned-linear-warmup")[0] != first


def test_each_epoch_visits_every_image_once_in_an_order_of_its_own():
    root = jax.random.key(0)
    orders = [randomness.epoch_order(root, epoch, 20, 8) for epoch in range(3)]
    for order in orders:
        assert order.shape == (24,)
        np.testing.assert_array_equal(np.sort(order[:20]), np.arange(20))
        np.testing.assert_array_equal(order[20:], order[:4])
    assert not np.array_equal(orders[0], orders[1])
    assert randomness.epoch_order(root, 0, 16, 8).shape == (16,)


def test_every_step_has_dropout_masks_of_its_own():
    roots = [jax.random.key(seed) for seed in range(2)]
    keys = [
        randomness.step_key(root, epoch, position)
        for root in roots
        for epoch in range(3)
        for position in range(3)
    ]
    keys += [jax.random.fold_in(root, purpose) for root in roots for purpose in (0, 1)]
    distinct = {tuple(jax.random.key_data(key).tolist()) for key in keys}
    assert len(distinct) == len(keys)


def test_evaluation_covers_the_test_images_in_partial_batches(monkeypatch):
    whole = training.Trainer(small_task(), CONFIG)
    weights = whole.initial_state([Run(ADAM, 0.1, 0)]).train.weights
    monkeypatch.setattr(training, "_EVALUATION_BATCH", 3)  # 3 + 3 + 1 of 7
    parts = training.Trainer(small_task(), CONFIG).evaluate(weights, whole._test)
    np.testing.assert_allclose(parts, whole.evaluate(weights, whole._test), rtol=1e-6)


def test_learning_rates_reach_the_optimizer_as_scheduled(trainer):
    """One step of SGD moves parameters by the first rate of the schedule."""
    schedules = {
        "constant": 0.05,
        "untuned-linear-warmup": 0.05 * 0.001 / 2,
        # The run has 6 steps: a warmup of 0.6, then a line to 1e-5 at step 6.
        "warmup-linear-decay": 0.05 + (1e-5 - 0.05) * (1 - 0.6) / (6 - 0.6),
    }
    runs = [Run(Arm("sgd", schedule), 0.05, 0) for schedule in schedules]
    before = trainer.initial_state(runs).train.weights.params
    after = state_after(trainer, runs, 1).train.weights.params
    moved = jax.vmap(optax.tree.norm)(jax.tree.map(jnp.subtract, after, before))
    expected = np.array(list(schedules.values())) / 0.05
    np.testing.assert_allclose(moved / moved[0], expected, rtol=1e-3)


_DIFFERENT_RUNS = [
    Run(Arm("radam", "constant"), 3e-3, seed=0),
    Run(Arm("radam", "warmup-linear-decay"), 1e-3, seed=1),
    Run(Arm("radam", "untuned-linear-warmup"), 3e-3, seed=0),
]
_MANY_EPOCHS = Config(epochs=17, batch_size=8, b2=0.9)


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_run_in_a_group_is_the_run_alone(monkeypatch, side_by_side):
    if side_by_side:
        monkeypatch.setattr(population, "SEQUENTIAL_PLATFORMS", set())
    trainer = training.Trainer(small_task(), _MANY_EPOCHS)
    for steps, tolerance in ((1, 1e-5), (50, 1e-3)):
        group = state_after(trainer, _DIFFERENT_RUNS, steps)
        for index, run in enumerate(_DIFFERENT_RUNS):
            alone = state_after(trainer, [run], steps)
            assert difference(group, alone, index) < tolerance


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_run_in_a_group_is_the_run_alone_to_ten_digits(
    x64, monkeypatch, side_by_side
):
    if side_by_side:
        monkeypatch.setattr(population, "SEQUENTIAL_PLATFORMS", set())

    trainer = training.Trainer(small_task(), _MANY_EPOCHS)
    runs = _DIFFERENT_RUNS
    group = state_after(trainer, runs, 50, in_float64(trainer.initial_state(runs)))
    for index, run in enumerate(runs):
        start = in_float64(trainer.initial_state([run]))
        alone = state_after(trainer, [run], 50, start)
        assert alone.train.weights.params.logits.kernel[...].dtype == jnp.float64
        assert difference(group, alone, index) < 1e-10


def test_training_goes_on_from_any_step_as_if_nothing_had_been():
    config = dataclasses.replace(CONFIG, epochs=3, validation=5)
    trainer = training.Trainer(small_task(), config)
    runs = [Run(ADAM, 0.05, 0), Run(ADAM, 0.01, 1)]
    whole = [metrics for _, metrics in trainer.train(runs)]
    assert trainer.steps_per_epoch == 2
    for steps in (1, 2, 3):
        state = state_after(trainer, runs, steps)
        rest = [metrics for _, metrics in trainer.train(runs, state)]
        for expected, actual in zip(reversed(whole), reversed(rest), strict=False):
            assert [m[:-2] for m in actual] == [m[:-2] for m in expected]
        assert len(rest) == 3 - steps // 2


def test_steps_of_one_call_are_those_of_one_call_each(monkeypatch):
    config = dataclasses.replace(CONFIG, batch_size=3)  # 7 steps in an epoch
    one = training.Trainer(small_task(), config)
    monkeypatch.setitem(training.STEPS_PER_CALL, "cpu", 5)
    five = training.Trainer(small_task(), config)
    runs = [Run(ADAM, 0.05, 0), Run(ADAM, 0.01, 1)]

    def assert_same_metrics(actual, expected):
        for of_epoch in zip(actual, expected, strict=True):
            for mine, theirs in zip(*of_epoch, strict=True):
                numbers = [[n for n in m[:-2] if n is not None] for m in (mine, theirs)]
                np.testing.assert_allclose(*numbers, rtol=1e-5)

    calls = []
    whole = [m for _, m in five.train(runs, after_call=lambda _, n: calls.append(n))]
    assert calls == [5, 12]  # and the ends of the epochs
    assert_same_metrics(whole, [metrics for _, metrics in one.train(runs)])
    for steps, calls in ((1, [6, 12]), (8, [13])):
        told, state = [], state_after(one, runs, steps)
        rest = five.train(runs, state, lambda _, n, told=told: told.append(n))
        rest = [metrics for _, metrics in rest]
        assert_same_metrics(rest, whole[-len(rest) :])
        assert told == calls


def test_held_out_examples_choose_and_the_test_is_read_once(monkeypatch):
    config = dataclasses.replace(CONFIG, epochs=4, validation=8, limit_train=9)
    dataset = made_up_dataset()
    trainer = training.Trainer(small_task(), config)
    assert trainer.examples == 9
    held_out = dataset.train_inputs[-8:], dataset.train_labels[-8:]
    np.testing.assert_array_equal(trainer._held_out.inputs, held_out[0])
    np.testing.assert_array_equal(trainer._held_out.labels, held_out[1])
    np.testing.assert_array_equal(trainer._train.inputs, dataset.train_inputs[:9])
    runs = [Run(ADAM, 0.01, 0), Run(ADAM, 1e-4, 1)]
    epochs, weights = [], []
    for state, metrics in trainer.train(runs):
        epochs.append(metrics)
        weights.append(jax.tree.map(np.asarray, state.train.weights))
    for index in range(2):
        curve = [metrics[index] for metrics in epochs]
        assert [m.test_loss is None for m in curve] == [True, True, True, False]
        assert [m.best_test_accuracy is None for m in curve] == [True] * 3 + [False]
        best = int(np.argmax([m.validation_accuracy for m in curve]))
        assert curve[-1].best_epoch == best + 1
        accuracies = trainer.evaluate(weights[best], trainer._test)[1]
        assert curve[-1].best_test_accuracy == accuracies[index]
        accuracies = trainer.evaluate(weights[-1], trainer._held_out)[1]
        assert curve[-1].validation_accuracy == accuracies[index]


def test_a_diverged_run_is_recorded_and_the_others_go_on(trainer):
    runs = [Run(SGD, 1e30, 0), Run(SGD, 0.05, 0)]
    *_, (_, (diverged, sound)) = trainer.train(runs)
    assert not np.isfinite(diverged.train_loss)
    *_, alone = _train(trainer, runs[1])
    assert np.isfinite(sound.train_loss)
    np.testing.assert_allclose(sound.train_loss, alone.train_loss, rtol=1e-5)


def test_progress_is_told_at_the_end_of_each_epoch(trainer):
    told = []
    metrics = _train(trainer, Run(ADAM, 0.05, 0), on_progress=told.append)
    assert [p.epoch for p in told if p.examples == 20] == [1, 2]
    ends = [p.loss for p in told if p.examples == 20]
    np.testing.assert_allclose(ends, [m.train_loss for m in metrics])


def test_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(ValueError, match="--batch-size must be at most 20"):
        training.Trainer(small_task(), dataclasses.replace(CONFIG, batch_size=21))
