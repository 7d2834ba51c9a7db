"""The command line, used as a user would use it."""

import os
import pathlib
import re
import sys

import pytest
import small_experiment
from made_up import small_task
from small_experiment import SmallFlags, contents, rows, run

from experiments import main
from experiments.cifar10 import demo
from experiments.cifar10.config import Flags
from experiments.cifar10.presets import PRESETS
from experiments.config import DataError

QUICK = "--optimizers adam --epochs 1 --batch-size 8"
TWO_RATES = f"{QUICK} --learning-rates 1e-3 1e-2 --epochs 2"


def _main(monkeypatch, *words, load=None):
    """Runs `python -m experiments.cifar10` with that task; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["cifar10", *map(str, words)])
    try:
        monkeypatch.setattr(SmallFlags, "load", load or Flags.load)
        return main.main(SmallFlags, PRESETS)
    except SystemExit as exit:  # from the library that reads the flags
        return exit.code


def _never(_):
    pytest.fail("data was read")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of an experiment."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert run(TWO_RATES, out) == 0
    return out


def test_a_small_experiment(finished):
    found = rows(finished)
    assert len(found) == 2 * 2
    assert [row["step"] for row in found[:2]] == [3, 6]
    assert {path.name for path in finished.iterdir()} - {".lock"} == {
        "checkpoints",
        "comparisons.csv",
        "config.json",
        "endings.csv",
        "final_accuracies.png",
        "learning_curves.png",
        "metrics.csv",
        "metrics.jsonl",
        "report.html",
        "report.md",
        "runs.csv",
        "summary.csv",
        "tensorboard",
        "throughput.csv",
    }


def test_results_are_replaced_only_on_request(monkeypatch, finished, capsys):
    before = contents(finished)
    assert _main(monkeypatch, "--out", finished, load=_never) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert contents(finished) == before


def test_a_report_can_be_drawn_again(monkeypatch, finished, capsys):
    before = (finished / "report.md").read_bytes()
    (finished / "report.md").unlink()
    assert _main(monkeypatch, "report", finished) == 0
    assert (finished / "report.md").read_bytes() == before
    assert capsys.readouterr().out.endswith(f"Report: {finished / 'report.html'}\n")


def test_whoever_stops_reading_gets_the_report_nevertheless(monkeypatch, finished):
    """The summary is printed last; a pipe such as `| head -1` is closed by then."""
    reading, writing = os.pipe()
    os.close(reading)
    (finished / "report.md").unlink()
    with os.fdopen(writing, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert run(TWO_RATES, finished, "--resume") == 0
        stdout.flush()  # as at exit, where an error would be the status
    assert (finished / "report.md").exists()


def test_any_name_of_a_folder_can_be_printed(monkeypatch, tmp_path, capsys):
    """Square brackets are markup elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert run(QUICK, "x[/b]y") == 0
    assert "Report: x[/b]y/report.html" in capsys.readouterr().out
    assert rows(tmp_path / "x[" / "b]y")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--b2", "0.5"], 2, r"--b2 cannot be used with radam.*\(0.666666667, 1\)"),
        (["--out", b"\xff"], 2, r"--out must be UTF-8, got '\\udcff'"),
        (
            ["--out", "dangling"],
            2,
            "--out must be a directory, and .*dangling is none",
        ),
        (
            ["--out", "file/below"],
            2,
            "--out must be a directory, and .*file is none,",
        ),
        (
            ["--resume"],
            2,
            "--out must be that of an experiment, and runs/digits/c",
        ),
        (["--overwrite", "--out", "full"], 2, "--out must be this program's to --over"),
    ],
)
def test_what_cannot_be_run_is_refused_before_data_is_read(
    monkeypatch, tmp_path, capsys, words, status, message
):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("dangling").symlink_to("nowhere")
    pathlib.Path("file").write_text("mine")
    pathlib.Path("full/checkpoints").mkdir(parents=True)
    assert _main(monkeypatch, *map(os.fsdecode, words), load=_never) == status
    error = capsys.readouterr().err
    assert re.match(f"error: {message}", error)
    assert error.count("\n") == 1
    assert sorted(os.listdir()) == ["dangling", "file", "full"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"--epochs {10**22} --batch-size 1", "--epochs must be below 107,374,182, "),
        (f"--epochs {10**9} --batch-size 1", "--epochs must be below 107,374,182, "),
        ("--dataset cifar10 --data-dir ~nosuchuser", "--data-dir must be a directory"),
    ],
)
def test_what_the_data_does_not_allow_is_refused_on_one_line(
    monkeypatch, tmp_path, capsys, words, message
):
    load = Flags.load if "cifar10" in words else lambda _: small_task()
    words = [*words.split(), "--out", tmp_path / "out"]
    assert _main(monkeypatch, *words, load=load) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_data_is_an_error_that_leaves_nothing(monkeypatch, tmp_path, capsys):
    def missing(_):
        raise DataError("CIFAR-10 is not in DIR")

    assert _main(monkeypatch, "--out", tmp_path / "out", load=missing) == 1
    assert capsys.readouterr().err == "error: CIFAR-10 is not in DIR\n"
    assert not (tmp_path / "out").exists()


