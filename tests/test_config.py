"""Flags: their meaning, and refusals that name the flag."""

import dataclasses
import re
import time
import types

import jax
import pytest
from small_experiment import parse

from experiments import run as run_module
from experiments.cifar10.config import Flags, ImageTraining
from experiments.cifar10.data import load_digits, make_task
from experiments.config import Arm, ConfigError, Grid, Run, Session
from experiments.group import Work


def test_every_combination_runs():
    grid = Grid(
        optimizers=("adam", "sgd"),
        schedules=("constant", "untuned-linear-warmup"),
        learning_rates=(0.1, 1e-3),
        seeds=(0, 7),
    )
    runs = grid.runs()
    assert len(set(runs)) == 16
    assert runs[0] == Run(Arm("adam", "constant"), 0.1, 0)
    assert runs[-1].name == "sgd-untuned-linear-warmup-0.001-s7"
    assert len({run.name for run in runs}) == 16


def test_an_optimizer_may_name_its_one_schedule():
    grid = Grid(
        optimizers=("adam", "sgd:untuned-linear-warmup"),
        schedules=("constant", "warmup-linear-decay"),
    )
    assert grid.arms == (
        Arm("adam", "constant"),
        Arm("adam", "warmup-linear-decay"),
        Arm("sgd", "untuned-linear-warmup"),
    )


def test_defaults():
    assert [run.name for run in Grid().runs()] == [
        "adam-constant-0.001-s0",
        "radam-constant-0.001-s0",
    ]
    assert str(Flags().out) == "runs/digits"
    assert str(Flags(training=ImageTraining(dataset="cifar10")).out) == "runs/cifar10"


def test_only_grid_and_training_decide_about_results():
    """They are recorded; a session's flags are not."""
    names = [
        {field.name for field in dataclasses.fields(part)}
        for part in (Grid, ImageTraining, Session)
    ]
    assert not names[0] & names[1]
    assert not (names[0] | names[1]) & names[2]
    assert {"out", "resume", "checkpoint_seconds", "coordinator"} <= names[2]


