import jax.numpy as jnp
import pandas as pd
import pytest

from benchmarks import __main__, growth, measuring, trees, update_step


def test_published_numbers_of_parameters():
    assert (len(trees.resnet50()), trees.size(trees.resnet50())) == (161, 25_557_032)
    assert (len(trees.gpt2()), trees.size(trees.gpt2())) == (148, 124_439_808)


def test_medians_quartiles_and_ratios_of_the_same_round():
    times = pd.DataFrame({"ours": [1.0, 20.0, 3.0], "peer": [2.0, 10.0, 3.0]})
    ours = measuring.summary(times, "peer").loc["ours"]
    assert [*ours] == [3.0, 2.0, 11.5, 1.0, 0.75, 1.5]  # ratios are 0.5, 2 and 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.34, "2.34 s"), (0.9996e-3, "1 ms"), (21.44e-6, "21.4 us"), (5e-9, "5 ns")],
)
def test_durations_have_three_figures(seconds, text):
    assert measuring.duration(seconds) == text


def test_ways_are_interleaved():
    order = []

    def way(name, seconds):
        return lambda: order.append(name) or seconds

    times = measuring.interleave({"a": way("a", 1.0), "b": way("b", 2.0)}, 2)
    assert order == ["a", "b", "a", "b"]
    assert times.to_dict("list") == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


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
    gradients = update_step.random_gradients([(1000,)], dtype)
    carry = update_step.start(trees.OPTIMIZERS[trees.OURS], gradients)
    counters = 2 * (4 + 4 + 4)  # two counts and the factor
    moved = update_step.bytes_that_must_move(carry, gradients)
    assert moved == 1000 * per_parameter + counters


def test_tables_of_a_small_tree():
    shapes = [(64,), (128,)]
    names = [*trees.OPTIMIZERS, "floor"]
    table = update_step.steps({"small": (shapes, jnp.float32)}, 2, compile_torch=0)
    assert [name for name in names if f"| {name} " in table] == names
    tables = update_step.first_steps({"small": shapes}, 1)
    tables += update_step.eager({"small": shapes}, 1)
    for case in ("small: tracing", "small: compiling", "small"):
        assert f"\n| {case} " in tables


def test_a_figure_of_curves(tmp_path):
    text = growth.with_parameters([10, 1000], 2, tmp_path / "curves.png")
    assert " 1,000 |" in text
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_memory_of_the_state():
    rows = [row.replace(" ", "") for row in growth.state_memory().splitlines()]
    assert "|float32|4|8|2|" in rows
    assert "|bfloat16|2|6|3|" in rows


def test_out_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(SystemExit, match=r"^error: --out must be a directory"):
        __main__.main(path)
