import json
import math
import os
import pathlib
import resource
import subprocess
import sys

import pytest
from made_up import made_up_dataset
from made_up_records import held_out, row, write

from experiments.cifar10.config import Config
from experiments.comparison import files, records
from experiments.comparison.config import DataError
from experiments.transformer import config as transformer

ROOT = pathlib.Path(__file__).parent.parent


def test_round_trip(tmp_path):
    config = Config(learning_rates=(0.1, 0.2), epochs=2, data_dir=tmp_path)
    rows = [row(), row(2), row(rate=0.2, loss=math.inf)]
    write(tmp_path / "out", config, rows)
    read = records.read_experiment(tmp_path / "out", Config)
    assert read.rows[:2] == rows[:2]
    assert math.isnan(read.rows[2].metrics.test_loss)
    assert read.config == Config(learning_rates=(0.1, 0.2), epochs=2)
    assert read.final_rows() == [read.rows[1], read.rows[2]]


def test_what_was_not_evaluated_is_not_taken_for_diverged(tmp_path):
    config = Config(epochs=2, validation=5, learning_rates=(0.1,))
    rows = held_out([row(), row(2)], epochs=2)
    assert rows[0].metrics.test_loss is None
    assert write(tmp_path, config, rows).rows == rows


def test_rows_of_another_experiment_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 1 .* 'adam-constant-0.1-s0'"):
        write(tmp_path, Config(learning_rates=(0.2,)), [row()])


def test_rows_have_the_promised_columns_and_are_strict_json(tmp_path):
    write(tmp_path / "out", Config(learning_rates=(0.1,)), [row(loss=math.nan)])

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "out" / "metrics.jsonl").read_text()
    columns = json.loads(text, parse_constant=refuse)
    assert " ".join(columns) == (
        "run optimizer schedule learning_rate seed epoch step train_loss "
        "train_accuracy validation_loss validation_accuracy test_loss test_accuracy "
        "best_epoch best_test_accuracy seconds images_per_second"
    )
    assert columns["run"] == "adam-constant-0.1-s0"
    assert columns["test_loss"] is None


def test_config_names_versions_and_settings_but_no_directory(tmp_path):
    config = Config(dataset="cifar10", data_dir=tmp_path, out=tmp_path / "out", b2=0.99)
    write(config.out_dir, config, [])
    text = (tmp_path / "out" / "config.json").read_text()
    assert str(tmp_path) not in text
    content = json.loads(text)
    assert content["command"] == (
        "python -m experiments.cifar10 --b2 0.99 --dataset cifar10 --data-dir DIR"
    )
    assert content["optimizer_settings"]["radam"] == {
        "b1": 0.9,
        "b2": 0.99,
        "eps": 1e-8,
        "threshold": 5.0,
        "fallback": "momentum",
        "decoupled_weight_decay": 0.0,
    }
    assert {"python", "jax", "optax", "flax", "optax_radam"} <= set(content["versions"])
    assert content["data"]["sha256"] == made_up_dataset().checksum


def test_write_whole_keeps_the_old_file_if_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        files.write_whole(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


_FILL = """
import pathlib, resource, signal, sys
from experiments.comparison import records
from made_up_records import row
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with records.MetricsWriter(pathlib.Path(sys.argv[1]), "images") as writer:
    for epoch in range(1, 100):
        writer.append(row(epoch))
"""


def test_full_disk_leaves_whole_rows(tmp_path):
    """A limit on the file's size stands for a full disk: it cuts a row short."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    result = subprocess.run(
        [sys.executable, "-c", _FILL, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OSError" in result.stderr
    assert "metrics.jsonl" in result.stderr
    text = (tmp_path / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert text.endswith("\n")
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 2


def test_overwriting_deletes_no_folders_of_others(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"--overwrite would delete .*checkpoints"):
        files.check_out_dir(tmp_path, overwrite=True, resume=False)


def test_recorded_commands_spell_switches_as_the_command_line_does():
    assert records.command_line(Config(augment=True)).endswith("cifar10 --augment")
    base = Config(augment=True, preset="paper")
    line = records.command_line(Config(preset="paper"), base)
    assert line.endswith("--preset paper --no-augment")


def test_out_dir_is_checked(tmp_path):
    files.check_out_dir(tmp_path / "new" / "deep", overwrite=False, resume=False)
    files.check_out_dir(tmp_path, overwrite=False, resume=False)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"--out must be .*empty.*--overwrite"):
        files.check_out_dir(tmp_path, overwrite=False, resume=False)
    with pytest.raises(ValueError, match="--out must be a directory, got the file"):
        files.check_out_dir(tmp_path / "file", overwrite=True, resume=False)


def test_overwriting_replaces_results_and_nothing_else(tmp_path):
    config = Config(learning_rates=(0.1,))
    write(tmp_path, config, [row(1), row(2)])
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, config, [row(1)])
    assert len(records.read_experiment(tmp_path, Config).rows) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "config_class", "runs"),
    [
        ("demo", Config, 24),
        ("warmups", Config, 72),
        ("cifar10-2-epochs", Config, 2),
        ("transformer", transformer.Config, 72),
    ],
)
def test_committed_results_can_be_read(name, config_class, runs):
    folder = ROOT / "experiments" / "results" / name
    experiment = records.read_experiment(folder, config_class)
    assert [row.run for row in experiment.final_rows()] == experiment.config.runs()
    assert len(experiment.final_rows()) == runs
