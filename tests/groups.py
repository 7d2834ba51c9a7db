"""Groups of runs after some updates, and the difference between them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.group import Work, seeds_of, train_group
from experiments.train import Examples


class _EnoughError(Exception):
    pass


def make_work(task, training, devices=None):
    """Shared data of groups; the last `training.validation` examples are held out."""
    rest = len(task.train.labels) - training.validation
    used, held_out = (
        Examples(*(array[part] for array in task.train))
        for part in (slice(rest), slice(rest, None))
    )
    return Work(
        task._replace(train=used),
        held_out if training.validation else None,
        training,
        devices or jax.devices()[:1],
    )


def initial_state(programs, runs):
    """The state of a group before the first update."""
    return programs.init(None, seeds_of(programs, runs))


def train(work, programs, runs, state=None, done=0, after_step=lambda _: None):
    """Calls `train_group` from the beginning, or from a state, which is donated."""
    data = work.examples(programs.mesh)
    state = initial_state(programs, runs) if state is None else state
    return train_group(work, programs, data, runs, state, done, after_step)


def state_after(work, programs, runs, *steps):
    """The group's `train.State`, on the host, after each of these numbers of steps."""
    counted, found = itertools.count(1), []

    def stop(state):
        if next(counted) in steps:
            found.append(jax.tree.map(np.asarray, state))
        if len(found) == len(steps):
            raise _EnoughError

    try:
        for _ in train(work, programs, runs, after_step=stop):
            pass
    except _EnoughError:
        return found
    raise ValueError(f"{work.training.epochs} epochs have fewer than {steps} steps")


def difference(group, alone, index=0):
    """The largest of any weight or statistic, relative to the largest of its array.

    Args:
      group: state of a group.
      alone: state of a run.
      index: index of the group's run to compare with it.
    """
    learned = ((state.params, state.statistics) for state in (group, alone))
    return max(
        np.max(np.abs(a[index] - b[0])) / np.max(np.abs(b))
        for a, b in zip(*map(jax.tree.leaves, learned), strict=True)
    )


def without_time(metrics):
    """Rows of metrics as plain lists, without the two columns that are timed."""
    return [list(row.values())[:-2] for row in metrics]


def in_double(task):
    """The task with a model of float64 parameters; needs x64."""

    def make_model(rngs):
        model = task.make_model(rngs)
        params = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), params))
        return model

    return task._replace(make_model=make_model)
