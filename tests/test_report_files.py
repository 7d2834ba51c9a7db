"""Reports of made-up records: text, page, pictures, tables, events, the command."""

import base64
import csv
import html.parser
import math
import struct
import subprocess
import sys

import pytest
import rich.console
from made_up_records import MadeUpFlags, held_out, make_flags, row, rows_of, write
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from experiments import report
from experiments.report import event_files, tables, text
from experiments.report.command import report_main
from experiments.report.selection import Selection

TWO_RATES = make_flags(learning_rates=(0.1, 0.2), seeds=(0, 1), epochs=3)


def _metrics(run):
    return {
        "accuracy": run.learning_rate
        + run.seed / 100
        + (run.arm.optimizer == "radam") / 10,
        "loss": 1 + run.learning_rate,
    }


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The folder of a report in which one run has diverged."""
    out = tmp_path_factory.mktemp("reported")
    rows = rows_of(TWO_RATES, _metrics)
    broken = rows[-1].metrics._replace(train_loss=math.nan)
    experiment = write(out, TWO_RATES, [*rows[:-1], rows[-1]._replace(metrics=broken)])
    (out / "notes.txt").write_text("mine")
    report.write_report(experiment, out)
    return out


def test_every_file_and_no_other(reported):
    assert {path.name for path in reported.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "notes.txt",
        "report.md",
        "report.html",
        "learning_curves.png",
        "accuracy_by_learning_rate.png",
        "stability.png",
        "metrics.csv",
        "summary.csv",
        "tensorboard",
    }


def test_text(reported):
    markdown = (reported / "report.md").read_text()
    assert "Interrupted" not in markdown
    assert "1 of 8 runs, whose accuracies" in markdown
    assert "radam constant (0.2) with seed 1." in markdown
    # Seeds 0.3 and 0.31: the deviation is 0.01 / sqrt(2).
    mean = "0.3050 \N{PLUS-MINUS SIGN} 0.0071"
    assert (
        f"| radam | constant | 0.2 | 2 | {mean} | 1 | chosen, the highest |" in markdown
    )
    assert markdown.count("chosen, the highest |") == 2
    assert "- radam constant (0.2) is the highest rate of its grid." in markdown
    assert "on the test data itself" in markdown
    assert "flattering" in markdown
    difference = "| radam constant (0.2) - adam constant (0.2) |"
    assert f"{difference} 2 | +0.1000 | +0.1000 to +0.1000 | 0.0000 |" in markdown
    assert (
        f"{difference} 0.3000 - 0.2000 = +0.1000 | 0.3100 - 0.2100 = +0.1000 |"
        in markdown
    )
    assert (
        "| radam | constant | 0.2 | 0.0000 | 0.0000 | 1 | 1 |" in markdown
    )  # stability
    assert "| adam | constant | 40 | 40 | 40 | 12 |" in markdown  # throughput
    assert (
        "| adam-constant-0.1-s0 | 3 | 9 | 1.1000 | 0.1000 | 1.1000 | 0.1000 |"
        in markdown
    )
    for name in ("learning_curves", "accuracy_by_learning_rate", "stability"):
        assert f"]({name}.png)" in markdown


class _Sources(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []
        self.sources = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        if "src" in attributes:
            self.sources.append(attributes["src"])


def test_page_needs_nothing_but_itself(reported):
    page = (reported / "report.html").read_text()
    parser = _Sources()
    parser.feed(page)
    assert not {"script", "link", "iframe"} & set(parser.tags)
    assert "http:" not in page
    assert "https:" not in page
    prefix = "data:image/png;base64,"
    pictures = [base64.b64decode(s.removeprefix(prefix)) for s in parser.sources]
    assert pictures == [
        (reported / f"{name}.png").read_bytes()
        for name in ("accuracy_by_learning_rate", "learning_curves", "stability")
    ]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    tables = (reported / "report.md").read_text().count("\n|---")
    assert parser.tags.count("table") == tables
    assert "<td>radam</td>" in page


def test_tables(reported):
    with (reported / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert rows[0]["run"] == "adam-constant-0.1-s0"
    assert float(rows[0]["test_loss"]) == 1.1
    assert rows[0]["validation_loss"] == ""
    assert rows[-1]["train_loss"] == "nan"
    assert rows[0]["images_per_second"] == "40.0"
    with (reported / "summary.csv").open() as file:
        summary = list(csv.DictReader(file))
    assert [line["chosen"] for line in summary] == ["False", "True"] * 2
    last = summary[-1]
    assert (last["finished"], last["diverged"], last["edge"]) == ("2", "1", "highest")
    assert float(last["test_accuracy_mean"]) == pytest.approx(0.305)
    assert float(last["test_accuracy_sd"]) == pytest.approx(0.01 / math.sqrt(2))


def _events(path):
    """What an event file has, by the format that TensorFlow documents."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12]) == (masked_crc32c(data[:8]),)
        content, data = data[12 : 12 + length], data[12 + length :]
        assert struct.unpack("<I", data[:4]) == (masked_crc32c(content),)
        data = data[4:]
        yield Event.FromString(content)


