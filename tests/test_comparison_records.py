import json
import math
import os
import pathlib
import resource
import subprocess
import sys

import pytest
from made_up import made_up_dataset

from experiments.cifar10.config import Config
from experiments.comparison import figures, records, report
from experiments.comparison.config import Arm, Run
from experiments.comparison.training import EpochMetrics
from experiments.transformer import config as transformer

ROOT = pathlib.Path(__file__).parent.parent
PNG = b"\x89PNG"


def _row(epoch=1, rate=0.1, arm="adam", seed=0, loss=1.5, accuracy=0.5):
    metrics = EpochMetrics(epoch, 3 * epoch, loss, accuracy, loss, accuracy, 0.5, 40.0)
    return records.Row(Run(Arm(arm, "constant"), rate, seed), metrics)


def _write(out_dir, config, rows):
    records.create_out_dir(out_dir)
    command = records.command_line(config)
    records.write_config(out_dir, config, command, made_up_dataset(), 3)
    with records.MetricsWriter(out_dir, "images") as writer:
        for row in rows:
            writer.append(row)


def test_round_trip(tmp_path):
    config = Config(learning_rates=(0.1, 0.2), epochs=2, data_dir=tmp_path)
    rows = [_row(), _row(2), _row(rate=0.2, loss=math.inf)]
    _write(tmp_path / "out", config, rows)
    read = records.read_experiment(tmp_path / "out", Config)
    assert read.rows[:2] == rows[:2]
    assert math.isnan(read.rows[2].metrics.test_loss)
    assert read.config == Config(learning_rates=(0.1, 0.2), epochs=2)
    assert read.final_rows() == [read.rows[1], read.rows[2]]


def test_rows_have_the_promised_columns_and_are_strict_json(tmp_path):
    _write(tmp_path / "out", Config(), [_row(loss=math.nan)])

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "out" / "metrics.jsonl").read_text()
    columns = json.loads(text, parse_constant=refuse)
    assert " ".join(columns) == (
        "run optimizer schedule learning_rate seed epoch step train_loss "
        "train_accuracy test_loss test_accuracy seconds images_per_second"
    )
    assert columns["run"] == "adam-constant-0.1-s0"
    assert columns["test_loss"] is None


def test_config_names_versions_and_settings_but_no_directory(tmp_path):
    config = Config(dataset="cifar10", data_dir=tmp_path, out=tmp_path / "out", b2=0.99)
    _write(config.out_dir, config, [])
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
    }
    assert {"python", "jax", "optax", "flax", "optax_radam"} <= set(content["versions"])
    assert content["data"]["sha256"] == made_up_dataset().checksum


def test_every_picture_and_the_report(tmp_path):
    config = Config(learning_rates=(0.1, 0.2), seeds=(0, 1), epochs=2)
    rows = [
        _row(epoch, rate, arm, seed, accuracy=rate + seed / 100)
        for arm in ("adam", "radam")
        for rate in (0.1, 0.2)
        for seed in (0, 1)
        for epoch in (1, 2)
    ]
    _write(tmp_path, config, rows)
    report.write_report(records.read_experiment(tmp_path, Config), tmp_path)
    pictures = ["learning_curves.png", "accuracy_by_learning_rate.png"]
    text = (tmp_path / "report.md").read_text()
    for name in pictures:
        assert (tmp_path / name).read_bytes().startswith(PNG)
        assert f"]({name})" in text
    assert "| radam-constant-0.2-s1 | 2 | 6 | 1.5000 | 0.2100 |" in text
    assert "- radam constant: 0.2050 at 0.2" in text
    assert "Interrupted" not in text


@pytest.mark.parametrize("loss", [0.5, 100.0, math.nan])
def test_one_rate_and_an_interrupted_or_diverged_run_still_have_a_report(
    tmp_path, loss
):
    config = Config(epochs=2, learning_rates=(0.1,))
    _write(tmp_path, config, [_row(), _row(2), _row(arm="radam", loss=loss)])
    report.write_report(records.read_experiment(tmp_path, Config), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Interrupted: 1 of 2 runs are finished" in text
    assert not (tmp_path / "accuracy_by_learning_rate.png").exists()


def test_legends_of_long_names_fit_into_the_figure(tmp_path):
    config = Config(
        optimizers=("adam", "schedule-free-radam"),
        schedules=("constant", "warmup-linear-decay", "untuned-linear-warmup"),
        learning_rates=(0.1, 0.2),
    )
    _write(tmp_path, config, [_row(rate=rate) for rate in (0.1, 0.2)])
    experiment = records.read_experiment(tmp_path, Config)
    for draw in (figures.draw_learning_curves, figures.draw_learning_rates):
        figure = draw(experiment)
        (legend,) = figure.legends
        assert legend.get_window_extent().width < figure.bbox.width


def test_curves_show_the_records(tmp_path):
    config = Config(epochs=2, learning_rates=(0.1,))
    _write(tmp_path, config, [_row(accuracy=0.3), _row(2, accuracy=0.7)])
    figure = figures.draw_learning_curves(records.read_experiment(tmp_path, Config))
    lines = figure.axes[0].get_lines()
    assert list(lines[0].get_xdata()) == [1, 2]
    assert list(lines[0].get_ydata()) == [0.3, 0.7]
    factors = {line.get_label(): line for line in figure.axes[2].get_lines()}
    r_t = factors["$r_t$, b2 = 0.999"]
    assert r_t.get_xdata()[-1] == 2
    assert r_t.get_ydata()[-1] == pytest.approx(0.0258, abs=1e-4)  # at step 6


def test_write_whole_keeps_the_old_file_if_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        records.write_whole(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


_FILL = """
import resource, signal, sys
from tests import test_comparison_records as t
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with t.records.MetricsWriter(t.pathlib.Path(sys.argv[1]), "images") as writer:
    for epoch in range(1, 100):
        writer.append(t._row(epoch))
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


def test_out_dir_is_checked(tmp_path):
    records.check_out_dir(tmp_path / "new" / "deep", overwrite=False)
    records.check_out_dir(tmp_path, overwrite=False)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"--out must be .*empty.*--overwrite"):
        records.check_out_dir(tmp_path, overwrite=False)
    with pytest.raises(ValueError, match="--out must be a directory, got the file"):
        records.check_out_dir(tmp_path / "file", overwrite=True)


def test_overwriting_replaces_results_and_nothing_else(tmp_path):
    _write(tmp_path, Config(), [_row(1), _row(2)])
    (tmp_path / "notes.txt").write_text("mine")
    _write(tmp_path, Config(), [_row(1)])
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
