"""The experiment on many devices, against one of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_up import made_up_task, small_task
from trained import difference, in_float64, state_after

from benchmarks import collectives
from experiments.cifar10.config import Config
from experiments.comparison import processes, training
from experiments.comparison.checkpoints import Checkpoints
from experiments.comparison.config import Arm, ConfigError, Run
from experiments.comparison.devices import Devices
from experiments.comparison.states import steps_made

# 15 of 20 images in batches of 8: the second has 7, and is padded.
CONFIG = Config(epochs=25, batch_size=8, optimizers=("radam",), b2=0.9, validation=5)
# At the default rate: at 3e-3, 50 steps make 0.06 of the CNN's rounding (jax 0.12).
RUN = Run(Arm("radam", "constant"), 1e-3, seed=0)
RUNS = [
    Run(Arm("radam", schedule), rate, seed)
    for schedule in ("constant", "untuned-linear-warmup")
    for rate in (3e-3, 1e-3)
    for seed in (0, 1)
]


class Normalized(nnx.Module):
    """Has statistics, which are those of whole batches."""

    def __init__(self, *, rngs):
        self.hidden = nnx.Linear(64, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.logits = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, key):
        x = self.hidden(x.reshape(len(x), -1))
        return self.logits(self.norm(nnx.relu(x), use_running_average=key is None))


def normalized_task():
    return small_task()._replace(
        make_model=lambda rngs: Normalized(rngs=rngs),
        logits=lambda model, x, key: model(x.astype(jnp.result_type(float)) / 16, key),
    )


def _trainer(task=small_task, devices=1, population=1):
    """A trainer whose steps are compiled once for all tests."""
    return _cached_trainer(task, devices, population)


@functools.cache
def _cached_trainer(task, devices, population):
    config = dataclasses.replace(CONFIG, mesh=f"data={devices}", population=population)
    return training.Trainer(task(), config)


@pytest.mark.parametrize(
    ("task", "devices"),
    [(small_task, 8), (made_up_task, 8), (normalized_task, 4)],
    ids=["small on 8", "CNN on 8", "BatchNorm on 4"],
)
def test_devices_that_share_batches_do_what_one_does(task, devices):
    one, many = _trainer(task), _trainer(task, devices)
    for steps, bound in ((1, 1e-5), (50, 1e-3)):
        state = state_after(many, [RUN], steps)
        assert difference(state, state_after(one, [RUN], steps)) < bound
        for leaf in jax.tree.leaves(state):
            assert leaf.is_fully_replicated
            assert len(leaf.devices()) == devices


@pytest.mark.soak
@pytest.mark.usefixtures("x64")
def test_devices_that_share_batches_do_what_one_does_to_ten_digits():
    states = []
    for devices in (1, 8):
        config = dataclasses.replace(CONFIG, mesh=f"data={devices}")
        trainer = training.Trainer(small_task(), config)  # not that of single precision
        start = in_float64(trainer.initial_state([RUN]))
        states.append(state_after(trainer, [RUN], 50, start))
    assert difference(*states) < 1e-10


def test_devices_that_share_batches_see_the_same_images_and_masks():
    """At a rate that moves nothing, losses tell them."""
    run = RUN._replace(learning_rate=1e-30)
    curves = []
    for devices in (1, 8):
        epochs = _trainer(devices=devices).train([run])
        curves.append([next(epochs)[1][0].train_loss for _ in range(3)])
    np.testing.assert_allclose(*curves, rtol=1e-6)
    assert len({round(loss, 4) for loss in curves[0]}) == 3  # others each epoch


@pytest.mark.parametrize(
    ("devices", "population"),
    [(8, 1), pytest.param(2, 2, marks=pytest.mark.soak)],
    ids=str,
)
def test_steps_of_one_call_are_those_of_one_call_each(monkeypatch, devices, population):
    runs = RUNS[:population]
    expected = state_after(_trainer(population=population), runs, 2)
    monkeypatch.setitem(training.STEPS_PER_CALL, "cpu", 2)
    config = dataclasses.replace(CONFIG, mesh=f"data={devices}", population=population)
    state, _ = next(training.Trainer(small_task(), config).train(runs))
    for index in range(population):
        alone = jax.tree.map(lambda leaf, i=index: leaf[i : i + 1], expected)
        assert difference(state, alone, index) < 1e-5


def _step_collectives(trainer, runs):
    state = trainer.initial_state(runs)
    compiled = trainer.compiled_step(runs[0].arm.optimizer, state.train)
    parameters = sum(map(np.size, jax.tree.leaves(state.train.weights.params)))
    return collectives.of(compiled.as_text()), parameters // len(runs)


@pytest.mark.parametrize(
    ("task", "devices"), [(made_up_task, 8), (normalized_task, 4)], ids=["CNN", "dense"]
)
def test_devices_that_share_batches_add_up_gradients_and_nothing_else(task, devices):
    found, parameters = _step_collectives(_trainer(task, devices), [RUN])
    assert {operation for operation, _ in found} == {"all-reduce"}
    moved = sum(size for _, size in found)
    assert 4 * parameters <= moved <= 4 * parameters + 200  # and some sums


def test_devices_that_have_runs_of_their_own_exchange_nothing():
    found, _ = _step_collectives(_trainer(devices=8, population=8), RUNS)
    assert found == []


@pytest.mark.parametrize(
    ("devices", "population", "number"),
    [(2, 8, 8), pytest.param(4, 4, 3, marks=pytest.mark.soak)],
    ids=["four on each", "three on four, which share batches"],
)
def test_a_run_of_a_group_is_the_run_alone(devices, population, number):
    one, many = _trainer(), _trainer(devices=devices, population=population)
    for steps, bound in ((1, 1e-5), (50, 1e-3)):
        group = state_after(many, RUNS[:number], steps)
        for index in {0, number // 2, number - 1}:
            alone = state_after(one, [RUNS[index]], steps)
            assert difference(group, alone, index) < bound


@pytest.mark.parametrize(
    ("devices", "population"),
    [(8, 1), pytest.param(2, 8, marks=pytest.mark.soak)],
    ids=str,
)
def test_metrics_are_those_of_one_device(devices, population):
    """Also of what is held out, and of the best."""
    many = _trainer(devices=devices, population=population)
    actual = [metrics for _, metrics in many.train(RUNS[:population])]
    assert len(actual) == CONFIG.epochs
    for index in {0, population - 1}:
        expected = [metrics for _, (metrics,) in _trainer().train([RUNS[index]])]
        for mine, theirs in zip(actual, expected, strict=True):
            for a, b in zip(mine[index][:-2], theirs[:-2], strict=True):
                assert a == (None if b is None else pytest.approx(b, rel=1e-3))


@pytest.mark.parametrize("runs", [[RUN], RUNS], ids=["batches", "runs"])
def test_checkpoints_are_restored_onto_other_numbers_of_devices(tmp_path, runs):
    many = _trainer(devices=8, population=len(runs))
    state = state_after(many, runs, 4)
    with Checkpoints(tmp_path, 0) as checkpoints:
        checkpoints.save(state)
    kept = jax.tree.map(np.asarray, state)
    expected = state_after(many, runs, 7, state)
    for devices in (1, 2):
        fewer = _trainer(devices=devices, population=len(runs))
        with Checkpoints(tmp_path, 0) as checkpoints:
            restored = checkpoints.restore(fewer.initial_state(runs))
        assert steps_made(restored) == 4
        jax.tree.map(np.testing.assert_array_equal, restored, kept)
        for leaf in jax.tree.leaves(restored):
            assert len(leaf.devices()) == devices
            assert leaf.is_fully_replicated == (len(runs) == 1 or devices == 1)
    on = state_after(fewer, runs, 7, restored)
    last = jax.tree.map(lambda x: x[-1:], expected)
    assert difference(on, last, len(runs) - 1) < 1e-5


def test_fetched_arrays_are_whole():
    trainer = _trainer(devices=8, population=8)
    step = trainer.initial_state(RUNS).train.step
    assert len(step.sharding.device_set) == 8
    np.testing.assert_array_equal(processes.fetch(step), np.zeros(8))
    np.testing.assert_array_equal(processes.local(step), np.zeros(8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "--batch-size must be a multiple of 8,.* got 12"),
        ({"population": 6}, "--population must be 1 or a multiple of 8,.* got 6"),
        (
            {"population": 8, "seeds": tuple(range(11)), "batch_size": 4},
            "--batch-size must be a multiple of 8,.* of 3 runs at once, got 4",
        ),
        ({"mesh": "data=9"}, r"--mesh must be data=N with N at most 8,.* got data=9"),
    ],
)
def test_what_the_devices_do_not_divide_is_refused_with_both_numbers(changes, message):
    with pytest.raises(ConfigError, match=message):
        Devices(dataclasses.replace(CONFIG, **changes))


def test_processes_take_part_with_as_many_devices_each(monkeypatch):
    of_process = {0: jax.devices()[:4], 1: jax.devices()[4:]}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_devices", lambda process: of_process[process])
    mesh = Devices(dataclasses.replace(CONFIG, mesh="data=4")).mesh
    assert [device.id for device in mesh.devices] == [0, 1, 4, 5]
    with pytest.raises(ConfigError, match=r"a multiple of 2, the processes.*data=5"):
        Devices(dataclasses.replace(CONFIG, mesh="data=5"))


def test_all_devices_are_used_unless_told_otherwise():
    assert Devices(CONFIG).mesh.size == 8
    assert Devices(dataclasses.replace(CONFIG, mesh="data=2")).mesh.size == 2
    Devices(dataclasses.replace(CONFIG, population=8, batch_size=4, seeds=range(8)))
