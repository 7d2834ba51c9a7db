"""A group of runs of one optimizer, from initial weights to the last epoch's metrics.

The data lies on every device, and steps are jitted calls, compiled before any clock
runs and once for all rates, schedules and seeds: a learning rate is data, too. On a CPU
a call makes one step, which is long enough, and training can be stopped in between. On
accelerators it makes many, so that they need not wait for the host between steps.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.comparison import (
    devices,
    optimizers,
    processes,
    randomness,
    schedules,
)
from experiments.comparison.config import (
    ComparisonConfig,
    OptimizerName,
    Run,
    check_batch_size,
)
from experiments.comparison.states import (
    Best,
    EpochMetrics,
    GroupState,
    Params,
    Progress,
    TrainState,
    Weights,
    steps_made,
)
from experiments.comparison.task import Examples, Task

# By platform; elsewhere it is the other number. Fewer at the end of an epoch. Not set
# by a clock, so that all processes make the same calls.
STEPS_PER_CALL = {"cpu": 1}
_STEPS_PER_CALL_ELSEWHERE = 128
_EVALUATION_BATCH = 1000
_REPORT_SECONDS = 0.5


def _summed_metrics(
    logits: jax.Array, labels: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sum of the examples' mean cross-entropies, and of right labels, where valid."""
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = jnp.argmax(logits, axis=-1) == labels
    per_example = tuple(range(1, labels.ndim))
    losses = jnp.where(valid, jnp.mean(losses, per_example), 0)
    right = jnp.where(valid, jnp.sum(right, per_example, dtype=jnp.int32), 0)
    return jnp.sum(losses), jnp.sum(right, dtype=jnp.int32)


