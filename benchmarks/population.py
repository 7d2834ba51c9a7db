"""Runs per second, trained one by one or together: `python -m benchmarks.population`.

The experiment's CNN on images of CIFAR-10's size, drawn at random: one run alone, and
four in one compiled program that lets them follow one another (`jax.lax.map`) or go
side by side (`jax.vmap`). Where there are several devices, also: a run whose batches
they share, and runs shared out to them. Ways are interleaved; the clock stands outside
compilation and waits for the device.
"""

import math

import jax

from benchmarks import cnn, results
from benchmarks.measuring import interleave
from experiments.comparison import allocation

RUNS = 4
REPETITIONS = 5


def main() -> None:
    """Measures, and prints a table."""
    allocation.keep_freed_memory()  # as the experiment does
    alone = "one run alone"
    ways = {
        alone: cnn.ours(),
        f"{RUNS} runs, one after the other": cnn.ours(RUNS),
        f"{RUNS} runs, side by side": cnn.ours(RUNS, sequential=False),
    }
    devices = math.gcd(jax.device_count(), RUNS)
    if devices > 1:
        shared = f"one run, batches shared by {devices} devices"
        ways[shared] = cnn.ours(devices=devices)
        ways[f"{RUNS} runs, shared out to {devices} devices"] = cnn.ours(
            RUNS, devices=devices
        )
    case = "one image of any run"
    found = results.rows(case, interleave(ways, REPETITIONS), alone)
    speeds = {(case, row.way): f"{1 / row.seconds.median:,.0f}" for row in found}
    note = "The CNN's training. Ratios are to one run alone."
    table = results.Table("Runs together", note, found, {"images/s in all": speeds})
    print(results.report([table]))


if __name__ == "__main__":
    main()
