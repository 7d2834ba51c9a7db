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
from experiments.cifar10.config import Config
from experiments.cifar10.model import DROPOUT_RATE, FILTERS, HIDDEN_UNITS
from experiments.cifar10.task import make_task
from experiments.comparison import population
from experiments.comparison.task import Dataset
from experiments.comparison.training import Trainer

BATCHES = 8  # at a time
BATCH_SIZE = 64
_CLASSES = 10
_MANY_EPOCHS = 10_000  # nobody waits for the last
_RATE = 1e-3


def _random_images(n: int) -> Dataset:
    random = np.random.default_rng(0)

    def images(n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)

    def labels(n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        return random.integers(0, _CLASSES, n).astype(np.int32)

    what = "random images"
    return Dataset(images(n), labels(n), images(64), labels(64), _CLASSES, what)


def ours(
    runs: int = 1,
    *,
    devices: int = 1,
    sequential: bool = True,
    batch_size: int = BATCH_SIZE,
    compute_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Way:
    """The experiment's own training, an epoch at a time.

    Args:
      runs: that are trained together.
      devices: that share batches, or the runs.
      sequential: whether runs take turns, or go side by side.
      batch_size: of each run.
      compute_dtype: the experiment's flag.
    """
    platforms = {jax.default_backend()} if sequential else set()
    images = BATCHES * batch_size
    config = Config(
        dataset="cifar10",
        batch_size=batch_size,
        seeds=tuple(range(runs)),
        optimizers=("radam",),
        epochs=_MANY_EPOCHS,
        mesh=f"data={devices}",
        compute_dtype=compute_dtype,
    )

    def epochs() -> Iterator[float]:
        trainer = Trainer(make_task(_random_images(images), 255), config)
        for _, metrics in trainer.train(config.runs()):
            yield 1 / metrics[0].examples_per_second

    population.SEQUENTIAL_PLATFORMS = platforms
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
    dataset = _random_images(BATCHES * BATCH_SIZE)
    return dataset.train_inputs.astype(np.float32) / 255, dataset.train_labels


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
