"""Training of the experiment's CNN, beside the same CNN in Keras and PyTorch.

Each way trains `BATCHES` batches of random images of CIFAR-10's size at a time. Peers
have the same layers, initial distributions and loss, and keep scaled images in memory;
ours gathers and scales each batch on the device.
"""

import importlib
import importlib.util
import math
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from benchmarks.measuring import Way, interleave, iterated, repeated, section, summary
from experiments.cifar10 import convolution
from experiments.cifar10.config import ImageTraining
from experiments.cifar10.data import Images, make_task
from experiments.cifar10.model import DROPOUT_RATE, FILTERS, HIDDEN_UNITS
from experiments.group import Work, make_programs, put
from experiments.train import Examples

BATCHES = 8  # at a time
BATCH_SIZE = 64
_CLASSES = 10
_RATE = 1e-3


def _random_images(n: int) -> Examples:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return Examples(images, random.integers(0, _CLASSES, n).astype(np.int32))


def step_and_arguments(
    runs: int, devices: int, batch_size: int, **flags: Any
) -> tuple[Any, tuple[Any, ...]]:
    """The experiment's jitted step of runs under RAdam, and its arguments.

    `flags` are fields of `ImageTraining`. The second argument, the state, is donated.
    """
    training = ImageTraining(dataset="cifar10", batch_size=batch_size, **flags)
    examples = _random_images(BATCHES * batch_size)
    fast = devices == 1 and jax.default_backend() == "cpu"
    conv = convolution.convolve if fast else jax.lax.conv_general_dilated
    task = make_task(Images(examples, examples, 255, ""), training, conv=conv)
    work = Work(task, None, training, jax.devices()[:devices])
    programs = make_programs(work, "radam", runs)
    images = put(examples, programs.mesh, P())
    rates = np.full((runs, BATCHES), _RATE, np.float32)
    seeds = np.arange(runs, dtype=np.uint32)
    seeds, rates = put((seeds, rates), programs.mesh, P("runs"))
    batches = programs.batches(np.int32(0), seeds)
    state = programs.init(None, seeds).train
    return programs.step, (images, state, seeds, batches, rates)


def ours(
    devices: int = 1,
    batch_size: int = BATCH_SIZE,
    compute_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Way:
    """The experiment's own training of one run."""
    step, (images, state, *others) = step_and_arguments(
        1, devices, batch_size, compute_dtype=compute_dtype
    )

    def train(state: Any) -> Any:
        for _ in range(BATCHES):
            state = step(images, state, *others)
            if jax.default_backend() == "cpu":  # as the experiment does
                jax.block_until_ready(state.step)
        return state

    return iterated(train, state)


def training_steps(rounds: int) -> str:
    """Images per second of one run."""
    ways = {"one device": ours()}
    devices = math.gcd(jax.device_count(), BATCH_SIZE)
    if devices > 1:
        ways[f"{devices} devices share batches"] = ours(devices)
    if jax.default_backend() == "gpu":
        ways["one device, bfloat16"] = ours(compute_dtype="bfloat16")
    if importlib.util.find_spec("keras") and importlib.util.find_spec("tensorflow"):
        ways["Keras"] = _keras()
    if importlib.util.find_spec("torch"):
        ways["PyTorch"] = _torch(channels_last=False)
        ways["PyTorch, channels last"] = _torch(channels_last=True)
        if jax.default_backend() == "gpu":
            ways["PyTorch, compiled"] = _torch(channels_last=True, compiled=True)
    reference = "Keras" if "Keras" in ways else "one device"
    found = summary(interleave(ways, rounds) / (BATCHES * BATCH_SIZE), reference)
    note = (
        "Training the experiment's CNN on random 32x32x3 images, forward, backward and "
        "update; ours gathers its batches on the device. Ratios are of the times to "
        f"those of {reference}."
    )
    found["images/s"] = 1 / found["seconds"]
    case = f"one image, batch {BATCH_SIZE}, float32"
    return section("Training step of the CNN", note, {case: found})


def _batches() -> list[tuple[Any, Any]]:
    images, labels = _random_images(BATCHES * BATCH_SIZE)
    scaled = images.astype(np.float32) / 255
    return [*zip(np.split(scaled, BATCHES), np.split(labels, BATCHES), strict=True)]


def _keras() -> Way:
    """Keras on TensorFlow, which runs convolutions with oneDNN."""
    keras: Any = importlib.import_module("keras")
    layers = keras.layers
    initializer = {"activation": "relu", "kernel_initializer": "he_uniform"}
    model = keras.Sequential([keras.Input((32, 32, 3))])
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
    batches = _batches()

    def train() -> None:
        for images, labels in batches:
            model.train_on_batch(images, labels)

    return repeated(train, lambda: None)  # it waits by itself


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
    predict = torch.compile(model) if compiled else model
    batches = [
        (
            torch.tensor(images.transpose(0, 3, 1, 2)).to(device, memory_format=form),
            torch.tensor(labels).to(device, torch.int64),
        )
        for images, labels in _batches()
    ]

    def train() -> None:
        for images, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(predict(images), labels).backward()
            optimizer.step()

    return repeated(train, torch.cuda.synchronize if device == "cuda" else lambda: None)
