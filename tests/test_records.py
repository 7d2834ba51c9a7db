"""Files of an experiment: written whole, read back, and refused if damaged."""

import hashlib
import json
import math
import os
import pathlib

import pytest
from made_up import made_up_examples
from made_up_records import row, write
from small_experiment import file_limit

from experiments import records
from experiments.cifar10.config import Flags, ImageSession, ImageTraining
from experiments.config import ConfigError, DataError, Grid, Session
from experiments.report.records import read_experiment
from experiments.transformer import __main__ as transformer

ROOT = pathlib.Path(__file__).parent.parent
TWO_RATES = Flags(
    grid=Grid(learning_rates=(0.1, 0.2)), training=ImageTraining(epochs=2)
)


def test_round_trip(tmp_path):
    rows = [row(), row(2, validation_loss=1.0), row(rate=0.2, loss=math.inf)]
    read = write(tmp_path / "out", TWO_RATES, rows)
    assert [found.run for found in read.rows] == [run.name for run, _ in rows]
    assert [found.epoch for found in read.rows] == [1, 2, 1]
    assert [found.test_loss for found in read.rows] == [1.5, 1.5, None]
    assert [found.validation_loss for found in read.rows] == [None, 1.0, None]
    assert read.config.training == TWO_RATES.training
    assert read.runs == TWO_RATES.grid.runs()


def test_rows_of_another_experiment_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 1 .* 'adam-constant-0.1-s0'"):
        write(tmp_path, Flags(grid=Grid(learning_rates=(0.2,))), [row()])


def test_rows_have_the_promised_columns_and_are_strict_json(tmp_path):
    write(tmp_path / "out", TWO_RATES, [row(loss=math.nan)])

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


def test_config_names_command_versions_and_settings_but_no_directory(tmp_path):
    out = tmp_path / "out"
    flags = Flags(
        training=ImageTraining(dataset="cifar10", b2=0.99),
        session=ImageSession(out=out, data_dir=tmp_path, checkpoint_seconds=1.0),
    )
    write(out, flags, [])
    text = (out / "config.json").read_text()
    assert str(tmp_path) not in text
    assert "checkpoint" not in text.replace("orbax-checkpoint", "")
    content = json.loads(text)
    assert content["training"]["b2"] == 0.99
    assert content["jax_settings"]["jax_enable_x64"] is False
    assert {"python", "jax", "optax", "flax", "optax_radam"} <= set(content["versions"])
    arrays = [array for part in made_up_examples() for array in part]
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays))
    assert content["data"] == {
        "description": "made-up images",
        "train_images": 20,
        "test_images": 7,
        "sha256": digest.hexdigest(),
    }


def test_write_whole_keeps_the_old_file_if_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with file_limit(100), pytest.raises(OSError, match="too large"):
        records.write_whole(path, bytes(200))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_whole_follows_no_link(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    (tmp_path / "file.part").symlink_to(theirs)
    records.write_whole(tmp_path / "file", b"ours")
    assert theirs.read_text() == "theirs"
    assert (tmp_path / "file").read_text() == "ours"
    assert not (tmp_path / "file.part").is_symlink()


@pytest.fixture
def flags(tmp_path):
    """Flags of an experiment with the first epoch of a two-epoch run."""
    write(tmp_path, TWO_RATES, [row()])
    return Flags(TWO_RATES.grid, TWO_RATES.training, Session(out=tmp_path))


def _append(flags, row):
    records.append(flags, *([of] for of in row))


def _begin(flags):
    """Finished epochs of each run, and their rows' numbers."""
    behind, rows = records.find_rows(flags, [[run] for run in flags.grid.runs()])
    return behind, [json.loads(line)["epoch"] for line in rows.splitlines()]


def test_a_full_disk_leaves_whole_rows(tmp_path, flags):
    """A limit on the file's size simulates it, and cuts a row short."""
    size = (tmp_path / "metrics.jsonl").stat().st_size
    (tmp_path / "checkpoints" / "adam-constant-0.1-s0" / "1").mkdir(parents=True)
    with file_limit(size + 100), pytest.raises(OSError, match="large"):
        _append(flags, row(2))
    assert _begin(flags) == ([1, 0, 0, 0], [1])


def test_rows_after_the_checkpoint_go(tmp_path, flags):
    _append(flags, row(1, rate=0.2))
    _append(flags, row(2, rate=0.2))
    assert _begin(flags) == ([0, 2, 0, 0], [1, 2])
    (tmp_path / "checkpoints" / "adam-constant-0.1-s0" / "1").mkdir(parents=True)
    assert _begin(flags) == ([1, 2, 0, 0], [1, 1, 2])


def test_results_must_go_where_all_processes_see_them(tmp_path):
    flags = Flags(session=ImageSession(out=tmp_path))
    with pytest.raises(DataError, match=r"metrics.jsonl cannot be read \(FileNotFound"):
        _begin(flags)


def _check(path, **session):
    records.check_out(Flags(session=ImageSession(out=path, **session)))


def test_out_may_be_new_or_empty(tmp_path):
    _check(tmp_path / "new" / "deep")
    _check(tmp_path)
    with records.locked(tmp_path):
        _check(tmp_path)  # the lock's file does not count


def test_out_must_not_have_files(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"--out must be a new .*--overwrite"):
        _check(tmp_path)


@pytest.mark.parametrize("below", ["", "below"])
def test_out_must_not_be_a_file_or_a_dangling_link(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(ConfigError, match=f"--out must be a directory.*{name}"):
            _check(tmp_path / name / below, overwrite=True)


def test_out_must_be_utf_8(tmp_path):
    with pytest.raises(ConfigError, match=r"--out must be UTF-8, got '.*udcff'"):
        _check(tmp_path / os.fsdecode(b"\xff"))


@pytest.mark.parametrize(
    "content", [None, "", "{}", "[]", '{"program": "webpack"}', '{"epochs": 3}']
)
def test_overwriting_takes_no_folder_of_others(tmp_path, content):
    (tmp_path / "checkpoints").mkdir()
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="--out must be this program's to --over"):
        _check(tmp_path, overwrite=True)


def test_overwriting_replaces_results_and_nothing_else(tmp_path):
    write(tmp_path, TWO_RATES, [row(1), row(2)])
    (tmp_path / "notes.txt").write_text("mine")
    _check(tmp_path, overwrite=True)
    assert len(write(tmp_path, TWO_RATES, [row(1)]).rows) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwriting_that_is_killed_can_be_repeated(tmp_path):
    write(tmp_path, TWO_RATES, [row(1), row(2)])
    records.create(tmp_path, records.read_config(tmp_path, ImageTraining))
    _check(tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("name", "flags_class", "runs"),
    [
        ("demo", Flags, 24),
        ("warmups", Flags, 240),
        ("cifar10-2-epochs", Flags, 2),
        ("blog/radam-warmup-linear-decay", Flags, 1),
        ("transformer", transformer.Flags, 300),
    ],
)
def test_committed_results_can_be_read(name, flags_class, runs):
    folder = ROOT / "experiments" / "results" / name
    experiment = read_experiment(folder, flags_class)
    assert {row.run for row in experiment.rows} == {run.name for run in experiment.runs}
    assert len(experiment.runs) == runs
