"""Training in plain functions: data, model, loss, optimizer, step, evaluation.

A run is an optimizer, a schedule, a learning rate and a seed. All randomness comes from
the seed: runs with the same seed share initial weights, order of batches and dropout
masks, whatever their optimizer. These functions know nothing of files, flags or
devices. An epoch of ten steps, and RAdam as a chain:

>>> import functools
>>> import optax_radam
>>> inputs = jax.random.normal(jax.random.key(0), (80, 4))
>>> examples = Examples(inputs, (inputs[:, 0] > 0).astype(int))
>>> task = Task(
...     train=examples,
...     test=examples,
...     make_model=lambda rngs: nnx.Linear(4, 2, rngs=rngs),
...     logits=lambda model, inputs, key: model(inputs),
... )
>>> def optimizer(rate):
...     return optax.chain(
...         optax_radam.scale_by_moments(b2=0.9),
...         optax_radam.scale_by_rectification(b2=0.9),
...         optax.scale_by_learning_rate(rate),
...     )
>>> state = init(task, optimizer, seed=0)
>>> step = jax.jit(functools.partial(train_step, task, optimizer), donate_argnums=1)
>>> order = batches(seed=0, epoch=0, examples=80, batch_size=8)
>>> for _ in range(10):
...     state = step(examples, state, 0, order, jnp.full(10, 0.3))
>>> loss, accuracy = evaluate(task, examples, state.params, state.statistics)
>>> print(f"{accuracy:.2f}")
0.94
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import PartitionSpec as P

# Purposes of keys. Changing one changes every result.
_WEIGHTS, _ORDER, _STEP = range(3)
_EVALUATION_BATCH = 1024

Optimizer = Callable[[Any], optax.GradientTransformation]  # from the learning rate
Model = Any  # an `nnx.Module`


class Examples(NamedTuple):
    """Inputs and their labels, of the same length."""

    inputs: Any  # (n, ...)
    labels: Any  # integers, (n,), or (n, ...) if an example has several


class Task(NamedTuple):
    """Data, and a model that learns it by cross-entropy."""

    train: Examples
    test: Examples
    # Initial weights use the generator's default stream.
    make_model: Callable[[nnx.Rngs], Model]
    # (model, inputs, key) -> logits, of the labels' shape with one more axis: classes.
    # The key is a training step's, or None in evaluation.
    logits: Callable[[Model, jax.Array, jax.Array | None], jax.Array]
    description: str = ""  # of the data, for reports


class State(NamedTuple):
    """Everything that a step updates."""

    params: Any
    statistics: Any  # of BatchNorm: changed in training, but not by the optimizer
    opt_state: optax.OptState
    step: jax.Array  # int32: updates made so far
    loss_sum: jax.Array  # over this epoch's examples so far
    correct: jax.Array  # int32: labels of this epoch predicted so far


def make_key(seed: Any, purpose: int, *path: Any) -> jax.Array:
    """The key for one purpose, at one place (epoch, step), of all runs with a seed."""
    key = jax.random.key(seed)
    for number in (purpose, *path):
        key = jax.random.fold_in(key, number)
    return key


def batches(seed: Any, epoch: Any, examples: int, batch_size: int) -> jax.Array:
    """An epoch's batches: shuffled indices, int32, of shape (steps, batch_size).

    The last batch is padded with the epoch's first examples, which `train_step`
    excludes from loss and gradient.
    """
    order = jax.random.permutation(make_key(seed, _ORDER, epoch), examples)
    padded = jnp.pad(order, (0, -examples % batch_size), mode="wrap")
    return padded.reshape(-1, batch_size).astype(jnp.int32)  # in double precision, too


def init(task: Task, optimizer: Optimizer, seed: Any) -> State:
    """The state before the first step."""
    model = task.make_model(nnx.Rngs(make_key(seed, _WEIGHTS)))
    params, statistics = nnx.state(model, nnx.Param, ...)
    return State(
        params=params,
        statistics=statistics,
        opt_state=optimizer(1.0).init(params),  # does not depend on the rate
        step=jnp.zeros([], jnp.int32),
        loss_sum=jnp.zeros([]),
        correct=jnp.zeros([], jnp.int32),
    )


def predict(
    task: Task, params: Any, statistics: Any, inputs: jax.Array, key: jax.Array | None
) -> tuple[jax.Array, Any]:
    """Returns the model's logits, and its statistics afterwards."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: task.make_model(nnx.Rngs(0))))
    # The copy belongs to this level of tracing, so that the model may change it.
    model = nnx.merge(graph, params, jax.tree.map(lambda leaf: leaf, statistics))
    logits = task.logits(model, inputs, key)
    return logits, nnx.state(model, nnx.Param, ...)[1]


