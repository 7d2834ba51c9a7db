"""`python -m benchmarks`: the tables of docs/performance.md, and figures.

Prints the tables, and writes them and the figures into `--out`. The short form takes
under ten minutes on two cores; `--full` has more cases and rounds.
"""

import importlib.metadata
import itertools
import os
import pathlib
import platform
import sys
from collections.abc import Iterator
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import tyro

from benchmarks import cnn, growth, trees, update_step
from experiments import allocation

Part = Literal["update", "first-step", "eager", "training", "growth"]
_PACKAGES = "jax, jaxlib, optax, flax, numpy, torch, keras, tensorflow-cpu"


def main(
    out: pathlib.Path = pathlib.Path("runs/bench"),
    only: tuple[Part, ...] = get_args(Part),
    full: bool = False,
) -> None:
    """Measures, and prints each table as soon as it is complete.

    Args:
      out: directory for tables.md and the figures.
      only: parts to measure.
      full: more cases, and more rounds.
    """
    if out.exists() and not out.is_dir():
        sys.exit(f"error: --out must be a directory, got the file {out}.")
    # Before JAX starts: peers need room on a GPU, and each core must be a device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    allocation.keep_freed_memory()  # as in the experiment; peers get it, too
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "tables.md").open("w", buffering=1) as file:
        head = f"# Benchmarks\n\n{environment()}\n"
        for text in itertools.chain([head], sections(out, only, full)):
            print(text, flush=True)
            print(text, file=file)


def environment() -> str:
    """Machine and versions."""
    installed = {d.name: d.version for d in importlib.metadata.distributions()}
    return ", ".join(
        [
            f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            f"{platform.machine()} with {os.cpu_count()} cores",
            f"Python {platform.python_version()}",
            *(f"{n} {installed[n]}" for n in _PACKAGES.split(", ") if n in installed),
        ]
    )


def sections(out: pathlib.Path, only: tuple[Part, ...], full: bool) -> Iterator[str]:
    """Measures the tables, one after the other."""
    one_leaf, resnet50, gpt2 = [(25_000_000,)], trees.resnet50(), trees.gpt2()
    small = [(64 * (1 + index % 7),) for index in range(2000)]
    if "update" in only:
        cases: dict[str, tuple[trees.Shapes, type]] = {
            "one leaf of 25M": (one_leaf, jnp.float32),
            "one leaf of 25M, bfloat16": (one_leaf, jnp.bfloat16),
            "ResNet-50: 161 leaves, 26M": (resnet50, jnp.float32),
            "GPT-2: 148 leaves, 124M": (gpt2, jnp.float32),
            "2,000 leaves, 0.5M": (small, jnp.float32),
        }
        if full:
            cases["ResNet-50, bfloat16"] = (resnet50, jnp.bfloat16)
            cases["GPT-2, bfloat16"] = (gpt2, jnp.bfloat16)
            cases["one leaf of 100M"] = ([(100_000_000,)], jnp.float32)
        yield update_step.steps(cases, 25 if full else 9, 200 if full else 1)
    if "first-step" in only:
        of = {"ResNet-50: 161 leaves": resnet50, "GPT-2: 148 leaves": gpt2}
        yield update_step.first_steps(of | {"2,000 leaves": small}, 7 if full else 2)
    if "eager" in only:
        of = {"ResNet-50: 161 leaves, 26M": resnet50}
        of |= {"2,000 leaves, 0.5M": small} if full else {}
        yield update_step.eager(of, 15 if full else 5)
    if "training" in only:
        yield cnn.training_steps(25 if full else 7)
    if "growth" in only:
        rounds = 15 if full else 5
        sizes = [10**exponent for exponent in range(4, 9)] + [300_000_000] * full
        yield growth.with_parameters(sizes, rounds, out / "parameters.png")
        leaves = [1, 10, 100] + [1000] * full
        yield growth.with_leaves(leaves, rounds, out / "leaves.png")
        batches, rounds = ([8, 32, 64, 128, 256], 5) if full else ([16, 64], 3)
        yield growth.with_batch_size(batches, rounds, out / "batch_size.png")
        yield growth.state_memory()


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
