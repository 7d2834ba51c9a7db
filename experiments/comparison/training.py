"""One run, from initial weights to the last epoch's metrics.

A seed fixes everything random: `jax.random.key(seed)` is folded with a purpose, then
with the epoch, then with the step in it. Optimizer, schedule and rate take no part, so
runs of one seed share initial weights, order of batches and dropout masks.

The data lies on the device, and a step is one jitted call, compiled before any clock
runs and once for all rates and seeds. There is no `lax.scan` over the steps: on CPU the
gradients of convolutions inside one are about a hundred times slower.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.comparison.config import Arm, ComparisonConfig, Run, check_batch_size
from experiments.comparison.optimizers import evaluated_params, make_optimizer
from experiments.comparison.task import Task

Params = nnx.State[Any, Any]

# Purposes of keys. Changing one changes every result.
_INITIAL_WEIGHTS, _ORDER, _DROPOUT = range(3)
_EVALUATION_BATCH = 1000
_REPORT_SECONDS = 0.5


class TrainState(NamedTuple):
    """All that a step replaces; donated to it."""

    params: Params
    opt_state: optax.OptState
    step: jax.Array  # shape (), int32: updates made so far
    loss_sum: jax.Array  # shape (), float32: over this epoch's examples so far
    correct: jax.Array  # shape (), int32: of this epoch's labels so far


class Progress(NamedTuple):
    """What a run has to say while it trains."""

    epoch: int  # from 1
    examples: int  # trained on in this epoch so far
    seconds: float  # of this epoch's training so far
    loss: float  # mean over those examples


class EpochMetrics(NamedTuple):
    """A finished epoch; a row of `metrics.jsonl` next to the run's own columns."""

    epoch: int  # from 1
    step: int  # updates made so far
    train_loss: float  # mean over the epoch's labels as they were trained on
    train_accuracy: float
    test_loss: float  # mean over every test label, after the epoch
    test_accuracy: float
    seconds: float  # training alone, the device awaited
    examples_per_second: float


def epoch_order(
    root: jax.Array, epoch: jax.Array, examples: int, batch_size: int
) -> jax.Array:
    """The epoch's permutation of the training examples, padded to whole batches.

    Args:
      root: the run's key.
      epoch: from 0.
      examples: number of training examples.
      batch_size: examples per update.

    Returns:
      Indices, int32, of shape (steps * batch_size,); those past `examples` are 0.
    """
    key = jax.random.fold_in(jax.random.fold_in(root, _ORDER), epoch)
    order = jax.random.permutation(key, examples)
    return jnp.pad(order, (0, -examples % batch_size))


def dropout_key(root: jax.Array, epoch: jax.Array, position: jax.Array) -> jax.Array:
    """The key of a step's dropout masks: of `position` (from 0) in `epoch` (from 0)."""
    key = jax.random.fold_in(root, _DROPOUT)
    return jax.random.fold_in(jax.random.fold_in(key, epoch), position)