def test_a_platform_that_is_not_there_is_named(tmp_path):
    process = small_experiment.start("", tmp_path / "out", JAX_PLATFORMS="cuda")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.startswith("error: JAX_PLATFORMS=cuda cannot be used: ")
    assert error.count("\n") == 1


def test_unknown_choices_are_refused_with_the_known_ones(monkeypatch, capsys):
    assert _main(monkeypatch, "--optimizers", "lamb") == 2
    assert "radam" in capsys.readouterr().err


def test_help_lists_all_flags(monkeypatch, capsys):
    assert _main(monkeypatch, "--help") == 0
    found = re.findall(
        r"^\W{1,2}(--[a-z][a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE
    )
    assert " ".join(found) == (
        "--preset --optimizers --schedules --learning-rates --rates-of --seeds --b2 "
        "--weight-decay --schedule-steps --warmup-proportion --end-value "
        "--step-decay-at --epochs --batch-size --limit-train --validation --population "
        "--dataset --model --augment --compute-dtype --checkpoint-seconds "
        "--coordinator --processes --process-id --distributed --out --overwrite "
        "--resume --data-dir"
    )


def test_a_preset_is_where_flags_begin(monkeypatch):
    given = []
    monkeypatch.setattr(main, "run", lambda *args: given.append(args))
    _main(monkeypatch, "--preset", "blog", "--epochs", "3", "--seeds", "1")
    ((flags, command),) = given
    base, typed = PRESETS["blog"], "--preset blog --epochs 3 --seeds 1"
    assert command == f"python -m experiments.cifar10 {typed}"
    assert (flags.training.epochs, flags.grid.seeds) == (3, (1,))
    assert flags.grid.optimizers == base.grid.optimizers
    assert flags.training.schedule_steps == base.training.schedule_steps == 5000


def test_the_recorded_command_names_no_directory(monkeypatch):
    """Nor does it have other flags of the session, in any spelling."""
    given = []
    monkeypatch.setattr(main, "run", lambda *args: given.append(args))
    for words in ("--data-dir there --out here", "--data_dir=there --out=here"):
        words = f"--augment {words} --checkpoint-seconds 3 --overwrite --b2 0.99"
        _main(monkeypatch, *words.split())
    assert [command for _, command in given] == 2 * [
        "python -m experiments.cifar10 --augment --b2 0.99 --data-dir DIR"
    ]


def test_the_demo_has_the_three_arms_at_several_rates():
    assert [arm.name for arm in demo.FLAGS.grid.arms] == [
        "adam constant",
        "radam constant",
        "adam untuned-linear-warmup",
    ]
    assert len(demo.FLAGS.grid.learning_rates) >= 3
