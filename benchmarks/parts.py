"""Which cases the short and the full form measure."""

import pathlib
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp

from benchmarks import growth, language_model, trees, update_step
from benchmarks.results import Page, Table
from benchmarks.training_step import training_steps

_ONE_LEAF = trees.one_leaf(25_000_000)
_SMALL = trees.small_leaves(2000)


def _update(full: bool, _: pathlib.Path) -> Iterator[Table]:
    cases = {
        "one leaf of 25M": (_ONE_LEAF, jnp.float32),
        "one leaf of 25M, bfloat16": (_ONE_LEAF, jnp.bfloat16),
        "ResNet-50: 161 leaves, 26M": (trees.resnet50(), jnp.float32),
        "GPT-2: 148 leaves, 124M": (trees.gpt2(), jnp.float32),
        "2,000 leaves, 0.5M": (_SMALL, jnp.float32),
    }
    if full:
        cases["ResNet-50, bfloat16"] = (trees.resnet50(), jnp.bfloat16)
        cases["GPT-2, bfloat16"] = (trees.gpt2(), jnp.bfloat16)
        cases["one leaf of 100M"] = (trees.one_leaf(100_000_000), jnp.float32)
    yield update_step.steps(cases, 25 if full else 9, 200 if full else 1)


def _first_step(full: bool, _: pathlib.Path) -> Iterator[Table]:
    cases = {
        "ResNet-50, 161 leaves": trees.resnet50(),
        "GPT-2, 148 leaves": trees.gpt2(),
        "2,000 leaves": _SMALL,
    }
    yield update_step.first_steps(cases, 7 if full else 2)


def _eager(full: bool, _: pathlib.Path) -> Iterator[Table]:
    cases = {"ResNet-50: 161 leaves, 26M": trees.resnet50()}
    if full:
        cases["2,000 leaves, 0.5M"] = _SMALL
    yield update_step.eager(cases, 15 if full else 5)


def _training(full: bool, _: pathlib.Path) -> Iterator[Table]:
    yield training_steps(25 if full else 7)
    if full:
        batch, length = (8, 1024) if jax.default_backend() == "gpu" else (1, 256)
        yield language_model.shares(batch, length, 9)


def _growth(full: bool, directory: pathlib.Path) -> Iterator[Table | Page]:
    rounds = 15 if full else 5
    sizes = [10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
    if full:
        sizes.append(300_000_000)
    yield growth.with_parameters(sizes, rounds, directory)
    leaves = [1, 10, 100, 1000] if full else [1, 10, 100]
    yield growth.with_leaves(leaves, rounds, directory)
    rounds = 5 if full else 3
    yield growth.with_runs([2, 4] if full else [4], rounds, directory)
    batches = [8, 32, 64, 128, 256] if full else [16, 64]
    yield growth.with_batch_size(batches, rounds, directory)
    yield growth.state_memory(directory)


PARTS: Mapping[str, Callable[[bool, pathlib.Path], Iterator[Table | Page]]] = {
    "update": _update,
    "first-step": _first_step,
    "eager": _eager,
    "training": _training,
    "growth": _growth,
}
