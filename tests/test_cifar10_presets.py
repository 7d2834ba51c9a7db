import sys

import numpy as np
import pytest

from experiments.cifar10 import __main__
from experiments.cifar10.presets import PRESETS
from experiments.comparison import command, optimizers, records, schedules
from experiments.comparison.config import Arm


def _config(monkeypatch, *flags):
    """The configuration of a command line, and the command that is recorded."""
    seen = []

    def run(config, load_task, command=None, base=None):
        seen.append((config, records.command_line(config, base)))
        return 0

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(sys, "argv", ["cifar10", *flags])
    assert __main__.main() == 0
    return seen[0]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_flag_and_others_override_it(monkeypatch, name):
    config, line = _config(monkeypatch, "--preset", name)
    assert config == PRESETS[name]
    assert line == f"python -m experiments.cifar10 --preset {name}"
    flags = ["--limit-train", "200", "--epochs", "2", "--data-dir", "somewhere"]
    small, line = _config(monkeypatch, *flags, "--preset", name)
    assert (small.limit_train, small.epochs) == (200, 2)
    assert small.arms == config.arms
    assert line == (
        f"python -m experiments.cifar10 --epochs 2 --limit-train 200 "
        f"--preset {name} --data-dir DIR"
    )


def test_an_unknown_preset_is_refused_with_the_known_ones(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cifar10", "--preset", "blok"])
    with pytest.raises(SystemExit) as exit:
        __main__.main()
    assert exit.value.code == 2
    error = capsys.readouterr().err
    for name in PRESETS:
        assert name in error


def test_the_blog_had_two_optimizers_and_two_schedules():
    blog = PRESETS["blog"]
    assert blog.arms == (
        Arm("adam", "constant"),
        Arm("radam", "warmup-linear-decay"),
    )
    steps = 100 * 782
    adam, radam = (
        schedules.learning_rates(arm.schedule, 1e-3, blog, steps) for arm in blog.arms
    )
    np.testing.assert_allclose(adam, 1e-3, rtol=1e-6)
    np.testing.assert_allclose(
        radam[[0, 499, 4999, -1]], [2e-6, 1e-3, 1e-5, 1e-5], 1e-6
    )


def test_the_fair_one_has_every_optimizer_under_every_schedule_on_its_own_grid():
    fair = PRESETS["blog-fair"]
    pairs = {(arm.optimizer, *sorted(arm.schedule.split("+"))) for arm in fair.arms}
    lengths = ("constant", "warmup-linear-decay", "warmup-linear-decay-5000")
    for name in optimizers.OPTIMIZERS.keys() - {"radam-shifted"}:
        assert pairs >= {(name, length) for length in lengths}
    for warmup in ("untuned-linear-warmup", "untuned-exponential-warmup"):
        assert ("adam", warmup) in pairs
        assert pairs >= {("adam", warmup, length) for length in lengths[1:]}
    for arm in fair.arms:
        rates = fair.rates(arm)
        low, high = (
            (1e-3, 1e-1) if arm.optimizer in ("sgd", "adagrad") else (1e-4, 0.01)
        )
        assert (min(rates), max(rates), len(rates)) == (low, high, 5)
    assert len(fair.seeds) == 10
    assert fair.validation == 5000


def test_the_papers_rates_fall_after_epochs_81_and_122():
    paper = PRESETS["paper"]
    per_epoch = 391
    rates = schedules.learning_rates("step-decay", 0.1, paper, 164 * per_epoch)
    steps = np.array([0, 81 * per_epoch - 1, 81 * per_epoch, 122 * per_epoch - 1])
    np.testing.assert_allclose(rates[steps], [0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    np.testing.assert_allclose(rates[[122 * per_epoch, -1]], 1e-3, rtol=1e-6)
    warmed = schedules.learning_rates("linear-warmup-100+step-decay", 0.1, paper, 9999)
    np.testing.assert_allclose(warmed[[0, 49, 99, 100]], [1e-3, 0.05, 0.1, 0.1], 1e-6)
    assert {arm.optimizer for arm in paper.arms} == {"sgd", "adam", "radam"}
    assert len(paper.runs()) == 7 * 4 * 5
