import dataclasses
import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from groups import (
    difference,
    in_double,
    initial_state,
    make_work,
    state_after,
    train,
    without_time,
)
from made_up import small_task

from experiments import group
from experiments.config import Arm, Grid, Run, Training

# 20 images in batches of 8: the third has 4, and is padded.
TRAINING = Training(epochs=2, batch_size=8, b2=0.9)
ADAM, RADAM, SGD = (Arm(name, "constant") for name in ("adam", "radam", "sgd"))


@functools.cache
def programs_of(optimizer, runs, validation=0):
    """Programs compiled once for all tests; they depend on no schedule or rate."""
    return group.make_programs(work_of(validation=validation), optimizer, runs)


def work_of(**training):
    return make_work(small_task(), dataclasses.replace(TRAINING, **training))


def curves(work, runs, *begun):
    """Each epoch's metrics of each run."""
    programs = programs_of(runs[0].arm.optimizer, len(runs), work.training.validation)
    return [metrics for _, metrics in train(work, programs, runs, *begun)]


_evaluate = jax.jit(functools.partial(group.train.evaluate, small_task()))


def evaluate(examples, weights, index=0):
    """Loss and accuracy of one run's parameters and statistics."""
    loss, accuracy = _evaluate(examples, *jax.tree.map(lambda x: x[index], weights))
    return pytest.approx(float(loss), rel=1e-6), float(accuracy)


DIFFERENT_RUNS = [
    Run(RADAM, 3e-3, seed=0),
    Run(Arm("radam", "warmup-linear-decay"), 1e-3, seed=1),
    Run(Arm("radam", "untuned-linear-warmup"), 3e-3, seed=0),
]


def test_a_run_in_a_group_is_the_run_alone():
    work = work_of(epochs=17)
    together = state_after(work, programs_of("radam", 3), DIFFERENT_RUNS, 1, 50)
    for index, run in enumerate(DIFFERENT_RUNS):
        alone = state_after(work, programs_of("radam", 1), [run], 1, 50)
        assert difference(together[0], alone[0], index) < 1e-5
        assert difference(together[1], alone[1], index) < 1e-3


@pytest.mark.soak
@pytest.mark.usefixtures("x64")
def test_a_run_in_a_group_is_the_run_alone_to_ten_digits():
    work = make_work(in_double(small_task()), dataclasses.replace(TRAINING, epochs=17))
    many, one = (group.make_programs(work, "radam", runs) for runs in (3, 1))
    (together,) = state_after(work, many, DIFFERENT_RUNS, 50)
    assert together.params["logits"]["kernel"][...].dtype == jnp.float64
    for index, run in enumerate(DIFFERENT_RUNS):
        (alone,) = state_after(work, one, [run], 50)
        assert difference(together, alone, index) < 1e-10


@pytest.mark.soak
@pytest.mark.usefixtures("x64")
def test_a_state_keeps_its_types_in_double():
    """Otherwise it could not be restored from a checkpoint."""
    work = work_of(validation=5)
    programs = group.make_programs(work, "adam", 1)
    runs = [Run(ADAM, 0.05, 0)]
    before = jax.tree.map(jnp.copy, initial_state(programs, runs))
    after, _ = next(train(work, programs, runs))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)


def test_metrics_are_those_of_the_state():
    """Speed counts the examples of all runs in the measured time."""
    programs, work = programs_of("radam", 3), work_of()
    for epoch, (state, metrics) in enumerate(train(work, programs, DIFFERENT_RUNS), 1):
        weights = state.train.params, state.train.statistics
        for index, of_run in enumerate(metrics):
            assert (of_run["epoch"], of_run["step"]) == (epoch, 3 * epoch)
            sums = state.train.loss_sum[index] / 20, state.train.correct[index] / 20
            found = of_run["train_loss"], of_run["train_accuracy"]
            np.testing.assert_allclose(found, sums, rtol=1e-6)
            found = of_run["test_loss"], of_run["test_accuracy"]
            assert found == evaluate(work.task.test, weights, index)
            speed = 60 / of_run["seconds"]
            assert of_run["examples_per_second"] == pytest.approx(speed)


def test_runs_repeat_exactly_and_are_traced_once_for_all_rates_and_schedules(
    monkeypatch,
):
    step = chex.assert_max_traces(group.train.train_step, n=1)
    monkeypatch.setattr(group.train, "train_step", step)
    work = work_of()
    programs = group.make_programs(work, "radam", 1)

    def curve(rate, seed, schedule="constant"):
        run = Run(Arm("radam", schedule), rate, seed)
        return [without_time(metrics) for _, metrics in train(work, programs, [run])]

    first = curve(0.05, 0)
    assert curve(0.05, 0) == first
    assert curve(0.01, 0) != first
    assert curve(0.05, 1) != first
    assert curve(0.05, 0, "untuned-linear-warmup") != first


def test_learning_rates_reach_the_optimizer_as_scheduled():
    """A step of SGD moves parameters by the first rate of the schedule."""
    rates = {
        "constant": 0.05,
        "linear-warmup-10": 0.005,
        # The run has 6 steps: a warmup of 0.6, then a line to 1e-5 at step 6.
        "warmup-linear-decay": 0.05 + (1e-5 - 0.05) * (1 - 0.6) / (6 - 0.6),
    }
    runs = [Run(Arm("sgd", schedule), 0.05, 0) for schedule in rates]
    programs = programs_of("sgd", 3)
    before = initial_state(programs, runs).train.params
    (after,) = state_after(work_of(), programs, runs, 1)
    moved = jax.vmap(optax.tree.norm)(jax.tree.map(jnp.subtract, after.params, before))
    expected = np.array(list(rates.values())) / 0.05
    np.testing.assert_allclose(moved / moved[0], expected, rtol=1e-3)


