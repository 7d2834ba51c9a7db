"""The experiment's training steps as compiled for TPUs and GPUs."""

import collections
import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import collectives as exchanges
from benchmarks import hlo
from experiments import group
from experiments.cifar10.model import CNN
from experiments.config import Training
from experiments.train import Examples, Task
from experiments.transformer import __main__ as transformer


def _cifar10():
    images = np.zeros((50_000, 32, 32, 3), np.uint8)
    examples = Examples(images, np.zeros(len(images), np.int32))
    return Task(
        examples,
        examples,
        lambda rngs: CNN((32, 32, 3), 10, rngs=rngs),
        lambda model, x, key: model(x.astype(np.float32) / 255, key),
    )


def _compile(task, training, mesh, runs):
    """Returns the step as text, its exchanges, and the bytes of a run's parameters."""
    work = group.Work(task, None, training, [*mesh.devices.flat])
    programs, steps = group.make_programs(work, "radam", runs), work.steps_per_epoch

    def struct(x, *everywhere):
        sharding = NamedSharding(programs.mesh, P() if everywhere else P("runs"))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    seeds = struct(np.empty(runs, np.uint32))
    state = jax.tree.map(struct, jax.eval_shape(programs.init, None, seeds).train)
    step = programs.step.lower(
        jax.tree.map(lambda x: struct(x, True), task.train),
        state,
        seeds,
        struct(np.empty((runs, steps, training.batch_size), np.int32)),
        struct(np.empty((runs, steps), np.float32)),
    ).compile()
    leaves = jax.tree.leaves(state.params)
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    # Parameters and both moments take the place of the old ones.
    on_a_device = num_bytes // programs.mesh.shape["runs"]
    assert step.memory_analysis().alias_size_in_bytes >= 3 * on_a_device

    exchanged = collections.defaultdict(int)
    for operation, size in exchanges.of(step.as_text()):
        exchanged[operation] += size
    if programs.mesh.shape["data"] == 1:  # each device has runs of its own
        assert not exchanged
    return step.as_text(), exchanged, num_bytes // runs


ON_ALL = pytest.mark.parametrize(
    "mesh", ["TPU v5e", "8 TPU v5e", "H100", "8 H100"], indirect=True
)


@pytest.mark.soak
@ON_ALL
@pytest.mark.parametrize("runs", [1, 8])
def test_convolutions_of_the_cnn_are_those_of_the_platform(mesh, runs):
    """Six forward, six gradients of kernels and five of inputs; none in parts."""
    text, exchanged, num_bytes = _compile(_cifar10(), Training(), mesh, runs)
    if mesh.size > runs:  # gradients are exchanged, and some sums
        assert exchanged.keys() == {"all-reduce"}
        assert num_bytes <= exchanged["all-reduce"] <= num_bytes + 512
    operations = collections.Counter(
        instruction.operation for instruction in hlo.instructions(text)
    )
    if mesh.devices.flat[0].platform == "tpu":
        # There the two dense layers are convolutions, too, forward and in gradients.
        assert operations["convolution"] == 17 + 6
    else:
        assert operations["convolution"] == 0
        assert len(re.findall(r'custom_call_target="__cudnn\$conv', text)) == 17


@pytest.mark.soak
@ON_ALL
@pytest.mark.parametrize("runs", [1, 8])
def test_the_transformer_exchanges_nothing_large(mesh, runs):
    """XLA gathers only a batch's embedding gradients, with their indices."""
    task, training = transformer.Flags().load(), transformer.TRAINING
    _, exchanged, num_bytes = _compile(task, training, mesh, runs)
    labels = training.batch_size * transformer.LENGTH
    assert exchanged["all-gather"] <= 4 * labels * (transformer.WIDTH + 1)
    assert exchanged["all-reduce"] <= num_bytes + 512
    assert exchanged.keys() == {"all-gather", "all-reduce"}
