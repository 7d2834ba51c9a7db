"""Trains the runs of a group together, epoch by epoch, on a mesh of devices.

The mesh has axes (runs, data): its devices divide the runs by the largest factor that
both numbers share, and then the batches. The step is `train.train_step`, compiled once
for all learning rates, schedules and seeds of an optimizer, which are data.
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
from experiments.config import Grid, OptimizerName, Run, Training
from experiments.optimizers import evaluated_params, make_optimizer
from experiments.schedules import learning_rates

# Here each device trains one run at a time; on other platforms, several side by side.
ONE_RUN_PLATFORMS = {"cpu"}


class Best(NamedTuple):
    """Best weights so far, on the held-out examples."""

    weights: Any  # (params, statistics) to evaluate
    accuracy: jax.Array  # float32; -1 before the first epoch
    epoch: jax.Array  # int32, from 1


class GroupState(NamedTuple):
    """Content of a checkpoint; all arrays have an axis of runs."""

    train: train.State
    best: Best | None  # None unless examples are held out


class Work(NamedTuple):
    """Data, settings and devices that all groups of an experiment share."""

    task: train.Task  # with only those training examples that are used
    held_out: train.Examples | None
    training: Training
    devices: Sequence[jax.Device]

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches, the last of which may be padded."""
        return -(-len(self.task.train.labels) // self.training.batch_size)

    def groups(self, grid: Grid) -> list[list[Run]]:
        """The runs of each optimizer, in groups as large as can train together."""
        of: dict[str, list[Run]] = {}
        for run in grid.runs():
            of.setdefault(run.arm.optimizer, []).append(run)
        groups = []
        for runs in of.values():
            start = 0
            while start < len(runs):
                size = min(len(runs) - start, self.training.population)
                if self.devices[0].platform in ONE_RUN_PLATFORMS:
                    while len(self.devices) % size:
                        size -= 1
                groups.append(runs[start : start + size])
                start += size
        return groups

    def mesh(self, runs: int) -> Mesh:
        """The mesh of the devices for a group of `runs` runs."""
        along_runs = math.gcd(runs, len(self.devices))
        devices = np.reshape(self.devices, (along_runs, -1))
        return Mesh(devices, ("runs", "data"), axis_types=(AxisType.Auto,) * 2)

    def examples(self, mesh: Mesh) -> Any:
        """Training, held-out and test examples, on all devices of a mesh."""
        return put((self.task.train, self.held_out, self.task.test), mesh, P())


class Programs(NamedTuple):
    """Jitted functions for groups of one optimizer and size.

    All but the first arguments, and all results but the metrics, have an axis of runs.
    """

    mesh: Mesh
    init: Any  # (None, seeds): `GroupState`
    batches: Any  # (epoch, seeds)
    step: Any  # (train examples, state, seeds, batches, rates)
    # ((held-out, test examples), state): metrics and best weights after an epoch; by
    # whether it is the last
    measure: dict[bool, Any]


def make_programs(work: Work, name: OptimizerName, runs: int) -> Programs:
    """Makes the functions for groups of `runs` runs of an optimizer."""
    task, mesh, labels = work.task, work.mesh(runs), work.task.train.labels
    of_runs, everywhere = (NamedSharding(mesh, spec) for spec in (P("runs"), P()))

    def jit(function: Callable[..., Any], out: Any = of_runs, **options: Any) -> Any:
        return jax.jit(over_runs(function, mesh), out_shardings=out, **options)

    def optimizer(rate: Any) -> Any:
        return make_optimizer(name, rate, work.training)

    def weights(state: train.State) -> Any:
        params = evaluated_params(name, state.opt_state, state.params)
        return params, state.statistics

    def init(_: None, seed: jax.Array) -> GroupState:
        state = train.init(task, optimizer, seed)
        if work.held_out is None:
            return GroupState(state, None)
        return GroupState(state, Best(weights(state), jnp.float32(-1), jnp.int32(0)))

    def batches(epoch: jax.Array, seed: jax.Array) -> jax.Array:
        return train.batches(seed, epoch, len(labels), work.training.batch_size)

    def measure(last: bool, examples: Any, state: GroupState) -> Any:
        (held_out, test), (trained, best), now = examples, state, weights(state.train)
        found = {
            "train_loss": trained.loss_sum / len(labels),
            "train_accuracy": trained.correct / labels.size,
        }
        if best is not None:
            loss, accuracy = train.evaluate(task, held_out, *now)
            epoch = trained.step // work.steps_per_epoch
            better = functools.partial(jnp.where, accuracy > best.accuracy)
            best = jax.tree.map(better, Best(now, accuracy, epoch), best)
            found |= {"validation_loss": loss, "validation_accuracy": accuracy}
            found["best_epoch"] = best.epoch
        if best is None or last:
            loss, accuracy = train.evaluate(task, test, *now)
            found |= {"test_loss": loss, "test_accuracy": accuracy}
        if best is not None and last:
            _, found["best_test_accuracy"] = train.evaluate(task, test, *best.weights)
        return found, best

    step = functools.partial(train.train_step, task, optimizer)
    return Programs(
        mesh=mesh,
        init=jit(init),
        batches=jit(batches),
        step=jit(step, donate_argnums=1),
        measure={
            last: jit(functools.partial(measure, last), (everywhere, of_runs))
            for last in (False, True)
        },
    )


def over_runs(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Maps `function(common, *of_run)` over the leading axis of all but the first.

    Each device maps over its own runs. A plain `vmap` would let the compiler gather the
    convolutions of many runs.
    """

    def mapped(common: Any, of_runs: Any) -> Any:
        if len(jax.tree.leaves(of_runs)[0]) > 1:
            return jax.vmap(functools.partial(function, common))(*of_runs)
        result = function(common, *jax.tree.map(lambda x: x[0], of_runs))
        return jax.tree.map(lambda x: x[None], result)

    sharded = jax.shard_map(
        mapped,
        mesh=mesh,
        in_specs=(P(), P("runs")),
        out_specs=P("runs"),
        axis_names={"runs"},
        check_vma=False,  # nothing passes between runs
    )
    return lambda common, *of_runs: sharded(common, of_runs)


def put(tree: Any, mesh: Mesh, spec: P) -> Any:
    """Copies arrays from the host to the devices of a mesh."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), tree
    )


def seeds_of(programs: Programs, runs: Sequence[Run]) -> jax.Array:
    """The runs' seeds, each on the devices that train its run."""
    seeds = np.array([run.seed for run in runs], np.uint32)
    placed: jax.Array = put(seeds, programs.mesh, P("runs"))
    return placed


def train_group(
    work: Work,
    programs: Programs,
    data: Any,
    runs: Sequence[Run],
    state: GroupState,
    done: int,
    after_step: Callable[[train.State], None],
) -> Iterator[tuple[GroupState, list[dict[str, float]]]]:
    """Trains a group, and yields its state and each run's metrics after each epoch.

    `data` is of `Work.examples`. Training starts after `done` epochs, and donates the
    states, also those that `after_step` receives.
    """
    (trained, best), (used, *others) = state, data
    training, steps, n = work.training, work.steps_per_epoch, len(used.labels)
    seeds = seeds_of(programs, runs)
    for epoch in range(done + 1, training.epochs + 1):
        rates = [
            learning_rates(
                run.arm.schedule,
                run.learning_rate,
                training,
                steps * training.epochs,
                range(steps * (epoch - 1), steps * epoch),
            )
            for run in runs
        ]
        batches = programs.batches(np.int32(epoch - 1), seeds)
        common = seeds, batches, put(np.stack(rates), programs.mesh, P("runs"))
        # Compiled outside of the measured time.
        step = programs.step.lower(used, trained, *common).compile()
        jax.block_until_ready(common)
        start = time.perf_counter()
        for _ in range(steps):
            trained = step(used, trained, *common)
            if work.devices[0].platform == "cpu":  # Ctrl-C must not wait for many
                jax.block_until_ready(trained.step)
            after_step(trained)
        jax.block_until_ready(trained)
        seconds = time.perf_counter() - start
        measure = programs.measure[epoch == training.epochs]
        found, best = measure(tuple(others), GroupState(trained, best))
        found = jax.device_get(found)
        times = {"seconds": seconds, "examples_per_second": len(runs) * n / seconds}
        metrics = [
            {"epoch": epoch, "step": epoch * steps}
            | {name: values[i].item() for name, values in found.items()}
            | times
            for i in range(len(runs))
        ]
        yield GroupState(trained, best), metrics