def _summed_metrics(
    logits: jax.Array, labels: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sum of the examples' mean cross-entropies, and of right labels, where valid."""
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = jnp.argmax(logits, axis=-1) == labels
    per_example = tuple(range(1, labels.ndim))
    losses = jnp.where(valid, jnp.mean(losses, per_example), 0)
    right = jnp.where(valid, jnp.sum(right, per_example, dtype=jnp.int32), 0)
    return jnp.sum(losses), jnp.sum(right)


class Trainer:
    """Holds the data on the device, and compiles each arm's step once.

    Args:
      task: data and model.
      config: the comparison; its lists take no part here.

    Raises:
      ValueError: if `--batch-size` is larger than the training set.
    """

    def __init__(self, task: Task, config: ComparisonConfig) -> None:
        self._config = config
        self._task = task
        dataset = task.dataset
        self.examples = len(dataset.train_labels)
        check_batch_size(config.batch_size, self.examples, config)
        self.steps_per_epoch = -(-self.examples // config.batch_size)
        self.run_steps = config.epochs * self.steps_per_epoch
        self._labels_per_example = math.prod(dataset.train_labels.shape[1:])
        self._evaluation_batch = min(_EVALUATION_BATCH, len(dataset.test_labels))
        self._train_data = jax.device_put((dataset.train_inputs, dataset.train_labels))
        self._test_data = jax.device_put((dataset.test_inputs, dataset.test_labels))
        self._graphdef = nnx.graphdef(
            nnx.eval_shape(lambda: task.make_model(nnx.Rngs(0)))
        )

        def initial_params(root: jax.Array) -> Params:
            key = jax.random.fold_in(root, _INITIAL_WEIGHTS)
            return nnx.state(task.make_model(nnx.Rngs(key)), nnx.Param)

        self._initial_params = jax.jit(initial_params)
        self._order = jax.jit(
            functools.partial(
                epoch_order, examples=self.examples, batch_size=config.batch_size
            )
        )
        params = jax.eval_shape(self._initial_params, jax.random.key(0))
        self._evaluation_step = (
            jax.jit(self._evaluate_batch)
            .lower(params, *self._test_data, jnp.int32(0))
            .compile()
        )
        self._compiled_steps: dict[Arm, Callable[..., TrainState]] = {}

    def initial_state(self, run: Run) -> TrainState:
        """The state before the first update."""
        params = self._initial_params(jax.random.key(run.seed))
        optimizer = self._optimizer(run.arm, run.learning_rate)
        return TrainState(
            params=params,
            opt_state=optimizer.init(params),
            step=jnp.zeros([], jnp.int32),
            loss_sum=jnp.zeros([], jnp.float32),
            correct=jnp.zeros([], jnp.int32),
        )

    def train(
        self, run: Run, on_progress: Callable[[Progress], None] = lambda _: None
    ) -> Iterator[EpochMetrics]:
        """Trains one run.

        Args:
          run: arm, learning rate and seed.
          on_progress: is called about twice a second, and at the end of each epoch.

        Yields:
          The metrics of each epoch as it ends.
        """
        config = self._config
        root = jax.random.key(run.seed)
        rate = jnp.float32(run.learning_rate)
        state = self.initial_state(run)
        step = self._compiled_step(run.arm, state)
        for epoch in range(config.epochs):
            order = jax.block_until_ready(self._order(root, jnp.int32(epoch)))
            start = reported = time.perf_counter()
            for position in range(self.steps_per_epoch):
                state = step(state, *self._train_data, order, root, rate)
                now = time.perf_counter()
                last = position + 1 == self.steps_per_epoch
                if last or now - reported > _REPORT_SECONDS:
                    reported = now
                    examples = min((position + 1) * config.batch_size, self.examples)
                    loss = float(state.loss_sum) / examples  # waits for the device
                    seconds = time.perf_counter() - start
                    on_progress(Progress(epoch + 1, examples, seconds, loss))
            jax.block_until_ready(state)
            seconds = time.perf_counter() - start
            test_loss, test_accuracy = self.evaluate(
                evaluated_params(run.arm, state.opt_state, state.params)
            )
            yield EpochMetrics(
                epoch=epoch + 1,
                step=int(state.step),
                train_loss=float(state.loss_sum) / self.examples,
                train_accuracy=self._accuracy(int(state.correct), self.examples),
                test_loss=test_loss,
                test_accuracy=test_accuracy,
                seconds=seconds,
                examples_per_second=self.examples / seconds,
            )

    def evaluate(self, params: Params) -> tuple[float, float]:
        """Mean loss and accuracy over every test example, without dropout."""
        examples = len(self._test_data[1])
        sums = [
            self._evaluation_step(params, *self._test_data, jnp.int32(start))
            for start in range(0, examples, self._evaluation_batch)
        ]
        loss_sum = sum(float(loss) for loss, _ in sums)
        correct = sum(int(correct) for _, correct in sums)
        return loss_sum / examples, self._accuracy(correct, examples)

    def _accuracy(self, correct: int, examples: int) -> float:
        return correct / (examples * self._labels_per_example)

    def _evaluate_batch(
        self, params: Params, inputs: jax.Array, labels: jax.Array, start: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        indices = start + jnp.arange(self._evaluation_batch)
        valid = indices < len(labels)
        indices = jnp.minimum(indices, len(labels) - 1)
        logits = self._logits(params, inputs[indices], None)
        return _summed_metrics(logits, labels[indices], valid)

    def _logits(
        self, params: Params, inputs: jax.Array, dropout_key: jax.Array | None
    ) -> jax.Array:
        model = nnx.merge(self._graphdef, params)
        return self._task.logits(model, inputs, dropout_key)

    def _optimizer(
        self, arm: Arm, learning_rate: float | jax.Array
    ) -> optax.GradientTransformation:
        return make_optimizer(arm, learning_rate, self._config, self.run_steps)

    def _compiled_step(self, arm: Arm, state: TrainState) -> Callable[..., TrainState]:
        """The arm's step, compiled for any rate and seed."""
        if arm not in self._compiled_steps:
            step = jax.jit(functools.partial(self._step, arm), donate_argnums=0)
            order = self._order(jax.random.key(0), jnp.int32(0))
            self._compiled_steps[arm] = step.lower(
                state, *self._train_data, order, jax.random.key(0), jnp.float32(0)
            ).compile()
        return self._compiled_steps[arm]

    def _step(
        self,
        arm: Arm,
        state: TrainState,
        inputs: jax.Array,
        labels: jax.Array,
        order: jax.Array,
        root: jax.Array,
        learning_rate: jax.Array,
    ) -> TrainState:
        """One update, on the batch that the state's step and the order name."""
        batch_size = self._config.batch_size
        epoch, position = jnp.divmod(state.step, self.steps_per_epoch)
        offset = position * batch_size
        batch = jax.lax.dynamic_slice(order, (offset,), (batch_size,))
        valid = offset + jnp.arange(batch_size) < self.examples
        key = dropout_key(root, epoch, position)

        def loss_fn(params: Params) -> tuple[jax.Array, Any]:
            logits = self._logits(params, inputs[batch], key)
            loss_sum, correct = _summed_metrics(logits, labels[batch], valid)
            return loss_sum / jnp.sum(valid), (loss_sum, correct)

        gradients, sums = jax.grad(loss_fn, has_aux=True)(state.params)
        optimizer = self._optimizer(arm, learning_rate)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        first = position == 0  # of the epoch: the sums begin anew
        return TrainState(
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            step=optax.safe_increment(state.step),
            loss_sum=jnp.where(first, 0, state.loss_sum) + sums[0],
            correct=jnp.where(first, 0, state.correct) + sums[1],
        )
