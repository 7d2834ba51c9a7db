import sys
from typing import get_args

import numpy as np
import pytest

from experiments import main, schedules
from experiments.cifar10.config import Flags, ImageTraining
from experiments.cifar10.demo import FLAGS as DEMO
from experiments.cifar10.presets import PRESETS
from experiments.config import Arm, ConfigError, Grid, OptimizerName


def _main():
    return main.main(Flags, PRESETS)


def _flags(monkeypatch, *words):
    """The flags of a command line, and the recorded command."""
    seen = []

    def run(flags, command):
        seen.append((flags, command))
        return 0

    monkeypatch.setattr(main, "run", run)
    monkeypatch.setattr(sys, "argv", ["cifar10", *words])
    assert _main() == 0
    return seen[0]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_flag_and_others_override_it(monkeypatch, name):
    flags, line = _flags(monkeypatch, "--preset", name)
    assert flags == PRESETS[name]
    assert line == f"python -m experiments.cifar10 --preset {name}"
    words = ["--limit-train", "200", "--epochs", "2", "--data-dir", "somewhere"]
    small, line = _flags(monkeypatch, *words, "--preset", name)
    assert (small.training.limit_train, small.training.epochs) == (200, 2)
    assert small.grid == flags.grid
    assert line == (
        f"python -m experiments.cifar10 --limit-train 200 --epochs 2 --preset {name} "
        "--data-dir DIR"
    )


def test_an_unknown_preset_is_refused_with_the_known_ones(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cifar10", "--preset", "blok"])
    with pytest.raises(SystemExit) as exit:
        _main()
    assert exit.value.code == 2
    error = capsys.readouterr().err
    for name in PRESETS:
        assert name in error


def test_the_blog_had_two_optimizers_and_two_schedules():
    blog = PRESETS["blog"]
    assert blog.grid.arms == (
        Arm("adam", "constant"),
        Arm("radam", "warmup-linear-decay"),
    )
    steps = 100 * 782
    adam, radam = (
        schedules.learning_rates(arm.schedule, 1e-3, blog.training, steps, range(steps))
        for arm in blog.grid.arms
    )
    np.testing.assert_allclose(adam, 1e-3, rtol=1e-6)
    np.testing.assert_allclose(
        radam[[0, 499, 4999, -1]], [2e-6, 1e-3, 1e-5, 1e-5], 1e-6
    )


def test_the_fair_one_has_every_optimizer_under_every_schedule_on_its_own_grid():
    grid = PRESETS["blog-fair"].grid
    pairs = {(arm.optimizer, *sorted(arm.schedule.split("+"))) for arm in grid.arms}
    lengths = ("constant", "warmup-linear-decay", "warmup-linear-decay-5000")
    for name in {*get_args(OptimizerName)} - {"radam-shifted"}:
        assert pairs >= {(name, length) for length in lengths}
    for warmup in ("untuned-linear-warmup", "untuned-exponential-warmup"):
        assert ("adam", warmup) in pairs
        assert pairs >= {("adam", warmup, length) for length in lengths[1:]}
    for arm in grid.arms:
        rates = grid.rates(arm)
        low, high = (
            (1e-3, 1e-1) if arm.optimizer in ("sgd", "adagrad") else (1e-4, 0.01)
        )
        assert (min(rates), max(rates), len(rates)) == (low, high, 5)
    assert len(grid.seeds) == 10
    assert PRESETS["blog-fair"].training.validation == 5000


def test_the_papers_rates_fall_after_epochs_81_and_122():
    grid, training = PRESETS["paper"].grid, PRESETS["paper"].training
    per_epoch = 391
    steps = 164 * per_epoch
    rates = schedules.learning_rates("step-decay", 0.1, training, steps, range(steps))
    steps = np.array([0, 81 * per_epoch - 1, 81 * per_epoch, 122 * per_epoch - 1])
    np.testing.assert_allclose(rates[steps], [0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    np.testing.assert_allclose(rates[[122 * per_epoch, -1]], 1e-3, rtol=1e-6)
    name = "linear-warmup-100+step-decay"
    warmed = schedules.learning_rates(name, 0.1, training, 9999, range(9999))
    np.testing.assert_allclose(warmed[[0, 49, 99, 100]], [1e-3, 0.05, 0.1, 0.1], 1e-6)
    assert {arm.optimizer for arm in grid.arms} == {"sgd", "adam", "radam"}
    assert len(grid.runs()) == 7 * 4 * 5


def test_the_demo_has_three_arms_at_four_rates():
    assert [arm.name for arm in DEMO.grid.arms] == [
        "adam constant",
        "radam constant",
        "adam untuned-linear-warmup",
    ]
    assert len(DEMO.grid.learning_rates) == 4


def test_batch_norm_is_not_evaluated_with_averaged_weights():
    with pytest.raises(ConfigError, match="--model resnet20 cannot be evaluated with"):
        Flags(
            grid=Grid(optimizers=("adam", "schedule-free-radam")),
            training=ImageTraining(model="resnet20"),
        )