def test_rates_go_on_in_the_second_epoch():
    """At step 4 of 6 a step-decay is at a tenth; before it, all runs are the same."""
    runs = [
        Run(Arm("sgd", name), 0.05, 0) for name in ("constant", *2 * ["step-decay"])
    ]
    work = work_of(step_decay_at=(0.5,))
    before, after = state_after(work, programs_of("sgd", 3), runs, 3, 4)
    moved = jax.tree.map(np.subtract, after.params, before.params)
    for of_runs in jax.tree.leaves(moved):
        np.testing.assert_allclose(of_runs[1], 0.1 * of_runs[0], rtol=1e-3, atol=1e-8)


def test_schedule_free_runs_are_evaluated_with_averaged_weights():
    run, work = Run(Arm("schedule-free-radam", "constant"), 0.05, seed=0), work_of()
    programs = programs_of("schedule-free-radam", 1)
    *_, (state, (metrics,)) = train(work, programs, [run])
    trained, z = state.train.params, state.train.opt_state.z
    average = jax.tree.map(lambda y, z: (y - 0.1 * z) / 0.9, trained, z)
    found = metrics["test_loss"], metrics["test_accuracy"]
    assert found == evaluate(work.task.test, (average, state.train.statistics))
    assert found != evaluate(work.task.test, (trained, state.train.statistics))


def test_held_out_examples_choose_and_the_test_is_read_once():
    work, programs = work_of(epochs=4, validation=5), programs_of("adam", 2, 5)
    runs = [Run(ADAM, 0.05, 0), Run(ADAM, 0.05, 1)]
    epochs, weights = [], []
    for state, metrics in train(work, programs, runs):
        epochs.append(metrics)
        of_epoch = (state.train.params, state.train.statistics)
        weights.append(jax.tree.map(np.asarray, of_epoch))
    for index in range(2):
        curve = [metrics[index] for metrics in epochs]
        assert ["test_loss" in m for m in curve] == [False, False, False, True]
        assert ["best_test_accuracy" in m for m in curve] == [False] * 3 + [True]
        last = curve[-1]
        best = int(np.argmax([m["validation_accuracy"] for m in curve]))
        assert last["best_epoch"] == best + 1
        _, accuracy = evaluate(work.task.test, weights[best], index)
        assert last["best_test_accuracy"] == accuracy
        _, accuracy = evaluate(work.held_out, weights[-1], index)
        assert last["validation_accuracy"] == accuracy
    # Otherwise the last epoch's weights could pass for the best.
    assert epochs[-1][0]["best_test_accuracy"] != epochs[-1][0]["test_accuracy"]


@pytest.mark.soak
def test_a_diverged_run_is_recorded_and_the_others_go_on():
    runs = [Run(SGD, 1e30, 0), Run(SGD, 0.05, 0), Run(SGD, 0.05, 1)]
    diverged, *sound = curves(work_of(), runs)[-1]
    assert not np.isfinite(diverged["train_loss"])
    for run, of_group in zip(runs[1:], sound, strict=True):
        (alone,) = curves(work_of(), [run])[-1]
        np.testing.assert_allclose(
            of_group["train_loss"], alone["train_loss"], rtol=1e-5
        )


def test_training_goes_on_from_any_epoch_as_if_nothing_had_been():
    work, runs = (
        work_of(epochs=3, validation=5),
        [Run(ADAM, 0.05, 0), Run(ADAM, 0.01, 1)],
    )
    programs, states, whole = programs_of("adam", 2, 5), [], []
    for state, metrics in train(work, programs, runs):
        states.append(jax.tree.map(jnp.copy, state))
        whole.append(without_time(metrics))
    for epochs, state in enumerate(states, 1):
        rest = [without_time(metrics) for metrics in curves(work, runs, state, epochs)]
        assert rest == whole[epochs:]


def test_steps_are_reported_as_they_are_made():
    steps = []
    for _ in train(
        *(work_of(), programs_of("radam", 1), DIFFERENT_RUNS[:1]),
        after_step=lambda state: steps.append(int(state.step[0])),
    ):
        steps.append("epoch")
    assert steps == [1, 2, 3, "epoch", 4, 5, 6, "epoch"]


@pytest.mark.parametrize(
    ("platform", "devices", "population", "sizes"),
    [
        ("cpu", 1, 1, [1] * 11),
        ("cpu", 1, 4, [1] * 11),
        ("cpu", 4, 4, [4, 4, 2, 1]),
        ("cpu", 6, 4, [3, 3, 3, 2]),
        ("cpu", 8, 100, [8, 2, 1]),
        ("gpu", 1, 4, [4, 4, 3]),
        ("tpu", 8, 100, [11]),
    ],
)
def test_groups_are_as_large_as_the_platform_can_train_together(
    platform, devices, population, sizes
):
    """On CPU, one run for each device; elsewhere, the number that the flag names."""
    device = types.SimpleNamespace(platform=platform)
    work = make_work(small_task(), Training(population=population), [device] * devices)
    grid = Grid(optimizers=("radam",), seeds=tuple(range(11)))
    assert [len(runs) for runs in work.groups(grid)] == sizes
