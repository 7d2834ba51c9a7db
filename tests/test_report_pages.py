"""Files of reports: text, page, pictures, CSV, TensorBoard."""

import html.parser
import itertools
import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from made_up_records import make_flags, row, rows_of, write
from tensorboardX.proto.event_pb2 import Event

import optax_radam
from experiments.cifar10.presets import PRESETS
from experiments.report import figures, pages, tables

GRID = {"optimizers": ("adam", "radam"), "learning_rates": (0.1, 0.2), "epochs": 2}


def _experiment(out, metrics=lambda run: {}, **fields):
    flags = make_flags(**GRID | fields)
    return write(out, flags, rows_of(flags, metrics))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a report."""
    out = tmp_path_factory.mktemp("report")
    pages.write_report(_experiment(out, seeds=(0, 1)), out)
    return out


def test_every_file_and_no_other(written):
    names = {path.name for path in written.iterdir()}
    assert names == {*pages.FILES, "config.json", "metrics.jsonl", "tensorboard"}


def test_sections_come_in_the_order_of_their_weight(written):
    text = (written / "report.md").read_text()
    assert re.findall("^## (.*)", text, re.MULTILINE) == [
        "Final accuracies",
        "Paired differences",
        "Learning curves",
        "Stability",
        "Where the warmup ended",
        "Throughput",
        "Every run's last epoch",
        "Circumstances",
    ]
    title, result, picture = text.split("\n\n")[:3]
    assert title == "# made-up: Adam, RAdam"
    assert result.startswith("Adam has the highest mean test accuracy, 0.5000")
    assert picture == "![Final accuracies](final_accuracies.png)"


class _Page(html.parser.HTMLParser):
    """Parser that collects tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_the_page_needs_nothing_but_itself(written):
    tags = _Page((written / "report.html").read_text()).tags
    images = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert len(images) == 2
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in images)
    assert not [tag for tag, _ in tags if tag in ("script", "link", "a", "iframe")]


def test_tables_are_csv_as_well(written):
    rows = pd.read_csv(written / "metrics.csv")
    assert len(rows) == 2 * 2 * 2 * 2
    assert [*rows[rows.epoch == 2].step.unique()] == [6]
    assert pd.read_csv(written / "comparisons.csv").n[0] == 2


def test_tensorboard_reads_every_loss_and_accuracy(written):
    (path,) = (written / "tensorboard" / "radam-constant-0.2-s1").iterdir()
    content, values = path.read_bytes(), {}
    while content:  # length, its checksum, an event, its checksum
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        values |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
        content = content[16 + length :]
    parts = ("loss/train", "loss/test", "accuracy/train", "accuracy/test")
    assert values.keys() == {(tag, step) for tag in parts for step in (3, 6)}
    assert values["loss/test", 6] == 1.5


def test_redrawing_replaces_the_report_by_the_same(written):
    def contents():
        return {p.name: p.read_bytes() for p in written.iterdir() if p.is_file()}

    before = contents()
    (written / "report.md").write_text("torn")
    pages.write_report(_experiment(written, seeds=(0, 1)), written)
    assert contents() == before


def test_files_that_this_report_lacks_are_removed(tmp_path):
    (tmp_path / "final_accuracies.png").write_text("of an earlier one")
    (tmp_path / "mine.png").write_text("mine")
    pages.write_report(_experiment(tmp_path, learning_rates=(0.1,)), tmp_path)
    assert not (tmp_path / "final_accuracies.png").exists()
    assert (tmp_path / "mine.png").read_text() == "mine"


def _markdown(experiment, out):
    pages.write_report(experiment, out)
    return (out / "report.md").read_text()


def test_one_pair_is_not_said_to_have_an_interval(tmp_path):
    text = _markdown(_experiment(tmp_path), tmp_path)
    assert "One seed has no interval." in text
    assert "one interval in twenty" not in text


def test_lost_runs_are_named_and_a_run_of_nothing_but_warmup_warned_about(tmp_path):
    def metrics(run):
        loss = math.nan if run.seed else math.log(10)
        return {"loss": loss} if run.arm.optimizer == "radam" else {}

    text = _markdown(_experiment(tmp_path, metrics, seeds=(0, 1)), tmp_path)
    assert (
        "(a loss was not finite): RAdam at 0.1, seed 1; RAdam at 0.2, seed 1." in text
    )
    assert "RAdam at 0.1, seed 0; RAdam at 0.2, seed 0." in text
    assert "**Warning: RAdam was in its warmup from the first step to the last" in text
    assert "Warning: Adam" not in text


def test_an_interrupted_experiment_says_so(tmp_path):
    flags = make_flags(**GRID)
    text = _markdown(write(tmp_path, flags, [row(1)]), tmp_path)
    assert "No run is finished yet." in text
    assert "**Interrupted: 0 of 4 runs are finished.**" in text


HOSTILE = (
    "<script>alert(1)</script> [x](http://evil.example) `a` | *b*\n# c www.evil.com"
)


def test_text_from_records_is_shown_as_it_is(tmp_path):
    read = _experiment(tmp_path)
    task = read.config.task.model_copy(update={"name": HOSTILE})
    texts = {"task": task, "machine": HOSTILE, "command": f"``{HOSTILE}"}
    config = read.config.model_copy(update=texts)
    experiment = read._replace(config=config, data=HOSTILE)
    text = _markdown(experiment, tmp_path)
    assert "<script" not in text.replace("\\<script", "").replace("``<script", "")
    tags = _Page((tmp_path / "report.html").read_text()).tags
    assert not [tag for tag, _ in tags if tag in ("script", "a", "em")]
    assert [tag for tag, _ in tags].count("h1") == 1