def test_event_files(reported):
    folder = reported / "tensorboard"
    assert len(list(folder.iterdir())) == 8
    (path,) = (folder / "radam-constant-0.2-s1").iterdir()
    version, *events = _events(path)
    assert "tfevents" in path.name
    assert version.file_version == "brain.Event:2"
    assert [(event.step, event.wall_time) for event in events] == [
        (3, 0.5),
        (6, 1.0),
        (9, 1.5),
    ]
    scalars = [{v.tag: v.simple_value for v in event.summary.value} for event in events]
    assert scalars[0] == pytest.approx(
        {
            "loss/train": 1.2,
            "loss/test": 1.2,
            "accuracy/train": 0.31,
            "accuracy/test": 0.31,
            "learning_rate": 0.2,
        }
    )
    assert math.isnan(scalars[-1]["loss/train"])


def test_event_files_have_the_rate_of_each_epochs_last_update(tmp_path):
    flags = make_flags(optimizers=("adam",), schedules=("linear-warmup-9",), epochs=2)
    experiment = write(tmp_path, flags, rows_of(flags, _metrics))
    event_files.write_event_files(experiment, tmp_path)
    (path,) = (tmp_path / "tensorboard").glob("*/*")
    rates = [
        value.simple_value
        for event in _events(path)
        for value in event.summary.value
        if value.tag == "learning_rate"
    ]
    assert rates == pytest.approx([0.001 * 3 / 9, 0.001 * 6 / 9])


def test_redrawing_replaces_the_report_by_the_same(reported, capsys):
    before = {
        path.relative_to(reported): path.read_bytes()
        for path in reported.rglob("*")
        if path.is_file()
    }
    assert report_main(MadeUpFlags, [str(reported)]) == 0
    assert "report.md" in capsys.readouterr().out
    after = {
        path.relative_to(reported): path.read_bytes()
        for path in reported.rglob("*")
        if path.is_file()
    }
    assert after == before


def test_help_does_not_wait_for_jax():
    code = "import sys, experiments.report.command; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("loss", [0.5, 100.0, math.nan])
def test_one_rate_and_an_interrupted_or_diverged_run_still_have_a_report(
    tmp_path, loss
):
    flags = make_flags(epochs=2, learning_rates=(0.1,))
    rows = [row(), row(2), row(arm="radam", loss=loss)]
    experiment = write(tmp_path, flags, rows)
    stale = tmp_path / "accuracy_by_learning_rate.png"
    stale.write_text("of an earlier report")
    report.write_report(experiment, tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    assert "Interrupted: 1 of 2 runs are finished" in markdown
    assert ("1 of 2 runs, whose accuracies" in markdown) == math.isnan(loss)
    assert "## Paired comparisons" not in markdown
    assert not stale.exists()


def _markdown(folder, flags, rows):
    experiment = write(folder, flags, rows)
    return text.markdown(experiment, Selection(experiment), [])


def test_held_out_examples_are_reported_as_such(tmp_path):
    flags = make_flags(learning_rates=(0.1, 0.2), epochs=3, validation=5)
    rows = held_out(rows_of(flags, _metrics), epochs=3, best_epoch=2)
    markdown = _markdown(tmp_path, flags, rows)
    assert "on\n5 held-out training images" in markdown
    assert "flattering" not in markdown
    assert "| adam | constant | 0.2 | 1 | 0.2000 | 0.8000 | 0.7500 | 0 |" in markdown
    assert "none: one pair" in markdown
    assert "How much the validation loss changes" in markdown


def test_an_arm_of_diverged_runs_alone_is_in_every_table(tmp_path):
    flags = make_flags(optimizers=("adam", "radam"), epochs=2, learning_rates=(0.1,))
    losses = {"adam": 1.0, "radam": math.nan}
    rows = rows_of(
        flags, lambda run: _metrics(run) | {"loss": losses[run.arm.optimizer]}
    )
    markdown = _markdown(tmp_path, flags, rows)
    assert "| radam | constant | 0.1 | 1 | 0.2000 | 1 | chosen |" in markdown
    assert "0.2000 - 0.1000 = +0.1000" in markdown
    assert "| radam | constant | 0.1 | - | - | 0 | 1 |" in markdown


def test_bootstrap_stands_beside_from_eight_seeds_on(tmp_path):
    for seeds in (7, 8):
        flags = make_flags(epochs=1, seeds=tuple(range(seeds)))
        markdown = _markdown(tmp_path, flags, rows_of(flags, _metrics))
        assert ("95% bootstrap" in markdown) == (seeds == 8)


@pytest.mark.parametrize(
    ("seeds", "expected"), [((0, 1), ("0.3100", 16)), (tuple(range(30)), ("0.2*", 8))]
)
def test_terminal_table_fits_into_80_columns(tmp_path, seeds, expected):
    flags = make_flags(
        optimizers=("radam", "schedule-free-radam"),
        schedules=("constant", "untuned-linear-warmup+warmup-linear-decay"),
        learning_rates=(0.1, 0.2),
        seeds=seeds,
        epochs=1,
    )
    table = tables.summary_table(write(tmp_path, flags, rows_of(flags, _metrics)))
    console = rich.console.Console(width=80)
    with console.capture() as capture:
        console.print(table)
    shown, rows = expected
    assert shown in capture.get()
    assert len(table.rows) == rows
    assert "\N{HORIZONTAL ELLIPSIS}" not in capture.get()