PROCESSES = "--coordinator localhost:1234 --processes 2 --process-id 1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--optimizers", "--optimizers must be a list of one entry at least"),
        ("--processes 2", "--coordinator HOST:PORT, --processes N and --process-id I"),
        ("--process-id 0 --coordinator a:1", "--process-id I need each other"),
        (f"{PROCESSES} --distributed", "and exclude --distributed, which finds"),
        (f"{PROCESSES} --coordinator a", "--coordinator must be HOST:PORT, got 'a'"),
        (f"{PROCESSES} --process-id 2", r"--process-id must be in \[0, 1\], got 2"),
        (f"{PROCESSES} --processes 0", "--processes must be >= 1, got 0"),
        (
            "--optimizers adam adam",
            "--optimizers must not repeat 'adam'",
        ),
        ("--optimizers lamb", "--optimizers must be one of adam, radam, .*lamb"),
        ("--optimizers sgd:cosine", "--schedules must be one of .*'cosine'"),
        (
            "--optimizers sgd sgd:constant",
            "--optimizers must not repeat 'sgd consta",
        ),
        (
            "--optimizers sgd:constant --schedules step-decay",
            "--schedules has 'step-decay', but all --optimizers name their own",
        ),
        ("--schedules linear-warmup-3000000000", "--schedules must be one of"),
        ("--rates-of adam=0", "--rates-of must be NAME=RATE,RATE"),
        ("--rates-of adam=1 adam=2", "--rates-of must be .*each name once.* 'adam=2'"),
        ("--rates-of sgd=0.1", "--rates-of has 'sgd', which --optimizers has no"),
        ("--step-decay-at 1.0", r"--step-decay-at must be in \(0, 1\), got 1.0"),
        ("--step-decay-at", "--step-decay-at must be a list of one entry"),
        ("--population 0", "--population must be >= 1, got 0"),
        ("--weight-decay -1", "--weight-decay must be >= 0, got -1.0"),
        ("--resume --overwrite", "--resume and --overwrite exclude each"),
        (
            "--model resnet20 --optimizers schedule-free-radam",
            "--model resnet20 cannot be evaluated with the average",
        ),
        (
            "--schedules constant constant",
            "--schedules must not repeat 'constant'",
        ),
        ("--seeds 1 1", "--seeds must not repeat 1"),
        ("--learning-rates 0.1 0.10", "--learning-rates must not repeat 0.1"),
        ("--learning-rates 0", "--learning-rates must be > 0, got 0.0"),
        ("--learning-rates nan", "--learning-rates must be > 0, got nan"),
        ("--seeds -1", r"--seeds must be in \[0, 2\*\*32\), got -1"),
        ("--epochs 0", "--epochs must be >= 1, got 0"),
        ("--batch-size 0", "--batch-size must be >= 1, got 0"),
        ("--checkpoint-seconds -1", "--checkpoint-seconds must be >= 0, got -1.0"),
        ("--b2 1", r"--b2 must be in \[0, 1\), got 1.0"),
        ("--schedule-steps 0", "--schedule-steps must be >= 1, got 0"),
        ("--warmup-proportion 1", r"--warmup-proportion must be in \[0, 1\)"),
        ("--end-value -1", "--end-value must be >= 0, got -1.0"),
        (
            "--schedules warmup-linear-decay --learning-rates 0.1 1e-6",
            "--end-value must be at most 1e-06, the lowest learning rate of adam",
        ),
    ],
)
def test_bad_flags_are_refused_by_name(line, message, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(line)
    assert ended.value.code == 2
    words = capsys.readouterr().err.replace("│", " ")
    assert re.search(message, " ".join(words.split()))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--validation 1437", "--validation must be below 1,437, the training images"),
        ("--validation 400 --limit-train 1038", "--limit-train must be at most 1,037,"),
        ("--limit-train 63", "--batch-size must be at most 63"),
        (
            "--batch-size 1438",
            "--batch-size must be at most 1,437, the training images of digits, "
            "got 1438",
        ),
        (f"--epochs {10**22}", "--epochs must be below 93,368,854, got 1000000"),
        (f"--epochs {10**9}", "--epochs must be below 93,368,854, got 1000000000"),
    ],
)
def test_flags_that_the_data_does_not_allow_are_refused_by_name(line, message):
    flags = parse(line)
    task = make_task(load_digits(), flags.training)
    with pytest.raises(ConfigError, match=message):
        run_module.split(task, flags, jax.devices()[:1])


def _work(**fields):
    """Shared data of groups on a device that trains several runs side by side."""
    devices = [types.SimpleNamespace(platform="tpu")]
    return Work(None, None, ImageTraining(**fields), devices)


def test_an_optimizers_own_rates_and_groups_of_runs():
    grid = Grid(
        optimizers=("adam", "sgd", "adam:untuned-linear-warmup"),
        learning_rates=(0.1, 0.2),
        rates_of=("sgd=0.3,0.4,0.5",),
    )
    assert [grid.rates(arm) for arm in grid.arms] == [
        (0.1, 0.2),
        (0.3, 0.4, 0.5),
        (0.1, 0.2),
    ]
    groups = _work(population=3).groups(grid)
    assert [[run.arm.optimizer for run in group] for group in groups] == [
        ["adam"] * 3,
        ["adam"],
        ["sgd"] * 3,
    ]
    assert {run for group in groups for run in group} == set(grid.runs())


def test_thirty_thousand_seeds_are_quick():
    seeds = tuple(range(30_000))
    began = time.process_time()
    groups = _work().groups(Grid(seeds=seeds))
    assert len(groups) == 60_000
    with pytest.raises(ConfigError, match="--seeds must not repeat 29999"):
        Grid(seeds=(*seeds, 29_999))
    assert time.process_time() - began < 1


def test_a_b2_that_radam_refuses_is_refused():
    message = r"--b2 cannot be used with radam constant: `b2` must be in \(0.666666667"
    with pytest.raises(ConfigError, match=message):
        run_module.check_optimizers(Flags(training=ImageTraining(b2=0.5)))
    run_module.check_optimizers(parse("--optimizers adam --b2 0.5"))
