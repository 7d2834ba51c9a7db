"""What training passes on: states between steps, and what they come to."""

from typing import Any, NamedTuple

import jax
import optax
from flax import nnx

from experiments.comparison import processes

Params = nnx.State[Any, Any]


class Weights(NamedTuple):
    """What a model is made of."""

    params: Params
    statistics: Params  # of BatchNorm, say: not trained, but changed by training


class Best(NamedTuple):
    """What was best on the held-out examples so far; of each run of a group."""

    weights: Weights  # those to evaluate
    accuracy: jax.Array  # shape (runs,), float32; -1 before the first epoch
    epoch: jax.Array  # shape (runs,), int32; from 1


class TrainState(NamedTuple):
    """All that a step replaces, and is donated; every leaf has an axis of runs."""

    weights: Weights
    opt_state: optax.OptState
    step: jax.Array  # int32: updates made so far
    loss_sum: jax.Array  # floating: over this epoch's examples so far
    correct: jax.Array  # int32: of this epoch's labels so far


class GroupState(NamedTuple):
    """All that a checkpoint holds of a group of runs."""

    train: TrainState
    best: Best | None  # None unless examples are held out


def steps_made(state: GroupState) -> int:
    """The updates that each run of a group has got."""
    return int(processes.local(state.train.step)[0])


class Progress(NamedTuple):
    """What a group has to say while it trains."""

    epoch: int  # from 1
    examples: int  # that each run has been trained on in this epoch
    examples_per_second: float  # of all runs in the group
    loss: float  # mean over those examples and the runs


class EpochMetrics(NamedTuple):
    """A finished epoch of a run; a row of `metrics.jsonl` but for the run's columns.

    A loss that is not finite says that the run has diverged. None stands for what was
    not evaluated: where examples are held out, tests wait for the last epoch.
    """

    epoch: int  # from 1
    step: int  # updates made so far
    train_loss: float  # mean over the epoch's labels as they were trained on
    train_accuracy: float
    validation_loss: float | None  # mean over the held-out labels, after the epoch
    validation_accuracy: float | None
    test_loss: float | None  # mean over every test label, after the epoch
    test_accuracy: float | None
    best_epoch: int | None  # so far, by the validation accuracy
    best_test_accuracy: float | None  # of that epoch's weights, after the last one
    seconds: float  # the group trained in it, checkpoints included, or since resuming
    examples_per_second: float  # of all runs in the group
