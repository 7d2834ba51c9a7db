"""Runs that are stopped or killed, and go on as if nothing had been."""

import dataclasses
import gc
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import orbax.checkpoint as ocp
import programs
import pytest
from made_up import made_up_dataset, small_task

from experiments.cifar10.config import Config
from experiments.comparison import command, files, records, training

ROOT = pathlib.Path(__file__).parent.parent
# The command line, but on a task that is quick to compile.
PROGRAM = """
import sys
from made_up import small_task
from experiments.cifar10.config import Config
from experiments.comparison import command
sys.exit(command.run_flags(Config, lambda config: small_task()))
"""
FLAGS = """--optimizers adam schedule-free-radam --seeds 0 1 --batch-size 3
  --epochs 30 --validation 2 --checkpoint-seconds 0.05"""


def _start(out, *flags):
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *FLAGS.split(), *flags, "--out", str(out)],
        env=programs.environment(PYTHONPATH=paths),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _rows(out):
    text = (out / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def _untimed(rows):
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


def _wait_for_rows(process, out, count):
    deadline = time.monotonic() + 120
    path = out / "metrics.jsonl"
    while not (path.exists() and path.read_bytes().count(b"\n") >= count):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    process = _start(out)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return _untimed(_rows(out))


@pytest.mark.parametrize(
    "kills",
    [
        (signal.SIGKILL, signal.SIGTERM),
        pytest.param((signal.SIGKILL, signal.SIGTERM) * 5, marks=pytest.mark.soak),
    ],
    ids=len,
)
def test_killed_at_random_moments_and_resumed(tmp_path, uninterrupted, kills):
    out = tmp_path / "out"
    luck = random.Random(0)
    process = _start(out)
    for kill in kills:
        before = len(_rows(out)) if (out / "metrics.jsonl").exists() else 0
        left = len(uninterrupted) - before
        _wait_for_rows(process, out, before + luck.randrange(1, left // len(kills)))
        time.sleep(luck.random() / 10)
        process.send_signal(kill)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == (143 if kill == signal.SIGTERM else -kill), stderr
        process = _start(out, "--resume")
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert _untimed(_rows(out)) == uninterrupted
    assert (out / "report.md").exists()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """An experiment that was stopped in its second run."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    config = dataclasses.replace(CONFIG, out=out)
    stop = StopAfter(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            records.MetricsWriter, "append", lambda *args: stop.counted(*args)
        )
        assert command.run(config, lambda _: small_task()) == 130
    return config


CONFIG = Config(epochs=3, batch_size=8, checkpoint_seconds=0.0, resume=False)


class StopAfter:
    """Presses Ctrl-C as so many rows are written."""

    def __init__(self, rows):
        self.left = rows
        self.append = records.MetricsWriter.append

    def counted(self, writer, row):
        self.append(writer, row)
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGINT)


def _resume(stopped, tmp_path, spoil=lambda out: None, task=small_task, **changes):
    """The exit status of resuming a copy that was spoilt."""
    out = tmp_path / "out"
    shutil.copytree(stopped.out, out)
    spoil(out)
    before = _contents(out)
    config = dataclasses.replace(stopped, out=out, resume=True, **changes)
    status = command.run(config, lambda _: task())
    if status:
        assert _contents(out) == before  # nothing is deleted, nothing written
    return status


def _contents(out):
    return {
        path: path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_ctrl_c_keeps_what_was_finished_and_resuming_goes_on(stopped, tmp_path):
    assert len(_rows(stopped.out)) == 4
    assert "Interrupted: 1 of 2 runs" in (stopped.out / "report.md").read_text()
    assert _resume(stopped, tmp_path) == 0
    rows = _rows(tmp_path / "out")
    assert [(row["optimizer"], row["epoch"]) for row in rows] == [
        (name, epoch) for name in ("adam", "radam") for epoch in (1, 2, 3)
    ]
    assert rows[:4] == _rows(stopped.out)


def test_a_finished_experiment_is_not_trained_again(stopped, tmp_path, monkeypatch):
    assert _resume(stopped, tmp_path) == 0
    rows = _rows(tmp_path / "out")
    monkeypatch.setattr(training.Trainer, "train", None)
    config = dataclasses.replace(stopped, out=tmp_path / "out", resume=True)
    assert command.run(config, lambda _: small_task()) == 0
    assert _rows(tmp_path / "out") == rows


def test_a_line_cut_by_a_power_failure_is_made_again(stopped, tmp_path):
    def cut(out):
        with (out / "metrics.jsonl").open("a") as file:
            file.write('{"run": "radam-const')

    assert _resume(stopped, tmp_path, cut) == 0
    assert len(_rows(tmp_path / "out")) == 6


def test_another_configuration_is_refused_with_the_difference(
    stopped, tmp_path, capsys
):
    assert _resume(stopped, tmp_path, epochs=4, seeds=(1,)) == 2
    error = capsys.readouterr().err
    assert "--epochs: 3 there, 4 here" in error
    assert "--seeds: [0] there, [1] here" in error


def _lose_a_row(out):
    path = out / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def _lose_the_first_run(out):
    shutil.rmtree(out / "checkpoints/group-0000")
    path = out / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[3:]))


def _tear_the_checkpoint(out):
    for path in (out / "checkpoints/group-0001").rglob("d/*"):
        path.write_bytes(b"torn")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / "config.json").write_text("{"), "config.json cannot be"),
        (lambda out: (out / "config.json").write_text("[]"), "config.json cannot be"),
        (lambda out: (out / "config.json").unlink(), "config.json is missing"),
        (lambda out: (out / "metrics.jsonl").unlink(), "metrics.jsonl cannot be read"),
        (
            lambda out: (out / "metrics.jsonl").write_text("mine\n"),
            "metrics.jsonl, line 1 cannot be read",
        ),
        (
            lambda out: (out / "metrics.jsonl").write_text("null\n"),
            "metrics.jsonl, line 1 cannot be read",
        ),
        (_lose_a_row, "metrics.jsonl has 3 of the 4 rows"),
        (_lose_the_first_run, "rows of 1 runs that come after"),
    ],
    ids=[
        "torn config",
        "foreign config",
        "no config",
        "no metrics",
        "foreign metrics",
        "not even a row",
        "a row lost",
        "a run lost",
    ],
)
def test_torn_and_foreign_files_are_named(stopped, tmp_path, capsys, spoil, message):
    assert _resume(stopped, tmp_path, spoil) in (1, 2)
    assert message in capsys.readouterr().err


# Orbax's background loop complains as it is collected after the failure.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_torn_checkpoint_is_named(stopped, tmp_path, capsys):
    assert _resume(stopped, tmp_path, _tear_the_checkpoint) == 1
    assert "group-0001/3 cannot be read" in capsys.readouterr().err.replace("\n", "")
    gc.collect()


def test_a_directory_that_is_in_use_is_refused(stopped, tmp_path, capsys):
    out = tmp_path / "out"
    with files.locked(out):
        for changes in ({"overwrite": True}, {}):
            config = dataclasses.replace(stopped, out=out, **changes)
            assert command.run(config, lambda _: small_task()) == 2
            assert "into which another process trains" in capsys.readouterr().err


def test_a_full_disk_during_a_checkpoint_is_an_error_of_one_line(
    stopped, tmp_path, capsys, monkeypatch
):
    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: no space left\nand much more")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    config = dataclasses.replace(stopped, out=tmp_path / "out")
    assert command.run(config, lambda _: small_task()) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "group-0000 failed: RESOURCE_EXHAUSTED: no space left" in error


def test_other_data_is_refused(stopped, tmp_path, capsys):
    def other():
        return small_task()._replace(dataset=made_up_dataset(classes=2))

    assert _resume(stopped, tmp_path, task=other) == 1
    assert "The data is not that of" in capsys.readouterr().err
