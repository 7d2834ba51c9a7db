"""Runs per second, trained one by one or together: `python -m benchmarks.population`.

The experiment's CNN on images of CIFAR-10's size, drawn at random: one run alone, and
four in one compiled program that lets them follow one another (`jax.lax.map`) or go
side by side (`jax.vmap`). Where there are several devices, also: a run whose batches
they share, and runs shared out to them. Ways are interleaved; the clock stands outside
compilation and waits for the device.
"""

import math
import platform
import statistics
from collections.abc import Iterator

import flax
import jax
import numpy as np

from experiments.cifar10.config import Config
from experiments.cifar10.task import make_task
from experiments.comparison import population
from experiments.comparison.task import Dataset
from experiments.comparison.training import Trainer

RUNS = 4
BATCHES = 8  # per repetition
REPETITIONS = 5
_BATCH_SIZE = 64


def _random_images() -> Dataset:
    random = np.random.default_rng(0)
    n = BATCHES * _BATCH_SIZE

    def images(n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)

    def labels(n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        return random.integers(0, 10, n).astype(np.int32)

    return Dataset(images(n), labels(n), images(64), labels(64), 10, "random images")


def _epochs(runs: int, *, devices: int = 1, sequential: bool = True) -> Iterator[float]:
    """Images per second of all runs, an epoch after the other."""
    platforms = {jax.default_backend()} if sequential else set()
    population.SEQUENTIAL_PLATFORMS = platforms
    config = Config(
        dataset="cifar10",
        limit_train=BATCHES * _BATCH_SIZE,
        seeds=tuple(range(runs)),
        optimizers=("radam",),
        epochs=REPETITIONS + 1,
        mesh=f"data={devices}",
    )
    trainer = Trainer(make_task(_random_images(), 255), config)
    for _, metrics in trainer.train(config.runs()):
        yield metrics[0].examples_per_second


def main() -> None:
    """Measures, and prints a table."""
    ways = {
        "one run alone": _epochs(1),
        f"{RUNS} runs, one after the other": _epochs(RUNS),
        f"{RUNS} runs, side by side": _epochs(RUNS, sequential=False),
    }
    devices = math.gcd(jax.device_count(), RUNS)
    if devices > 1:
        ways[f"one run, batches shared by {devices} devices"] = _epochs(
            1, devices=devices
        )
        ways[f"{RUNS} runs, shared out to {devices} devices"] = _epochs(
            RUNS, devices=devices
        )
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for epochs in ways.values():
        next(epochs)  # compiles
    for _ in range(REPETITIONS):
        for way, epochs in ways.items():
            speeds[way].append(next(epochs))
    device = jax.devices()[0].device_kind
    print(f"{device}, {platform.machine()}, Python {platform.python_version()},")
    print(f"jax {jax.__version__}, flax {flax.__version__}")
    print("| | images/s in all, median (lowest-highest) | ratio |\n|---|---:|---:|")
    alone = statistics.median(speeds["one run alone"])
    for way, values in speeds.items():
        median = statistics.median(values)
        spread = f"{min(values):,.0f}-{max(values):,.0f}"
        print(f"| {way} | {median:,.0f} ({spread}) | {median / alone:.2f} |")


if __name__ == "__main__":
    main()
