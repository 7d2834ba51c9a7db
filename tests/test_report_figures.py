"""Pictures of made-up records."""

import dataclasses
import math

import numpy as np
import pytest
from made_up_records import held_out, make_flags, row, rows_of, write

from experiments.cifar10.presets import PRESETS
from experiments.config import Arm
from experiments.report.drawing import facets
from experiments.report.learning_curves import draw_learning_curves
from experiments.report.learning_rates import (
    draw_accuracies,
    draw_stability,
)
from experiments.report.selection import Selection


def _draw(draw, folder, flags, rows):
    experiment = write(folder, flags, rows)
    return draw(experiment, Selection(experiment))


def _points(line):
    return [*zip(line.get_xdata(), line.get_ydata(), strict=True)]


def _band(axes):
    """Lowest and highest of the first band."""
    vertices = axes.collections[0].get_paths()[0].vertices
    return vertices[:, 1].min(), vertices[:, 1].max()


def test_curves_are_means_over_seeds_in_a_band_with_r_t_beneath(tmp_path):
    flags = make_flags(
        optimizers=("radam",), seeds=(0, 1), epochs=2, learning_rates=(0.1,)
    )
    rows = [
        row(epoch, arm="radam", seed=seed, accuracy=0.25 * epoch + 0.125 * seed)
        for seed in (0, 1)
        for epoch in (1, 2)
    ]
    figure = _draw(draw_learning_curves, tmp_path, flags, rows)
    accuracy, _, factors = figure.axes
    solid, dashed = accuracy.get_lines()
    assert _points(solid) == _points(dashed) == [(1, 0.3125), (2, 0.5625)]
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert _band(accuracy) == (0.25, 0.625)
    drawn = {line.get_label(): line for line in factors.get_lines()}
    r_t = drawn["$r_t$, b2 = 0.999"]
    assert r_t.get_xdata()[-1] == 2
    assert r_t.get_ydata()[-1] == pytest.approx(0.0258, abs=1e-4)  # at step 6


def test_curves_of_held_out_examples_are_of_validation(tmp_path):
    flags = make_flags(
        optimizers=("adam",), epochs=2, learning_rates=(0.1,), validation=5
    )
    rows = held_out([row(accuracy=0.25), row(2, accuracy=0.75)], epochs=2)
    figure = _draw(draw_learning_curves, tmp_path, flags, rows)
    assert _points(figure.axes[0].get_lines()[0]) == [(1, 0.25), (2, 0.75)]
    assert "solid validation" in figure.get_suptitle()


def test_a_diverged_run_ends_the_mean_loss_and_is_marked(tmp_path):
    flags = make_flags(
        optimizers=("adam",), seeds=(0, 1), epochs=3, learning_rates=(0.1,)
    )
    losses = {0: (1.5, 1.0, 0.5), 1: (1.5, math.nan, math.nan)}
    rows = [
        row(epoch, seed=seed, loss=loss)
        for seed, of_seed in losses.items()
        for epoch, loss in enumerate(of_seed, start=1)
    ]
    figure = _draw(draw_learning_curves, tmp_path, flags, rows)
    test, _, cross = figure.axes[1].get_lines()
    assert np.isfinite(test.get_ydata()).tolist() == [True, False, False]
    assert _points(cross) == [(2, 1)]
    assert cross.get_marker() == "x"


def test_a_huge_loss_does_not_flatten_the_others(tmp_path):
    flags = make_flags(epochs=1, learning_rates=(0.1,))
    tops = []
    for loss in (1e6, 1.0):
        rows = [row(), row(arm="radam", loss=loss)]
        figure = _draw(draw_learning_curves, tmp_path, flags, rows)
        tops.append(figure.axes[1].get_ylim()[1])
    assert tops[0] == pytest.approx(2 * math.log(10))
    assert 1.5 < tops[1] < 2