@pytest.mark.parametrize("value", [1e308, -1e308, 1e-308, 0.0])
def test_any_number_can_be_reported(tmp_path, value):
    experiment = _experiment(
        tmp_path, lambda run: {"loss": value, "accuracy": value}, seeds=(0, 1)
    )
    pages.write_report(experiment, tmp_path)
    assert (tmp_path / "report.html").exists()


def test_six_arms_at_most_share_a_panel(tmp_path):
    schedules = ("constant", "step-decay", "linear-warmup-9", "linear-warmup-99")
    experiment = _experiment(tmp_path, schedules=schedules)
    found = tables.make_tables(experiment)
    figure = figures.draw_final(found)
    legends = [[t.get_text() for t in a.get_legend().get_texts()] for a in figure.axes]
    assert [len(names) for names in legends] == [6, 2]
    assert [*legends[0], *legends[1]] == [*found.arms]


def test_curves_are_means_in_a_band_with_the_steps_factors_beneath(tmp_path):
    def metrics(run):
        return {"accuracy": 0.2 if run.seed else 0.4}

    fields = {"optimizers": ("radam",), "learning_rates": (0.1,), "seeds": (0, 1)}
    experiment = _experiment(tmp_path, metrics, **fields)
    axes = figures.draw_curves(experiment, tables.make_tables(experiment)).axes
    names = ["test accuracy", "training accuracy", "test loss", "training loss"]
    assert [a.get_ylabel() for a in axes] == [*names, "schedule times r_t"]
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), [0.3, 0.3])
    band = axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.2, 0.4))
    r_t = [optax_radam.rectification_schedule(0.999)(step) for step in range(6)]
    np.testing.assert_allclose(axes[-1].lines[0].get_ydata(), r_t, rtol=1e-6)


def test_a_diverged_run_ends_the_mean_and_is_marked(tmp_path):
    flags = make_flags(optimizers=("adam",), seeds=(0, 1), epochs=3)
    rows = rows_of(flags, lambda run: {})
    for run, of_run in rows:
        if run.seed and of_run["epoch"] > 1:
            of_run["test_loss"] = math.nan
    experiment = write(tmp_path, flags, rows)
    axes = figures.draw_curves(experiment, tables.make_tables(experiment)).axes
    mean, cross = axes[2].lines
    np.testing.assert_array_equal(mean.get_ydata(), [1.5, np.nan, np.nan])
    assert [*cross.get_xdata()] == [2]


def test_curves_of_held_out_examples_are_of_validation(tmp_path):
    held_out = {"validation_loss": 1.0, "validation_accuracy": 0.75}
    experiment = _experiment(tmp_path, lambda run: held_out, validation=5)
    axes = figures.draw_curves(experiment, tables.make_tables(experiment)).axes
    assert axes[0].get_ylabel() == "validation accuracy"
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), 0.75)


def test_legends_of_the_largest_preset_fit_beside_each_other(tmp_path):
    arms = PRESETS["blog-fair"].grid
    flags = make_flags(optimizers=arms.optimizers, schedules=arms.schedules)
    experiment = write(tmp_path, flags, rows_of(flags, lambda run: {})[::10])
    figure = figures.draw_curves(experiment, tables.make_tables(experiment))
    figure.draw_without_rendering()
    boxes = [a.get_legend().get_window_extent() for a in figure.axes if a.get_legend()]
    assert len(boxes) > 2
    assert boxes[0].x0 >= 0
    assert boxes[-1].x1 <= figure.bbox.x1
    for left, right in itertools.pairwise(boxes):
        assert left.x1 <= right.x0


def test_a_huge_loss_does_not_flatten_the_others(tmp_path):
    experiment = _experiment(tmp_path, lambda run: {"loss": 1e3 * run.learning_rate})
    axes = figures.draw_curves(experiment, tables.make_tables(experiment)).axes
    assert axes[2].get_ylim()[1] <= 2 * math.log(10)


def test_the_terminal_shows_final_accuracies_and_names_the_page(tmp_path, capsys):
    pages.write_report(_experiment(tmp_path), tmp_path)
    text = capsys.readouterr().out
    assert re.search(r"Adam +0\.1 +1 +0\.5000 +chosen", text)
    assert text.endswith(f"Report: {tmp_path / 'report.html'}\n")


def test_the_terminal_table_fits_into_80_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    held_out = {"validation_loss": 1.0, "validation_accuracy": 0.75}
    arms = ("schedule-free-radam:untuned-exponential-warmup+warmup-linear-decay-5000",)
    experiment = _experiment(
        tmp_path, lambda run: held_out, optimizers=arms, validation=5, seeds=(0, 1)
    )
    text = pages.summary(tables.make_tables(experiment))
    assert max(map(len, text.splitlines())) <= 80


def test_a_report_command_is_read_without_jax():
    code = "import sys, experiments.report.command; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_escaped_text_keeps_one_line():
    assert pages.plain("a\r\n\tb\x1b[0m") == "a b [0m"