def sums(
    logits: jax.Array, labels: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Summed cross-entropy and number of correct labels of the valid examples.

    An example with several labels counts by the mean of their cross-entropies.
    """
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = jnp.argmax(logits, axis=-1) == labels
    of_example = tuple(range(1, labels.ndim))
    losses = jnp.where(valid, jnp.mean(losses, of_example), 0)
    right = jnp.where(valid, jnp.sum(right, of_example, dtype=jnp.int32), 0)
    return jnp.sum(losses), jnp.sum(right, dtype=jnp.int32)


def train_step(
    task: Task,
    optimizer: Optimizer,
    train: Examples,
    state: State,
    seed: Any,
    batches: jax.Array,
    rates: jax.Array,
) -> State:
    """One update: a batch, the gradient of its mean loss, the optimizer, new weights.

    Donate the state. `batches` are those of the epoch, (steps, batch_size); `rates` has
    the learning rate of each of its steps.
    """
    steps, batch_size = batches.shape
    epoch, position = jnp.divmod(state.step, steps)
    batch = share_out(batches[position])
    valid = position * batch_size + jnp.arange(batch_size) < len(train.labels)
    valid = share_out(valid)
    key = make_key(seed, _STEP, epoch, position)

    def mean_loss(params: Any) -> tuple[jax.Array, Any]:
        logits, statistics = predict(
            task, params, state.statistics, train.inputs[batch], key
        )
        loss_sum, correct = sums(logits, train.labels[batch], valid)
        return loss_sum / jnp.sum(valid), (statistics, loss_sum, correct)

    gradients, (statistics, loss_sum, correct) = jax.grad(mean_loss, has_aux=True)(
        state.params
    )
    updates, opt_state = optimizer(rates[position]).update(
        gradients, state.opt_state, state.params
    )
    first = position == 0  # of the epoch: the sums start again
    return State(
        params=optax.apply_updates(state.params, updates),
        statistics=statistics,
        opt_state=opt_state,
        step=state.step + 1,
        loss_sum=jnp.where(first, 0, state.loss_sum) + loss_sum,
        correct=jnp.where(first, 0, state.correct) + correct,
    )


def evaluate(
    task: Task, examples: Examples, params: Any, statistics: Any
) -> tuple[jax.Array, jax.Array]:
    """Mean loss and accuracy over all examples, without dropout or augmentation."""
    n = len(examples.labels)
    size = min(_EVALUATION_BATCH, n)

    def add(totals: Any, start: jax.Array) -> tuple[Any, None]:
        indices = share_out(start + jnp.arange(size))
        batch = jnp.minimum(indices, n - 1)
        logits, _ = predict(task, params, statistics, examples.inputs[batch], None)
        found = sums(logits, examples.labels[batch], indices < n)
        return jax.tree.map(jnp.add, totals, found), None

    nothing = (jnp.zeros([]), jnp.zeros([], jnp.int32))
    (loss_sum, correct), _ = jax.lax.scan(add, nothing, jnp.arange(0, n, size))
    return loss_sum / n, correct / examples.labels.size


def share_out(batch: jax.Array) -> jax.Array:
    """Gives each device of the mesh axis "data", if any, an equal part of a batch."""
    devices = jax.sharding.get_abstract_mesh().shape.get("data", 1)
    if devices == 1 or len(batch) % devices:
        return batch
    shared: jax.Array = jax.lax.with_sharding_constraint(batch, P("data"))
    return shared
