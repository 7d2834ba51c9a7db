"""The experiment on many devices, compared with one device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from groups import (
    difference,
    in_double,
    initial_state,
    make_work,
    state_after,
    train,
    without_time,
)
from jax.sharding import PartitionSpec as P
from made_up import made_up_task, small_task

from benchmarks import collectives
from experiments import group
from experiments.checkpoints import Checkpoints, newest
from experiments.config import Arm, ConfigError, Flags, Grid, Run, Training
from experiments.run import split

# 15 of 20 images in batches of 8: the second has 7, and is padded.
TRAINING = Training(epochs=25, batch_size=8, b2=0.9, validation=5)
# At the default rate: at 3e-3, 50 steps amplify the CNN's rounding to 0.06 (jax 0.12).
RUN = Run(Arm("radam", "constant"), 1e-3, seed=0)
RUNS = [
    Run(Arm("radam", schedule), rate, seed)
    for schedule in ("constant", "untuned-linear-warmup")
    for rate in (3e-3, 1e-3)
    for seed in (0, 1)
]


class Normalized(nnx.Module):
    """A model with statistics, which are those of whole batches."""

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


# The experiment's own takes half a minute to compile.
CNN = pytest.param(made_up_task, marks=pytest.mark.soak)
TASKS = pytest.mark.parametrize("task", [small_task, CNN, normalized_task])


@functools.cache
def programs_of(task, devices, runs):
    """Work and programs, compiled once for all tests."""
    work = make_work(task(), TRAINING, jax.devices()[:devices])
    return work, group.make_programs(work, "radam", runs)


def compiled_step(task, runs):
    """The step of a group on eight devices, as text."""
    work, programs = programs_of(task, 8, len(runs))
    seeds, mesh = group.seeds_of(programs, runs), programs.mesh
    rates = np.zeros((len(runs), work.steps_per_epoch), np.float32)
    lowered = programs.step.lower(
        group.put(work.task.train, mesh, P()),
        programs.init(None, seeds).train,
        seeds,
        programs.batches(np.int32(0), seeds),
        group.put(rates, mesh, P("runs")),
    )
    return lowered.compile().as_text()


def check_runs(task, devices, runs, indices=(0,)):
    """Compares runs of a group on many devices with each run alone on one device."""
    together = state_after(*programs_of(task, devices, len(runs)), runs, 1, 50)
    for index in indices:
        alone = state_after(*programs_of(task, 1, 1), [runs[index]], 1, 50)
        assert difference(together[0], alone[0], index) < 1e-5
        assert difference(together[1], alone[1], index) < 1e-3


@pytest.mark.parametrize(
    ("runs", "shape"),
    [(1, (1, 8)), (3, (1, 8)), (4, (4, 2)), (6, (2, 4)), (8, (8, 1)), (12, (4, 2))],
)
def test_devices_share_out_runs_as_far_as_they_divide_them_and_then_batches(
    runs, shape
):
    mesh = make_work(small_task(), TRAINING, jax.devices()).mesh(runs)
    assert mesh.devices.shape == shape
    assert [device.id for device in mesh.devices.flat] == [*range(8)]


@TASKS
def test_devices_that_share_batches_do_what_one_does(task):
    """Statistics of BatchNorm are those of whole batches, too."""
    check_runs(task, 8, [RUN])


@pytest.mark.parametrize(
    ("devices", "number"),
    [
        (8, 8),
        pytest.param(8, 4, marks=pytest.mark.soak),
        pytest.param(2, 8, marks=pytest.mark.soak),
        pytest.param(4, 3, marks=pytest.mark.soak),
    ],
    ids=["one on each", "one on two", "four on each", "three that share batches"],
)
def test_a_run_of_a_group_is_the_run_alone(devices, number):
    check_runs(small_task, devices, RUNS[:number], {0, number // 2, number - 1})


@pytest.mark.soak
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("number", [1, 4, 8])
def test_a_run_on_eight_devices_is_that_on_one_to_ten_digits(number):
    states = []
    for devices, runs in ((8, RUNS[:number]), (1, RUNS[:1])):
        work = make_work(in_double(small_task()), TRAINING, jax.devices()[:devices])
        programs = group.make_programs(work, "radam", len(runs))
        states += state_after(work, programs, runs, 50)
    assert difference(*states) < 1e-10


@TASKS
def test_devices_that_share_batches_add_up_gradients_and_nothing_else(task):
    found = collectives.of(compiled_step(task, [RUN]))
    assert {operation for operation, _ in found} == {"all-reduce"}
    params = initial_state(programs_of(task, 8, 1)[1], [RUN]).train.params
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    moved = sum(size for _, size in found)
    assert num_bytes <= moved <= num_bytes + 200  # and some sums


def test_devices_that_have_runs_of_their_own_exchange_nothing():
    assert collectives.of(compiled_step(small_task, RUNS)) == []


@pytest.mark.soak
@pytest.mark.parametrize("number", [1, pytest.param(4, marks=pytest.mark.soak)])
def test_metrics_are_those_of_one_device(number):
    """Includes the held-out examples and the best weights."""
    runs = RUNS[-number:]
    epochs = train(*programs_of(small_task, 8, number), runs)
    actual = [without_time(metrics) for _, metrics in epochs]
    assert len(actual) == TRAINING.epochs
    for index, run in enumerate(runs):
        epochs = train(*programs_of(small_task, 1, 1), [run])
        expected = [without_time(metrics)[0] for _, metrics in epochs]
        for mine, theirs in zip(actual, expected, strict=True):
            for a, b in zip(mine[index], theirs, strict=True):
                assert a == (None if b is None else pytest.approx(b, rel=1e-3))


@pytest.mark.parametrize("runs", [[RUN], RUNS], ids=["batches", "runs"])
def test_checkpoints_are_restored_onto_other_numbers_of_devices(tmp_path, runs):
    epochs = train(*programs_of(small_task, 8, len(runs)), runs)
    state, _ = next(epochs)
    with Checkpoints(tmp_path, 0) as checkpoints:
        checkpoints.save_state(1, state, last=False)
    kept = jax.tree.map(np.asarray, state)
    expected, _ = next(epochs)
    for devices in (1, 2):
        work, programs = programs_of(small_task, devices, len(runs))
        with Checkpoints(tmp_path, 0) as checkpoints:
            assert newest(tmp_path) == 1
            restored = checkpoints.restore_state(1, initial_state(programs, runs))
        jax.tree.map(np.testing.assert_array_equal, restored, kept)
        for leaf in jax.tree.leaves(restored):
            assert len(leaf.devices()) == devices
            assert leaf.is_fully_replicated == (len(runs) == 1 or devices == 1)
    actual, _ = next(train(work, programs, runs, restored, 1))
    expected, actual = jax.tree.map(np.asarray, (expected.train, actual.train))
    last = jax.tree.map(lambda x: x[-1:], expected)
    assert difference(actual, last, len(runs) - 1) < 1e-5


@pytest.mark.parametrize(
    ("changes", "seeds", "allowed"),
    [
        ({"batch_size": 12}, 1, "a multiple of 8, .*, got 12"),
        ({"batch_size": 15, "population": 8}, 8, None),
        ({"batch_size": 6, "population": 4}, 4, None),
        ({"batch_size": 6, "population": 4}, 5, "a multiple of 8, .*, got 6"),
        ({"batch_size": 3, "population": 4}, 4, "a multiple of 2, .*, got 3"),
    ],
)
def test_a_batch_that_the_devices_of_a_run_do_not_divide_is_refused(
    changes, seeds, allowed
):
    grid = Grid(optimizers=("radam",), seeds=tuple(range(seeds)))
    flags = _Flags(grid, dataclasses.replace(TRAINING, **changes))
    if allowed is None:
        split(small_task(), flags, jax.devices())
        return
    with pytest.raises(ConfigError, match=f"^--batch-size must be {allowed}"):
        split(small_task(), flags, jax.devices())


class _Flags(Flags):
    name, unit = "made-up images", "images"
