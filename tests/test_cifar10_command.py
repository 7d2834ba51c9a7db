"""The command line, as a user would try it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from made_up import made_up_dataset

from experiments.cifar10 import __main__, data, demo
from experiments.comparison.config import DataError

ROOT = pathlib.Path(__file__).parent.parent


def _main(monkeypatch, *flags):
    """The exit status."""
    monkeypatch.setattr(sys, "argv", ["cifar10", *map(str, flags)])
    try:
        return __main__.main()
    except SystemExit as exit:  # from the library that reads the flags
        return exit.code


def _rows(out):
    text = (out / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_small_experiment(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(data, "load", lambda name, data_dir: made_up_dataset())
    out = tmp_path / "out"
    flags = "--optimizers radam adagrad --schedules untuned-linear-warmup"
    flags += " --learning-rates 1e-3 1e-2 --b2 0.9 --epochs 2 --batch-size 8"
    assert _main(monkeypatch, *flags.split(), "--out", out) == 0
    rows = _rows(out)
    assert len(rows) == 2 * 2 * 2
    assert [row["step"] for row in rows[:2]] == [3, 6]
    assert {path.name for path in out.iterdir()} - {".lock"} == {
        "accuracy_by_learning_rate.png",
        "checkpoints",
        "config.json",
        "learning_curves.png",
        "metrics.csv",
        "metrics.jsonl",
        "report.html",
        "report.md",
        "stability.png",
        "summary.csv",
        "tensorboard",
    }
    assert "report.md" in capsys.readouterr().out

    assert _main(monkeypatch, "--out", out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert _rows(out) == rows


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--learning-rates 0", "--learning-rates must be > 0, got 0.0"),
        ("--seeds 1 1", "--seeds must not repeat 1"),
        ("--b2 0.5", "`b2` must be in (0.666666667, 1)"),
        ("--epochs 0", "--epochs must be >= 1"),
    ],
)
def test_wrong_values_are_refused_before_data_is_read(
    monkeypatch, tmp_path, capsys, flags, message
):
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("data was read"))
    assert _main(monkeypatch, *flags.split(), "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unknown_choices_are_refused_with_the_known_ones(monkeypatch, capsys):
    assert _main(monkeypatch, "--optimizers", "lamb") == 2
    assert "radam" in capsys.readouterr().err


def test_missing_data_is_an_error_that_leaves_nothing(monkeypatch, tmp_path, capsys):
    def missing(name, data_dir):
        raise DataError("CIFAR-10 is not in DIR")

    monkeypatch.setattr(data, "load", missing)
    assert _main(monkeypatch, "--out", tmp_path / "out") == 1
    assert "error: CIFAR-10 is not in DIR" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unwritable_out_is_refused_before_data_is_read(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("data was read"))
    (tmp_path / "file").write_text("mine")
    assert _main(monkeypatch, "--out", tmp_path / "file" / "below") == 2
    assert "--out must be a directory" in capsys.readouterr().err


def test_interrupted_by_ctrl_c_keeps_and_reports_what_was_finished(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "experiments.cifar10", "--epochs", "1000"]
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        text=True,
    )
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in stderr
    rows = _rows(out)
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    assert "Interrupted: 0 of 2 runs are finished" in (out / "report.md").read_text()


def test_the_demo_has_the_three_arms_at_several_rates():
    assert [arm.name for arm in demo.CONFIG.arms] == [
        "adam constant",
        "radam constant",
        "adam untuned-linear-warmup",
    ]
    assert len(demo.CONFIG.learning_rates) >= 3


def test_deterministic_is_a_flag_of_xla(tmp_path):
    """It must be set before JAX looks for it: in a process of its own."""
    program = (
        "import os, sys\n"
        "from experiments.cifar10 import __main__\n"
        "from experiments.comparison.config import DataError\n"
        "def stop(config):\n"
        "    raise DataError(os.environ['XLA_FLAGS'])\n"
        "__main__.load_task = stop\n"
        "sys.exit(__main__.main())\n"
    )
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "--deterministic",
            "--out",
            str(tmp_path / "o"),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "--xla_gpu_deterministic_ops=true" in result.stderr
