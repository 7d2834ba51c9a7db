"""Several experiments as one, and the command that redraws their report."""

import dataclasses
import json
import math

import pytest
from made_up_records import MadeUpFlags, make_flags, row, rows_of, write

from experiments.config import ConfigError, Grid
from experiments.report import merging
from experiments.report.command import report_main
from experiments.report.records import read_experiment
from experiments.report.selection import Selection

ADAM = make_flags(optimizers=("adam",), learning_rates=(0.1, 0.2), epochs=2)
SGD = dataclasses.replace(
    ADAM,
    grid=Grid(
        optimizers=("sgd", "adam"), rates_of=("sgd=1,2", "adam=0.4"), seeds=(0, 1)
    ),
)


def _metrics(run):
    return {"accuracy": run.learning_rate / 4}


def _experiment(folder, flags):
    return write(folder, flags, rows_of(flags, _metrics))


def _merge(*experiments):
    return merging.merge(experiments, ["A", "B"][: len(experiments)])


def test_merged_experiments_have_the_runs_of_both(tmp_path):
    a, b = _experiment(tmp_path / "a", ADAM), _experiment(tmp_path / "b", SGD)
    merged = _merge(a, b)
    assert merged.runs == [*a.runs, *b.runs]
    assert merged.rows == [*a.rows, *b.rows]
    assert merged.command.splitlines() == [a.command, b.command]
    assert (merged.machine, merged.versions) == (a.machine, a.versions)
    selection = Selection(merged)
    grids = {
        arm.optimizer: [point.learning_rate for point in selection.points(arm)]
        for arm in selection.arms
    }
    assert grids == {"adam": [0.1, 0.2, 0.4], "sgd": [1, 2]}


def test_merged_experiments_name_all_versions_and_machines(tmp_path):
    a, b = _experiment(tmp_path / "a", ADAM), _experiment(tmp_path / "b", SGD)
    b = b._replace(machine="another", versions=b.versions | {"jax": "0"})
    merged = _merge(a, b)
    assert merged.machine == f"{a.machine} and another"
    assert merged.versions["jax"] == f"{a.versions['jax']} and 0"
    assert merged.versions["optax"] == a.versions["optax"]


def test_a_run_in_both_is_taken_once_and_the_longer_one(tmp_path):
    whole = write(tmp_path / "whole", ADAM, [row(1, loss=math.nan), row(2)])
    part = [row(1, loss=math.nan, seconds=9.0, examples_per_second=1.0)]
    for order in (1, -1):
        both = [whole, write(tmp_path / "part", ADAM, part)][::order]
        merged = _merge(*both)
        assert [metrics.epoch for _, metrics in merged.rows] == [1, 2]
        assert merged.runs == whole.runs


def test_a_run_that_came_out_differently_is_refused(tmp_path):
    a = write(tmp_path / "a", ADAM, [row(1), row(2, accuracy=0.5)])
    b = write(tmp_path / "b", ADAM, [row(1), row(2, accuracy=0.25)])
    with pytest.raises(
        ConfigError,
        match=r"A and B cannot be merged: adam-constant-0.1-s0 is in both .*"
        r"train_accuracy after epoch 2 is 0.5 in the one and 0.25 in the other",
    ):
        _merge(a, b)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"b2": 0.9}, "--b2 is 0.999 in the one and 0.9 in the other"),
        ({"epochs": 3}, "--epochs is 2 in the one and 3 in the other"),
        ({"validation": 9}, "--validation is 0 in the one and 9 in the other"),
        ({"batch_size": 9}, "--batch-size is 64 in the one and 9 in the other"),
    ],
)
def test_other_circumstances_are_refused(tmp_path, changed, message):
    a = _experiment(tmp_path / "a", ADAM)
    training = dataclasses.replace(SGD.training, **changed)
    b = _experiment(tmp_path / "b", dataclasses.replace(SGD, training=training))
    with pytest.raises(ConfigError, match=f"^A and B cannot be merged: {message}"):
        _merge(a, b)


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("data", "sha256", "0" * 64, r"the data is .* in the one and .* 00000"),
        ("jax_settings", "jax_enable_x64", True, "jax_enable_x64 is False .* True"),
    ],
)
def test_other_data_or_settings_of_jax_are_refused(
    tmp_path, part, name, value, message
):
    a = _experiment(tmp_path / "a", ADAM)
    _experiment(tmp_path / "b", SGD)
    path = tmp_path / "b" / "config.json"
    content = json.loads(path.read_text())
    content[part][name] = value
    path.write_text(json.dumps(content))
    b = read_experiment(tmp_path / "b", MadeUpFlags)
    with pytest.raises(ConfigError, match=message):
        _merge(a, b)


def _run(*arguments):
    return report_main(MadeUpFlags, [*map(str, arguments)])


def test_command_merges_into_a_new_directory(tmp_path, capsys):
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "deep" / "out"
    _experiment(a, ADAM)
    _experiment(b, SGD)
    assert _run(a, b, "--out", out) == 0
    text = (out / "report.md").read_text()
    assert "| sgd | constant | 2 | 2 | 0.5000 " in text
    assert text.count("- Command: ") == 2
    assert not (out / "config.json").exists()
    assert not (a / "report.md").exists()
    assert "report.md" in capsys.readouterr().out
    assert _run(a, b, "--out", out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert _run(a, b, "--out", out, "--overwrite") == 0


def test_command_refuses_on_one_line(tmp_path, capsys):
    a, b, empty = tmp_path / "a", tmp_path / "b", tmp_path / "empty"
    _experiment(a, ADAM)
    write(b, ADAM, [row(1), row(2, accuracy=0.25)])
    write(empty, ADAM, [])
    (tmp_path / "file").touch()
    for arguments, message in (
        ([], "RUN must be one directory at least"),
        ([tmp_path / "none"], "config.json is missing"),
        ([a, b], "--out is needed"),
        ([a, a, "--out", tmp_path / "new"], "must not repeat"),
        ([a, b, "--out", b, "--overwrite"], "another directory than those merged"),
        ([a, "--out", tmp_path / "file"], "must be a directory, got the file"),
        ([a, b, "--out", tmp_path / "new"], "came out differently"),
        ([empty], "no epoch of any run is finished"),
    ):
        assert _run(*arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    (a / "metrics.jsonl").write_text("{}\n")
    assert _run(a) == 1
    assert "line 1 cannot be read" in capsys.readouterr().err
