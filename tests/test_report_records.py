"""Edited records, and several experiments merged."""

import copy
import dataclasses
import json
import os

import pytest
from made_up_records import MadeUpFlags, make_flags, row, rows_of, write

from experiments.config import ConfigError, DataError, Grid
from experiments.report.command import report_main
from experiments.report.records import merge, read_experiment

ADAM = make_flags(optimizers=("adam",), learning_rates=(0.1, 0.2), epochs=2)
SGD = dataclasses.replace(
    ADAM,
    grid=Grid(
        optimizers=("sgd", "adam"), rates_of=("sgd=1,2", "adam=0.4"), seeds=(0, 1)
    ),
)


def _experiment(folder, flags):
    rows = rows_of(flags, lambda run: {"accuracy": run.learning_rate / 4})
    return write(folder, flags, rows)


def _merge(*experiments):
    return merge(experiments, ["A", "B"][: len(experiments)])


def test_merged_experiments_have_the_runs_of_both(tmp_path):
    a, b = _experiment(tmp_path / "a", ADAM), _experiment(tmp_path / "b", SGD)
    changes = {"machine": "another", "versions": b.config.versions | {"jax": "0"}}
    b = b._replace(config=b.config.model_copy(update=changes))
    merged = _merge(a, b)
    assert merged.runs == [*a.runs, *b.runs]
    assert merged.rows == [*a.rows, *b.rows]
    of_a, joined = a.config, merged.config
    assert joined.command.splitlines() == [of_a.command, b.config.command]
    assert joined.machine == f"{of_a.machine} and another"
    assert joined.versions["jax"] == f"{of_a.versions['jax']} and 0"
    assert joined.versions["optax"] == of_a.versions["optax"]


def test_a_run_in_both_is_taken_once_and_the_longer_one(tmp_path):
    whole = write(tmp_path / "whole", ADAM, [row(1), row(2)])
    part = write(
        tmp_path / "part", ADAM, [row(1, seconds=9.0, examples_per_second=1.0)]
    )
    for both in ([whole, part], [part, whole]):
        merged = _merge(*both)
        assert [row.epoch for row in merged.rows] == [1, 2]
        assert merged.runs == whole.runs


def test_a_run_that_came_out_differently_is_refused(tmp_path):
    a = write(tmp_path / "a", ADAM, [row(1), row(2, accuracy=0.5)])
    b = write(tmp_path / "b", ADAM, [row(1), row(2, accuracy=0.25)])
    with pytest.raises(
        ConfigError,
        match=r"A and B cannot be merged: adam-constant-0.1-s0 is in both .* epoch 2: "
        r"train_accuracy is 0.5 in the one and 0.25 in the other",
    ):
        _merge(a, b)


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("training", "b2", 0.9, "--b2 is 0.999 in the one and 0.9 in the other"),
        ("training", "batch_size", 9, "--batch-size is 64 in the one and 9 in the oth"),
        ("data", "sha256", "0" * 64, r"the data's SHA-256 is '.*' in the one and '000"),
        ("jax_settings", "jax_enable_x64", True, "jax_enable_x64 is False .* True"),
    ],
)
def test_other_circumstances_are_refused(tmp_path, part, name, value, message):
    a = _experiment(tmp_path / "a", ADAM)
    _experiment(tmp_path / "b", SGD)
    path = tmp_path / "b" / "config.json"
    content = json.loads(path.read_text())
    content[part][name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"^A and B cannot be merged: {message}"):
        _merge(a, read_experiment(tmp_path / "b", MadeUpFlags))


def _run(*arguments):
    return report_main(MadeUpFlags, [*map(str, arguments)])


def test_command_merges_into_a_new_directory(tmp_path, capsys):
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "deep" / "out"
    _experiment(a, ADAM), _experiment(b, SGD)
    assert _run(a, b, "--out", out) == 0
    assert capsys.readouterr().out.endswith(f"Report: {out / 'report.html'}\n")
    assert "SGD" in (out / "report.md").read_text()
    assert _run(a, b, "--out", out) == 2
    assert _run(a, b, "--out", out, "--overwrite") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "RUN must be one directory or different ones, got none"),
        ("a a", "RUN must be one directory or different ones, got a a"),
        ("a b", "--out is needed: where does the merged report go?"),
        ("a b --out a --overwrite", "--out must be another directory than those merg"),
        ("a --out a/config.json", "--out must be a directory, got 'a/config"),
        ("nowhere", "RUN must be an experiment's directory, got nowhere"),
    ],
)
def test_command_refuses_on_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    _experiment(tmp_path / "a", ADAM), _experiment(tmp_path / "b", SGD)
    assert _run(*words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def _places(content, place=()):
    """Yields the path of every value, at any depth."""
    yield place
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _places(value, (*place, name))


@pytest.mark.parametrize("file", ["config.json", "metrics.jsonl"])
def test_edited_records_are_refused_in_a_line_or_reported(tmp_path, file):
    """Every value is replaced, or missing, once."""
    _experiment(tmp_path, ADAM)
    text = (tmp_path / file).read_text()
    content = json.loads(text if file == "config.json" else text.splitlines()[0])
    refused = 0
    for *above, name in filter(None, _places(content)):
        for value in (None, True, -1, 10**30, "<b>", [], {}, [[]], "missing"):
            edited = part = copy.deepcopy(content)
            for key in above:
                part = part[key]
            part[name] = value
            if value == "missing":
                del part[name]
            (tmp_path / file).write_text(json.dumps(edited) + "\n")
            try:
                _merge(read_experiment(tmp_path, MadeUpFlags))
            except DataError as error:
                lines = str(error).splitlines()
                refused += len(lines) == 1
    assert refused > 100


def test_deep_nesting_and_pipes_are_refused(tmp_path):
    _experiment(tmp_path, ADAM)
    path = tmp_path / "config.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"config.json cannot be read"):
        read_experiment(tmp_path, MadeUpFlags)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"config.json cannot be read \(OSError: it is"):
        read_experiment(tmp_path, MadeUpFlags)
