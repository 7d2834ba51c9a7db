import math

import pytest

from experiments.cifar10.config import Config
from experiments.comparison import experiment
from experiments.comparison.config import Arm, Run

PROCESSES = {"coordinator": "localhost:1234", "processes": 2, "process_id": 1}


def test_every_combination_runs():
    config = Config(
        optimizers=("adam", "sgd"),
        schedules=("constant", "untuned-linear-warmup"),
        learning_rates=(0.1, 1e-3),
        seeds=(0, 7),
    )
    runs = config.runs()
    assert len(set(runs)) == 16
    assert runs[0] == Run(Arm("adam", "constant"), 0.1, 0)
    assert runs[-1].name == "sgd-untuned-linear-warmup-0.001-s7"
    assert len({run.name for run in runs}) == 16


def test_an_optimizer_may_name_its_one_schedule():
    config = Config(
        optimizers=("adam", "sgd:untuned-linear-warmup"),
        schedules=("constant", "warmup-linear-decay"),
    )
    assert config.arms == (
        Arm("adam", "constant"),
        Arm("adam", "warmup-linear-decay"),
        Arm("sgd", "untuned-linear-warmup"),
    )


def test_defaults():
    config = Config()
    assert [run.name for run in config.runs()] == [
        "adam-constant-0.001-s0",
        "radam-constant-0.001-s0",
    ]
    assert str(config.out_dir) == "runs/digits"
    assert str(Config(dataset="cifar10").out_dir) == "runs/cifar10"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizers": ()}, "--optimizers must be a list of one entry at least"),
        ({"mesh": "4"}, "--mesh must be data=N, N >= 1, got '4'"),
        ({"mesh": "data=0"}, "--mesh must be data=N, N >= 1, got 'data=0'"),
        ({"processes": 2}, "--coordinator is missing: many processes need --coord"),
        ({"process_id": 0, "coordinator": "a:1"}, "--processes is missing"),
        ({**PROCESSES, "distributed": True}, "it excludes --coordinator, --processes"),
        ({**PROCESSES, "coordinator": "a"}, "--coordinator must be HOST:PORT, got 'a'"),
        ({**PROCESSES, "process_id": 2}, r"--process-id must be in \[0, 1\], got 2"),
        ({**PROCESSES, "processes": 0}, "--processes must be >= 1, got 0"),
        ({"optimizers": ("adam", "adam")}, "--optimizers must not repeat 'adam'"),
        ({"optimizers": ("lamb",)}, "--optimizers must be one of adam, radam, .*lamb"),
        ({"optimizers": ("sgd:cosine",)}, "--schedules must be one of .*'cosine'"),
        (
            {"optimizers": ("sgd", "sgd:constant")},
            "--optimizers must not repeat 'sgd constant'",
        ),
        (
            {"optimizers": ("sgd:constant",), "schedules": ("step-decay",)},
            "--schedules has 'step-decay', but all --optimizers name their own",
        ),
        (
            {"optimizers": ("sgd:constant",), "schedules": ("cosine",)},
            "--schedules must be one of",
        ),
        ({"schedules": ("linear-warmup-3000000000",)}, "--schedules must be one of"),
        ({"rates_of": ("adam=0",)}, "--rates-of must be NAME=RATE,RATE"),
        ({"rates_of": ("adam=1", "adam=2")}, "--rates-of must be once for an optim"),
        ({"rates_of": ("sgd=0.1",)}, "--rates-of has 'sgd', which --optimizers has no"),
        ({"step_decay_at": (1.0,)}, r"--step-decay-at must be in \(0, 1\), got 1.0"),
        ({"step_decay_at": ()}, "--step-decay-at must be a list of one entry"),
        ({"population": 0}, "--population must be >= 1, got 0"),
        ({"validation": 1437}, "--validation must be below 1,437, the training images"),
        (
            {"validation": 400, "limit_train": 1038},
            "--limit-train must be at most 1,03",
        ),
        ({"limit_train": 63}, "--batch-size must be at most 63"),
        ({"weight_decay": -1.0}, "--weight-decay must be >= 0, got -1.0"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite exclude each"),
        (
            {"model": "resnet20", "optimizers": ("schedule-free-radam",)},
            "--model resnet20 cannot be evaluated with the average",
        ),
        ({"schedules": ("constant",) * 2}, "--schedules must not repeat 'constant'"),
        ({"seeds": (1, 1)}, "--seeds must not repeat 1"),
        ({"learning_rates": (0.1, 0.10)}, "--learning-rates must not repeat 0.1"),
        ({"learning_rates": (0.0,)}, "--learning-rates must be > 0, got 0.0"),
        ({"learning_rates": (math.nan,)}, "--learning-rates must be > 0, got nan"),
        ({"seeds": (-1,)}, r"--seeds must be in \[0, 2\*\*32\), got -1"),
        ({"epochs": 0}, "--epochs must be >= 1, got 0"),
        ({"batch_size": 0}, "--batch-size must be >= 1, got 0"),
        (
            {"batch_size": 1438},
            "--batch-size must be at most 1,437, the training images of digits, "
            "got 1438",
        ),
        ({"b2": 1.0}, r"--b2 must be in \[0, 1\), got 1.0"),
        ({"schedule_steps": 0}, "--schedule-steps must be >= 1, got 0"),
        ({"warmup_proportion": 1.0}, r"--warmup-proportion must be in \[0, 1\)"),
        ({"end_value": -1.0}, "--end-value must be >= 0, got -1.0"),
        (
            {"schedules": ("warmup-linear-decay",), "learning_rates": (0.1, 1e-6)},
            "--end-value must be at most 1e-06, the lowest learning rate of adam",
        ),
    ],
)
def test_bad_flags_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)


def test_an_optimizers_own_rates_and_groups_of_runs():
    config = Config(
        optimizers=("adam", "sgd", "adam:untuned-linear-warmup"),
        learning_rates=(0.1, 0.2),
        rates_of=("sgd=0.3,0.4,0.5",),
        population=3,
    )
    assert [config.rates(arm) for arm in config.arms] == [
        (0.1, 0.2),
        (0.3, 0.4, 0.5),
        (0.1, 0.2),
    ]
    groups = config.groups()
    assert [[run.arm.optimizer for run in group] for group in groups] == [
        ["adam"] * 3,
        ["adam"],
        ["sgd"] * 3,
    ]
    assert {run for group in groups for run in group} == set(config.runs())


def test_a_b2_that_radam_refuses_is_refused_before_any_data_is_read(tmp_path):
    config = Config(dataset="cifar10", b2=0.5, out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"`b2` must be in \(0.666666667, 1\)"):
        experiment.check(config)
    adam = Config(optimizers=("adam",), b2=0.5, out=tmp_path / "out")
    experiment.check(adam)
