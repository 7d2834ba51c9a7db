"""The experiment's CNN on random images of CIFAR-10's size, as ways to train it.

Each way trains `BATCHES` batches at a time and gives the seconds for one image, of all
runs together. Peers have the same layers, initial distributions and loss, and hold the
images in memory, scaled already; ours gathers and scales each batch on the device.
"""

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any, Literal

import jax
import numpy as np

from benchmarks.measuring import Way, seconds
from experiments.cifar10 import convolution
from experiments.cifar10.config import ImageTraining
from experiments.cifar10.data import Images, make_task
from experiments.cifar10.model import DROPOUT_RATE, FILTERS, HIDDEN_UNITS
from experiments.config import Grid, Run
from experiments.group import Work, initial_state, make_programs, put, train_group
from experiments.train import Examples

BATCHES = 8  # at a time
BATCH_SIZE = 64
_CLASSES = 10
_MANY_EPOCHS = 10_000  # nobody waits for the last
_RATE = 1e-3


def _random_images(n: int) -> Images:
    random = np.random.default_rng(0)

    def examples(n: int) -> Examples:
        images = random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        return Examples(images, random.integers(0, _CLASSES, n).astype(np.int32))

    return Images(examples(n), examples(64), 255, "random images")


def work(
    runs: int, devices: int, images: int, batch_size: int, **training: Any
) -> tuple[Work, list[Run]]:
    """The experiment's CNN under RAdam, as its runs share it.

    Args:
      runs: that train together.
      devices: that share the runs, or batches.
      images: number of training images.
      batch_size: of each run.
      **training: other fields of the experiment's `ImageTraining`.
    """
    flags = ImageTraining(
        dataset="cifar10", batch_size=batch_size, population=runs, **training
    )
    fast = devices == 1 and jax.default_backend() == "cpu"
    conv = convolution.convolve if fast else jax.lax.conv_general_dilated
    task = make_task(_random_images(images), flags, conv=conv)
    grid = Grid(optimizers=("radam",), seeds=tuple(range(runs)))
    return Work(task, None, flags, jax.devices()[:devices]), grid.runs()


def ours(
    runs: int = 1,
    *,
    devices: int = 1,
    batch_size: int = BATCH_SIZE,
    compute_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Way:
    """The experiment's own training, an epoch at a time.

    Args:
      runs: that train side by side.
      devices: that share batches, or the runs.
      batch_size: of each run.
      compute_dtype: the experiment's flag.
    """
    shared, members = work(
        runs,
        devices,
        BATCHES * batch_size,
        batch_size,
        compute_dtype=compute_dtype,
        epochs=_MANY_EPOCHS,
    )

    def epochs() -> Iterator[float]:
        programs = make_programs(shared, "radam", runs)
        data = (shared.task.train, None, shared.task.test)
        data = put(data, programs.mesh, jax.sharding.PartitionSpec())
        state = initial_state(programs, members)
        for _, metrics in train_group(shared, programs, data, members, state):
            yield 1 / metrics[0].examples_per_second

    speeds = epochs()
    next(speeds)  # compiles
    return functools.partial(next, speeds)


def peers() -> dict[str, Way]:
    """The same CNN in Keras and PyTorch, where they are installed."""
    ways = {}
    if importlib.util.find_spec("keras") and importlib.util.find_spec("tensorflow"):
        ways["Keras"] = _keras()
    if importlib.util.find_spec("torch"):
        ways["PyTorch"] = _torch(channels_last=False)
        ways["PyTorch, channels last"] = _torch(channels_last=True)
        if jax.default_backend() == "gpu":
            ways["PyTorch, compiled"] = _torch(channels_last=True, compiled=True)
    return ways


def _images_and_labels() -> tuple[Any, Any]:
    images, labels = _random_images(BATCHES * BATCH_SIZE).train
    return images.astype(np.float32) / 255, labels


def _keras() -> Way:
    """Keras on TensorFlow, which runs convolutions by oneDNN."""
    keras: Any = importlib.import_module("keras")
    layers = keras.layers
    model = keras.Sequential([keras.Input((32, 32, 3))])
    initializer = {"activation": "relu", "kernel_initializer": "he_uniform"}
    for filters in FILTERS:
        for _ in range(2):
            model.add(layers.Conv2D(filters, 3, padding="same", **initializer))
        model.add(layers.MaxPooling2D())
        model.add(layers.Dropout(DROPOUT_RATE))
    model.add(layers.Flatten())
    model.add(layers.Dense(HIDDEN_UNITS, **initializer))
    model.add(layers.Dropout(DROPOUT_RATE))
    model.add(layers.Dense(_CLASSES))
    model.compile(
        optimizer=keras.optimizers.Adam(_RATE),  # Keras has no RAdam
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    images, labels = _images_and_labels()

    def train() -> None:
        for start in range(0, len(labels), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            model.train_on_batch(images[batch], labels[batch])

    train()
    return lambda: seconds(train) / len(labels)


def _torch(*, channels_last: bool, compiled: bool = False) -> Way:
    torch: Any = importlib.import_module("torch")
    nn = torch.nn
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    layers: list[Any] = []
    channels = 3
    for filters in FILTERS:
        for _ in range(2):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
            channels = filters
        layers += [nn.MaxPool2d(2), nn.Dropout(DROPOUT_RATE)]
    features = channels * (32 // 2 ** len(FILTERS)) ** 2
    layers += [nn.Flatten(), nn.Linear(features, HIDDEN_UNITS), nn.ReLU()]
    layers += [nn.Dropout(DROPOUT_RATE), nn.Linear(HIDDEN_UNITS, _CLASSES)]
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = nn.Sequential(*layers).to(device, memory_format=form)
    optimizer = torch.optim.RAdam(model.parameters(), _RATE)
    numpy_images, numpy_labels = _images_and_labels()
    images = torch.tensor(numpy_images.transpose(0, 3, 1, 2)).to(device)
    images = images.to(memory_format=form)
    labels = torch.tensor(numpy_labels).to(device, torch.int64)
    predict = torch.compile(model) if compiled else model

    def train() -> None:
        for start in range(0, len(labels), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(predict(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    train()
    return lambda: seconds(train) / len(labels)
