"""Trains the runs of a group together, epoch by epoch, on a mesh of devices.

The mesh has axes (runs, data): its devices share out the runs as far as they divide
them, and then the batches. The step is `train.train_step`, compiled once for all
learning rates, schedules and seeds of an optimizer, which are data.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments import train
from experiments.config import OptimizerName, Run, Training
from experiments.optimizers import evaluated_params, make_optimizer
from experiments.schedules import learning_rates

# Here each device trains one run at a time; on other platforms, several side by side.
ONE_RUN_PLATFORMS = {"cpu"}


class EpochMetrics(NamedTuple):
    """A finished epoch of a run.

    A loss that is not finite means that the run has diverged. None stands for what was
    not evaluated: where examples are held out, tests wait for the last epoch.
    """

    epoch: int  # from 1
    step: int  # updates made so far
    train_loss: float  # mean over the epoch's labels as they were trained on
    train_accuracy: float
    validation_loss: float | None = None  # mean over held-out labels, after the epoch
    validation_accuracy: float | None = None
    test_loss: float | None = None  # mean over every test label, after the epoch
    test_accuracy: float | None = None
    best_epoch: int | None = None  # so far, by the validation accuracy
    best_test_accuracy: float | None = None  # of its weights, after the last epoch
    seconds: float = 0.0  # of the group's training in this epoch
    examples_per_second: float = 0.0  # of all runs in the group


class Best(NamedTuple):
    """Best weights so far, by held-out examples; all have an axis of runs."""

    weights: Any  # (params, statistics) to evaluate
    accuracy: jax.Array  # float32; -1 before the first epoch
    epoch: jax.Array  # int32, from 1


class GroupState(NamedTuple):
    """Everything that a checkpoint holds; all have an axis of runs."""

    train: train.State
    best: Best | None  # None unless examples are held out


class Work(NamedTuple):
    """Data, settings and devices that all groups of an experiment share."""

    task: train.Task  # with those training examples that are used
    held_out: train.Examples | None
    training: Training
    devices: Sequence[jax.Device]

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches, the last of which may be padded."""
        return -(-len(self.task.train.labels) // self.training.batch_size)

    def group_size(self, left: int) -> int:
        """Number of runs in the next group, given how many are left."""
        size = min(left, self.training.population)
        if self.devices[0].platform in ONE_RUN_PLATFORMS:
            while len(self.devices) % size:
                size -= 1
        return size

    def mesh(self, runs: int) -> Mesh:
        """The devices, for a group of that many runs."""
        along_runs = math.gcd(runs, len(self.devices))
        devices = np.reshape(self.devices, (along_runs, -1))
        return Mesh(devices, ("runs", "data"), axis_types=(AxisType.Auto,) * 2)


class Programs(NamedTuple):
    """Compiled functions for groups of one optimizer and size.

    All but the first arguments, and all results, have an axis of runs.
    """

    mesh: Mesh
    init: Callable[..., GroupState]  # (None, seeds)
    batches: Callable[..., jax.Array]  # (epoch, seeds)
    step: jax.stages.Compiled  # (train examples, state, seeds, batches, rates)
    weights: Callable[..., Any]  # (None, state): (params, statistics) to evaluate
    evaluate: Callable[..., Any]  # (examples, weights): losses and accuracies
    improve: Callable[..., Best]  # (epoch, best, weights, accuracies)


def make_programs(work: Work, name: OptimizerName, runs: int) -> Programs:
    """Compiles the step for groups of that many runs, and prepares the rest.

    Args:
      work: has task, training and devices, which may be those of another machine.
      name: of the optimizer.
      runs: in a group.
    """
    task, training, mesh = work.task, work.training, work.mesh(runs)
    n, steps, batch_size = (
        len(task.train.labels),
        work.steps_per_epoch,
        training.batch_size,
    )
    of_runs, everywhere = (NamedSharding(mesh, spec) for spec in (P("runs"), P()))

    def optimizer(rate: Any) -> Any:
        return make_optimizer(name, rate, training)

    def init(_: None, seed: jax.Array) -> GroupState:
        state = train.init(task, optimizer, seed)
        if work.held_out is None:
            return GroupState(state, None)
        nothing = Best(weights(None, state), jnp.float32(-1), jnp.int32(0))
        return GroupState(state, nothing)

    def weights(_: None, state: train.State) -> Any:
        params = evaluated_params(name, state.opt_state, state.params)
        return params, state.statistics

    def improve(epoch: Any, best: Best, weights: Any, accuracy: Any) -> Any:
        better = functools.partial(jnp.where, accuracy > best.accuracy)
        return jax.tree.map(better, Best(weights, accuracy, epoch), best)

    def jit(function: Callable[..., Any], **options: Any) -> Any:
        return jax.jit(over_runs(function, mesh), out_shardings=of_runs, **options)

    def struct(shape: tuple[int, ...], dtype: Any, sharding: Any = of_runs) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    initial, seeds = jit(init), struct((runs,), np.uint32)
    state = jax.eval_shape(initial, None, seeds).train
    step = jit(functools.partial(train.train_step, task, optimizer), donate_argnums=1)
    return Programs(
        mesh=mesh,
        init=initial,
        batches=jit(lambda epoch, seed: train.batches(seed, epoch, n, batch_size)),
        step=step.lower(
            jax.tree.map(lambda x: struct(x.shape, x.dtype, everywhere), task.train),
            jax.tree.map(lambda x: struct(x.shape, x.dtype), state),
            seeds,
            struct((runs, steps, batch_size), np.int32),
            struct((runs, steps), np.float32),
        ).compile(),
        weights=jit(weights),
        evaluate=jit(lambda of, w: train.evaluate(task, of, *w)),
        improve=jit(improve),
    )


def over_runs(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Maps `function(common, *of_run)` over the leading axis of all but the first.

    Each device maps over runs of its own. Left to the compiler, the convolutions of
    many runs would be gathered.
    """

    def mapped(common: Any, *of_runs: Any) -> Any:
        if len(jax.tree.leaves(of_runs)[0]) > 1:
            return jax.vmap(functools.partial(function, common))(*of_runs)
        result = function(common, *jax.tree.map(lambda x: x[0], of_runs))
        return jax.tree.map(lambda x: x[None], result)

    def sharded(common: Any, *of_runs: Any) -> Any:
        return jax.shard_map(
            mapped,
            mesh=mesh,
            in_specs=(P(), *[P("runs")] * len(of_runs)),
            out_specs=P("runs"),
            axis_names={"runs"},
            check_vma=False,  # nothing passes between runs
        )(common, *of_runs)

    return sharded


def put(tree: Any, mesh: Mesh, spec: P) -> Any:
    """Arrays of the host on the devices of a mesh."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), tree
    )


def fetch(tree: Any, mesh: Mesh) -> Any:
    """Arrays of the devices on the host, whole in every process."""
    everywhere = NamedSharding(mesh, P())
    return jax.device_get(jax.jit(_same, out_shardings=everywhere)(tree))


def _same(tree: Any) -> Any:
    return tree


def initial_state(programs: Programs, runs: Sequence[Run]) -> GroupState:
    """The state of a group before the first update."""
    return programs.init(None, _seeds(programs, runs))


def train_group(
    work: Work,
    programs: Programs,
    data: Any,
    runs: Sequence[Run],
    state: GroupState,
    after_step: Callable[[train.State, int], None] = lambda *_: None,
) -> Iterator[tuple[GroupState, list[EpochMetrics]]]:
    """Trains a group, from the beginning of an epoch.

    Args:
      work: what it shares with other groups.
      programs: compiled for it.
      data: training, held-out and test examples, everywhere on the mesh.
      runs: of one optimizer.
      state: is donated.
      after_step: receives the state, to be read at once, and the number of steps that
        each run has made in this epoch.

    Yields:
      After each epoch, the state, to be read before the next, and each run's metrics.
    """
    (trained, best), (used, held_out, test) = state, data
    training, steps, n = work.training, work.steps_per_epoch, len(used.labels)
    seeds = _seeds(programs, runs)
    done = int(fetch(trained.step, programs.mesh)[0]) // steps
    for epoch in range(done + 1, training.epochs + 1):
        common = (
            seeds,
            programs.batches(np.int32(epoch - 1), seeds),
            put(_rates(work, runs, epoch), programs.mesh, P("runs")),
        )
        jax.block_until_ready(common)
        start = time.perf_counter()
        for position in range(1, steps + 1):
            trained = programs.step(used, trained, *common)
            if work.devices[0].platform == "cpu":  # Ctrl-C must not wait for many
                jax.block_until_ready(trained.step)
            after_step(trained, position)
        jax.block_until_ready(trained)
        seconds = time.perf_counter() - start

        weights, last = programs.weights(None, trained), epoch == training.epochs
        found = {
            "train_loss": trained.loss_sum / n,
            "train_accuracy": trained.correct / used.labels.size,
        }
        if best is not None:
            loss, accuracy = programs.evaluate(held_out, weights)
            found |= {"validation_loss": loss, "validation_accuracy": accuracy}
            best = programs.improve(np.int32(epoch), best, weights, accuracy)
            found["best_epoch"] = best.epoch
        if best is None or last:
            loss, accuracy = programs.evaluate(test, weights)
            found |= {"test_loss": loss, "test_accuracy": accuracy}
        if best is not None and last:
            found["best_test_accuracy"] = programs.evaluate(test, best.weights)[1]
        found = fetch(found, programs.mesh)
        metrics = [
            EpochMetrics(
                epoch=epoch,
                step=epoch * steps,
                seconds=seconds,
                examples_per_second=len(runs) * n / seconds,
                **{name: values[i].item() for name, values in found.items()},
            )
            for i in range(len(runs))
        ]
        yield GroupState(trained, best), metrics


def _rates(work: Work, runs: Sequence[Run], epoch: int) -> np.ndarray[Any, Any]:
    """The learning rate of each run at each step of an epoch, counted from 1."""
    steps = work.steps_per_epoch
    whole, of_epoch = steps * work.training.epochs, range(steps * epoch)[-steps:]
    return np.stack(
        [
            learning_rates(
                run.arm.schedule, run.learning_rate, work.training, whole, of_epoch
            )
            for run in runs
        ]
    )


def _seeds(programs: Programs, runs: Sequence[Run]) -> jax.Array:
    seeds = np.array([run.seed for run in runs], np.uint32)
    placed: jax.Array = put(seeds, programs.mesh, P("runs"))
    return placed