def test_few_shared_rates_are_all_shown_and_otherwise_the_chosen_ones(tmp_path):
    def metrics(run):
        return {"accuracy": 1 - run.learning_rate}

    for rates_of, titles in (
        ((), ["learning rate 0.1", "learning rate 0.2"]),
        (("radam=0.3",), ["each arm at its chosen learning rate"]),
    ):
        flags = make_flags(learning_rates=(0.2, 0.1), rates_of=rates_of, epochs=1)
        figure = _draw(draw_learning_curves, tmp_path, flags, rows_of(flags, metrics))
        columns = figure.axes[: len(figure.axes) // 3]
        assert [axes.get_title() for axes in columns] == titles
        adam, _, radam, _ = columns[0].get_lines()
        shown = (adam.get_ydata()[0], radam.get_ydata()[0])
        assert shown == ((0.9, 0.7) if rates_of else (0.9, 0.9))


def test_an_unfinished_experiment_shows_what_there_is(tmp_path):
    flags = make_flags(learning_rates=(0.1, 0.2, 0.3, 0.4, 0.5), epochs=3)
    rows = [row(rate=0.2, accuracy=0.25), row(2, rate=0.2, accuracy=0.5)]
    figure = _draw(draw_learning_curves, tmp_path, flags, rows)
    assert _points(figure.axes[0].get_lines()[0]) == [(1, 0.25), (2, 0.5)]


def test_accuracies_have_each_arms_own_rates_and_a_ring_at_the_chosen_one(tmp_path):
    flags = make_flags(
        optimizers=("adam", "sgd"),
        learning_rates=(0.2, 0.1),
        rates_of=("sgd=1,2",),
        epochs=1,
    )
    rows = rows_of(flags, lambda run: {"accuracy": 1 / (1 + run.learning_rate)})
    figure = _draw(draw_accuracies, tmp_path, flags, rows)
    adam, sgd, *rings = figure.axes[0].get_lines()
    assert adam.get_xdata().tolist() == [0.1, 0.2]
    assert _points(sgd) == [(1, 0.5), (2, 1 / 3)]
    assert [_points(ring)[0] for ring in rings] == [(0.1, 1 / 1.1), (1, 0.5)]


def test_stability_leaves_diverged_runs_out_of_means_and_counts_them(tmp_path):
    flags = make_flags(
        optimizers=("adam",), learning_rates=(0.1, 0.2), seeds=(0, 1), epochs=2
    )
    rows = [
        row(1, 0.1, seed=0, loss=1.5),
        row(2, 0.1, seed=0, loss=1.0),
        row(1, 0.1, seed=1, loss=1.5),
        row(2, 0.1, seed=1, loss=1.25),
        row(1, 0.2, seed=0, loss=1.5),
        row(2, 0.2, seed=0, loss=2.5),
        row(1, 0.2, seed=1, loss=1.5),
        row(2, 0.2, seed=1, loss=math.nan),
    ]
    change, diverged = _draw(draw_stability, tmp_path, flags, rows).axes
    assert _points(change.get_lines()[0]) == [(0.1, 0.375), (0.2, 1)]
    assert _points(diverged.get_lines()[0]) == [(0.1, 0), (0.2, 0.5)]


def _arms(optimizers, schedules):
    return [Arm(f"o{i}", f"s{j}") for i in range(optimizers) for j in range(schedules)]


@pytest.mark.parametrize(
    ("arms", "titles"),
    [
        (_arms(8, 1), [""]),
        (_arms(8, 3), ["s0", "s1", "s2"]),
        (_arms(3, 8), ["o0", "o1", "o2"]),
        (_arms(20, 1), ["s0", "s0", "s0"]),
        ([*_arms(7, 2), Arm("o0", "t"), Arm("o1", "u")], ["s0", "s1", "others"]),
        (
            PRESETS["blog-fair"].grid.arms,
            ["constant", "warmup-linear-decay-5000", "warmup-linear-decay", "others"],
        ),
    ],
)
def test_panels_have_eight_arms_at_most_which_look_different(arms, titles):
    divided = facets(arms)
    assert [facet.title for facet in divided] == titles
    assert sorted(arm for facet in divided for arm in facet.looks) == sorted(arms)
    looks = {}
    for facet in divided:
        assert len(facet.looks) <= 8
        assert len({look[1:4] for look in facet.looks.values()}) == len(facet.looks)
        for look in facet.looks.values():
            assert looks.setdefault(look.label, look[1:4]) == look[1:4]


def test_legends_of_the_largest_preset_fit_into_the_figures(tmp_path):
    grid = dataclasses.asdict(PRESETS["blog-fair"].grid) | {"seeds": (0,)}
    flags = make_flags(**grid, epochs=2, validation=5)
    rows = held_out(rows_of(flags, lambda run: {}), epochs=2)
    experiment = write(tmp_path, flags, rows)
    for draw in (draw_learning_curves, draw_accuracies, draw_stability):
        figure = draw(experiment, Selection(experiment))
        figure.draw_without_rendering()
        (legend,) = figure.legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert len(set(labels)) == len(labels)
        assert legend.get_window_extent().width < figure.bbox.width
        lowest = min(axes.get_window_extent().height for axes in figure.axes)
        assert lowest > figure.dpi  # an inch
