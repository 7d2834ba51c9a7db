import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    growth,
    language_model,
    measuring,
    regressions,
    results,
    trees,
    update_step,
)
from benchmarks.measuring import Spread

ROOT = pathlib.Path(__file__).parent.parent


def _content(ratio, low, high, *, reference="peer", version="1"):
    row = {"case": "tree", "way": "ours", "reference": reference}
    row |= {
        "seconds": {"median": 1.0, "low": 1.0, "high": 1.0},
        "ratio": {"median": ratio, "low": low, "high": high},
    }
    own = row | {"way": reference}
    return {"environment": {"jax": version}, "tables": {"step": [row, own]}}


def test_published_numbers_of_parameters():
    assert (len(trees.resnet50()), trees.size(trees.resnet50())) == (161, 25_557_032)
    assert (len(trees.gpt2()), trees.size(trees.gpt2())) == (148, 124_439_808)


def test_ratios_are_of_the_same_round():
    times = {"ours": [1.0, 20.0, 3.0], "peer": [2.0, 10.0, 3.0]}
    ours, _ = results.rows("tree", times, "peer")
    assert ours.ratio.median == 1.0  # of 0.5, 2 and 1; of the medians it is 1, too
    assert (ours.ratio.low, ours.ratio.high) == (0.75, 1.5)


def test_ways_are_interleaved():
    order = []

    def way(name):
        return lambda: order.append(name) or 1.0

    times = measuring.interleave({"a": way("a"), "b": way("b")}, 2)
    assert order == ["a", "b", "a", "b"]
    assert times == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_a_short_call_is_repeated_until_the_clock_is_fine_enough():
    calls = []
    way = measuring.repeated(lambda: calls.append(None), lambda: None)
    calls.clear()
    way()
    assert len(calls) > 1000


@pytest.mark.parametrize(
    ("dtype", "per_parameter"),
    [(jnp.float32, 28), (jnp.bfloat16, 3 * 2 + 2 * (2 + 4))],
)
def test_bytes_that_must_move(dtype, per_parameter):
    gradients = update_step.gradients([(1000,)], dtype)
    update = update_step.Update(update_step.OPTIMIZERS["optax_radam.radam"], gradients)
    moved = update_step.bytes_that_must_move(update, gradients)
    counters = 2 * (4 + 4 + 4)  # two counts and the factor
    assert moved == 1000 * per_parameter + counters


def test_tables_of_a_small_tree(tmp_path):
    shapes = trees.small_leaves(3)
    table = update_step.steps({"small": (shapes, jnp.float32)}, 2, compile_torch=0)
    ways = [row.way for row in table.rows]
    assert ways[:3] == list(update_step.OPTIMIZERS)
    assert ways[-1] == "floor"
    first = update_step.first_steps({"small": shapes}, 1)
    eager = update_step.eager({"small": shapes}, 1)
    results.write(tmp_path, [table, first, eager, growth.state_memory(tmp_path)])

    content = regressions.read(tmp_path / "results.json")
    assert regressions.report(content, content).endswith("and 0 are not in it.")
    text = (tmp_path / "tables.md").read_text()
    assert f"jax {jax.__version__}" in text
    assert "| optax_radam, float32 | 4 | 8 | 2 |" in text
    assert "| optax_radam, bfloat16 | 2 | 6 | 3 |" in text
    assert (tmp_path / "memory.png").stat().st_size > 1000
    assert not list(tmp_path.glob("*.part"))


def test_curves_against_parameters(tmp_path):
    table = growth.with_parameters([10, 1000], 2, tmp_path)
    assert len(table.rows) == 6
    assert all(row.seconds.median > 0 for row in table.rows)
    assert (tmp_path / "parameters.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (_content(1.0, 0.95, 1.05), 0),
        (_content(1.3, 1.06, 1.5), 1),
        (_content(0.7, 0.6, 0.85), 1),
        (_content(1.3, 1.0, 1.5), 0),  # quartiles overlap
        (_content(1.1, 1.09, 1.11), 0),  # less than 15%
        (_content(1.3, 1.2, 1.4, reference="another"), 0),
    ],
)
def test_what_moved_beyond_the_noise(now, found):
    before = _content(1.0, 0.9, 1.05)
    moves = regressions.moved(before, now)
    assert len(moves) == found
    word = {(1, True): "| slower |", (1, False): "| faster |"}.get(
        (found, now["tables"]["step"][0]["ratio"]["median"] > 1), "0 of 1"
    )
    assert word in regressions.report(before, now)


def test_versions_that_differ_are_told():
    text = regressions.report(_content(1, 1, 1), _content(1, 1, 1, version="2"))
    assert "jax: 1 in the baseline, 2 now" in text


@pytest.mark.parametrize("content", [None, "{", "{}", '{"tables": {"a": [{}]}}'])
def test_files_that_are_no_results(tmp_path, content):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"python -m benchmarks"):
        regressions.read(path)


def test_the_baseline_holds_ratios_and_no_times():
    content = regressions.read(regressions.BASELINE)
    assert regressions.ratios(content)
    assert "seconds" not in json.dumps(content)


def test_the_command_ends_with_a_clear_error(tmp_path):
    command = [sys.executable, "-m", "benchmarks.regressions", tmp_path / "none.json"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: no results at ")


def test_out_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.touch()
    command = [sys.executable, "-m", "benchmarks", "--out", path]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: --out must be a directory")


def test_language_model_sees_no_later_token():
    random = np.random.default_rng(0)
    width, vocabulary = 24, 11
    small = {768: width, 50257: vocabulary}
    shapes = [
        tuple(small.get(n, n * width // 768 if n % 768 == 0 else n) for n in shape)
        for shape in trees.gpt2()
    ]
    params = [jnp.asarray(0.1 * random.normal(size=shape)) for shape in shapes]
    tokens = jnp.array([[1, 2, 3, 4]])
    before = language_model.logits(params, tokens)
    after = language_model.logits(params, tokens.at[0, 2].set(5))
    assert before.shape == (1, 4, vocabulary)
    moved = jnp.abs(after - before).max(axis=(0, 2))
    assert (moved[:2] == 0).all()
    assert (moved[2:] > 1e-4).all()


def test_spreads_are_medians_and_quartiles():
    assert measuring.spread([5, 1, 2, 3, 4]) == Spread(3, 2, 4)