class Trainer:
    """Holds the data on the device, and compiles each optimizer's step once.

    Args:
      task: data and model.
      config: the comparison; which runs to train is told later.

    Raises:
      ConfigError: if `--batch-size` is larger than the training set, or the devices
        do not divide the batches or groups.
    """

    def __init__(self, task: Task, config: ComparisonConfig) -> None:
        self._config = config
        self._task = task
        self.devices = devices.Devices(config)
        train, held_out, test = task.dataset.split(
            config.limit_train, config.validation
        )
        self.examples = len(train.labels)
        check_batch_size(config.batch_size, self.examples, config)
        self.steps_per_epoch = -(-self.examples // config.batch_size)
        self.run_steps = config.epochs * self.steps_per_epoch
        self._steps_per_call = STEPS_PER_CALL.get(
            jax.default_backend(), _STEPS_PER_CALL_ELSEWHERE
        )
        self._labels_per_example = math.prod(train.labels.shape[1:])
        self._train, self._test = self.devices.put((train, test))
        self._held_out = self.devices.put(held_out) if config.validation else None
        self._graphdef = nnx.graphdef(
            nnx.eval_shape(lambda: task.make_model(nnx.Rngs(0)))
        )
        self._compiled_steps: dict[tuple[OptimizerName, int], jax.stages.Compiled] = {}
        self._evaluation_step = jax.jit(self._evaluate_batch, static_argnums=3)
        over_runs = self.devices.over_runs
        self._roots = jax.jit(over_runs(lambda _, seed: jax.random.key(seed)))
        self._orders = jax.jit(over_runs(self._order))
        self._new_state = jax.jit(self._make_state, static_argnums=0)
        self._improve = jax.jit(over_runs(_improve))

    def initial_state(self, runs: Sequence[Run]) -> GroupState:
        """The state of a group before the first update."""
        train = self._new_state(runs[0].arm.optimizer, self._group_roots(runs))
        if self._held_out is None:
            return GroupState(train, None)
        best = Best(
            weights=jax.tree.map(jnp.copy, train.weights),  # which are donated
            accuracy=self.devices.put_runs(np.full(len(runs), -1, np.float32)),
            epoch=self.devices.put_runs(np.zeros(len(runs), np.int32)),
        )
        return GroupState(train, best)

    def train(
        self,
        runs: Sequence[Run],
        state: GroupState | None = None,
        after_call: Callable[[GroupState, int], None] = lambda *_: None,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> Iterator[tuple[GroupState, list[EpochMetrics]]]:
        """Trains a group.

        Args:
          runs: all of one optimizer.
          state: where to go on; it is donated. None: from the beginning.
          after_call: gets the state, and how many updates each run has got, after each
            call of the compiled steps but an epoch's last; it may read the state, and
            end the training by an exception.
          on_progress: is called about twice a second, and at the end of each epoch.

        Yields:
          After each epoch, the state, to be read before the next, and the metrics of
          each run.
        """
        state = self.initial_state(runs) if state is None else state
        train, best = state
        roots = self._group_roots(runs)
        rates = np.stack([self._rates(run) for run in runs])
        rates = rates.reshape(len(runs), -1, self.steps_per_epoch)
        steps = self.compiled_step(runs[0].arm.optimizer, train)
        first_epoch, position = divmod(steps_made(state), self.steps_per_epoch)
        for epoch in range(first_epoch, self._config.epochs):
            orders = self._orders(np.int32(epoch), roots)
            epoch_rates = self.devices.put_runs(rates[:, epoch])
            jax.block_until_ready((orders, epoch_rates))
            first_position, start = position, time.perf_counter()
            reported = start
            while position < self.steps_per_epoch:
                count = min(self._steps_per_call, self.steps_per_epoch - position)
                common = (self._train, np.int32(count))
                train = steps(common, train, orders, roots, epoch_rates)
                position += count
                last = position == self.steps_per_epoch
                now = time.perf_counter()
                if last or now - reported > _REPORT_SECONDS:
                    reported = now
                    done = position * self._config.batch_size
                    done = min(done, self.examples)
                    # Of the runs that are here; reading it waits for the call.
                    loss = float(np.mean(processes.local(train.loss_sum))) / done
                    trained = done - first_position * self._config.batch_size
                    speed = len(runs) * trained / (time.perf_counter() - start)
                    on_progress(Progress(epoch + 1, done, speed, loss))
                if not last:
                    step = epoch * self.steps_per_epoch + position
                    after_call(GroupState(train, best), step)
            jax.block_until_ready(train)
            seconds = time.perf_counter() - start
            trained = self.examples - first_position * self._config.batch_size
            speed = len(runs) * trained / seconds
            position = 0
            best, metrics = self._metrics(runs, train, best, epoch + 1, seconds, speed)
            yield GroupState(train, best), metrics

    def evaluate(
        self, weights: Weights, examples: Examples
    ) -> tuple[list[float], list[float]]:
        """Mean loss and accuracy of each run over all examples, without dropout.

        Args:
          weights: with an axis of runs.
          examples: on the device.
        """
        n = len(examples.labels)
        batch = self.devices.padded(min(_EVALUATION_BATCH, n))
        sums = processes.fetch(
            [
                self._evaluation_step(weights, examples, np.int32(start), batch)
                for start in range(0, n, batch)
            ]
        )
        losses = np.sum([loss.astype(np.float64) for loss, _ in sums], 0) / n
        right = np.sum([right.astype(np.int64) for _, right in sums], 0)
        return losses.tolist(), (right / (n * self._labels_per_example)).tolist()

    def compiled_step(
        self, name: OptimizerName, state: TrainState
    ) -> jax.stages.Compiled:
        """An optimizer's step, compiled for so many runs of any rates and seeds.

        Args:
          name: of the optimizer.
          state: of so many runs, where they lie.

        Returns:
          A function of examples and a number of steps, state, orders, roots and rates,
          which donates the state and returns that after so many steps.
        """
        runs = len(state.step)
        if (name, runs) not in self._compiled_steps:
            steps = self.devices.over_runs(functools.partial(self._steps, name))
            roots = self._roots(None, np.zeros(runs, np.uint32))
            self._compiled_steps[name, runs] = (
                jax.jit(steps, donate_argnums=1)
                .lower(
                    (self._train, np.int32(0)),
                    state,
                    self._orders(np.int32(0), roots),
                    roots,
                    self.devices.put_runs(
                        np.zeros([runs, self.steps_per_epoch], np.float32)
                    ),
                )
                .compile()
            )
        return self._compiled_steps[name, runs]

    def _metrics(
        self,
        runs: Sequence[Run],
        train: TrainState,
        best: Best | None,
        epoch: int,
        seconds: float,
        examples_per_second: float,
    ) -> tuple[Best | None, list[EpochMetrics]]:
        """Evaluates after an epoch; the best so far, and each run's metrics."""
        name = runs[0].arm.optimizer
        params = jax.vmap(functools.partial(optimizers.evaluated_params, name))(
            train.opt_state, train.weights.params
        )
        weights = train.weights._replace(params=params)
        nothing = [None] * len(runs)
        validation: tuple[Sequence[float | None], ...] = (nothing, nothing)
        test: tuple[Sequence[float | None], ...] = (nothing, nothing)
        best_test: Sequence[float | None] = nothing
        if best is not None and self._held_out is not None:
            validation = self.evaluate(weights, self._held_out)
            accuracies = self.devices.put_runs(np.array(validation[1], np.float32))
            best = self._improve(np.int32(epoch), best, weights, accuracies)
        if best is None or epoch == self._config.epochs:
            test = self.evaluate(weights, self._test)
        if best is not None and epoch == self._config.epochs:
            best_test = self.evaluate(best.weights, self._test)[1]
        loss_sums, correct, best_epochs = processes.fetch(
            (train.loss_sum, train.correct, None if best is None else best.epoch)
        )
        metrics = [
            EpochMetrics(
                epoch=epoch,
                step=epoch * self.steps_per_epoch,
                train_loss=float(loss_sums[index]) / self.examples,
                train_accuracy=int(correct[index])
                / (self.examples * self._labels_per_example),
                validation_loss=validation[0][index],
                validation_accuracy=validation[1][index],
                test_loss=test[0][index],
                test_accuracy=test[1][index],
                best_epoch=None if best is None else int(best_epochs[index]),
                best_test_accuracy=best_test[index],
                seconds=seconds,
                examples_per_second=examples_per_second,
            )
            for index in range(len(runs))
        ]
        return best, metrics

    def _make_weights(self, root: jax.Array) -> Weights:
        model = self._task.make_model(nnx.Rngs(randomness.weights_key(root)))
        return Weights(*nnx.state(model, nnx.Param, ...))

    def _make_state(self, name: OptimizerName, roots: jax.Array) -> TrainState:
        # The rate takes no part in any optimizer's initial state.
        optimizer = self._optimizer(name, 1.0)

        def of_run(_: None, root: jax.Array) -> TrainState:
            weights = self._make_weights(root)
            return TrainState(
                weights=weights,
                opt_state=optimizer.init(weights.params),
                step=jnp.zeros([], jnp.int32),
                loss_sum=jnp.zeros([]),
                correct=jnp.zeros([], jnp.int32),
            )

        state: TrainState = self.devices.over_runs(of_run)(None, roots)
        return state

    def _group_roots(self, runs: Sequence[Run]) -> jax.Array:
        seeds = np.array([run.seed for run in runs], np.uint32)
        roots: jax.Array = self._roots(None, seeds)
        return roots

    def _order(self, epoch: jax.Array, root: jax.Array) -> jax.Array:
        return randomness.epoch_order(
            root, epoch, self.examples, self._config.batch_size
        )

    def _rates(self, run: Run) -> np.ndarray[Any, np.dtype[np.float32]]:
        return schedules.learning_rates(
            run.arm.schedule, run.learning_rate, self._config, self.run_steps
        )

    def _optimizer(
        self, name: OptimizerName, rate: float | jax.Array
    ) -> optax.GradientTransformation:
        return optimizers.make_optimizer(name, rate, self._config)

    def _evaluate_batch(
        self, weights: Weights, examples: Examples, start: jax.Array, batch: int
    ) -> tuple[jax.Array, jax.Array]:

        def sums(examples: Examples, weights: Weights) -> tuple[jax.Array, jax.Array]:
            indices = devices.share_out(start + jnp.arange(batch))
            valid = indices < len(examples.labels)
            indices = jnp.minimum(indices, len(examples.labels) - 1)
            logits, _ = self._logits(weights, examples.inputs[indices], None)
            return _summed_metrics(logits, examples.labels[indices], valid)

        results: tuple[jax.Array, jax.Array] = self.devices.over_runs(sums)(
            examples, weights
        )
        return results

    def _logits(
        self, weights: Weights, inputs: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Params]:
        """Logits, and the model's statistics after them."""
        # Made anew, so that the model may change them at this level of tracing.
        weights = jax.tree.map(lambda leaf: leaf, weights)
        model = nnx.merge(self._graphdef, *weights)
        logits = self._task.logits(model, inputs, key)
        return logits, nnx.state(model, nnx.Param, ...)[1]

    def _steps(
        self,
        name: OptimizerName,
        common: tuple[Examples, jax.Array],
        state: TrainState,
        order: jax.Array,
        root: jax.Array,
        rates: jax.Array,
    ) -> TrainState:
        """So many updates of one run, within an epoch."""
        examples, count = common

        def step(_: Any, state: TrainState) -> TrainState:
            return self._step(name, examples, state, order, root, rates)

        if self._steps_per_call == 1:
            return step(0, state)
        last: TrainState = jax.lax.fori_loop(0, count, step, state)
        return last

    def _step(
        self,
        name: OptimizerName,
        examples: Examples,
        state: TrainState,
        order: jax.Array,
        root: jax.Array,
        rates: jax.Array,
    ) -> TrainState:
        """One update of one run, on the batch that its step and the order name."""
        batch_size = self._config.batch_size
        epoch, position = jnp.divmod(state.step, self.steps_per_epoch)
        offset = position * batch_size
        batch = jax.lax.dynamic_slice(order, (offset,), (batch_size,))
        batch = devices.share_out(batch)
        valid = devices.share_out(offset + jnp.arange(batch_size) < self.examples)
        key = randomness.step_key(root, epoch, position)

        def loss_fn(params: Params) -> tuple[jax.Array, Any]:
            weights = state.weights._replace(params=params)
            logits, statistics = self._logits(weights, examples.inputs[batch], key)
            loss_sum, right = _summed_metrics(logits, examples.labels[batch], valid)
            return loss_sum / jnp.sum(valid), (statistics, loss_sum, right)

        params = state.weights.params
        gradients, (statistics, *sums) = jax.grad(loss_fn, has_aux=True)(params)
        optimizer = self._optimizer(name, rates[position])
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        first = position == 0  # of the epoch: the sums begin anew
        return TrainState(
            weights=Weights(optax.apply_updates(params, updates), statistics),
            opt_state=opt_state,
            step=optax.safe_increment(state.step),
            loss_sum=jnp.where(first, 0, state.loss_sum) + sums[0],
            correct=jnp.where(first, 0, state.correct) + sums[1],
        )


def _improve(
    epoch: jax.Array, best: Best, weights: Weights, accuracy: jax.Array
) -> Best:
    """Takes over a run that is better than before."""
    better = accuracy > best.accuracy
    new = Best(weights, accuracy, epoch)
    chosen: Best = jax.tree.map(functools.partial(jnp.where, better), new, best)
    return chosen
