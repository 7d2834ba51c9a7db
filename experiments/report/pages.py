"""The report: text, a page for the browser, pictures, CSV tables, TensorBoard files."""

import base64
import os
import pathlib
import re
import shutil
import sys

import jinja2
import markdown_it
import numpy as np
import pandas as pd
from tensorboardX import SummaryWriter

from experiments import records
from experiments.report import figures
from experiments.report.records import Experiment
from experiments.report.tables import Tables, make_tables, paired

_PAGE, _EVENTS = "report.html", "tensorboard"
_TABLES = ("metrics", "runs", "summary", "comparisons", "endings", "throughput")
_PICTURES = ("final_accuracies.png", "learning_curves.png")
FILES = {_PAGE, "report.md", *_PICTURES, *(f"{name}.csv" for name in _TABLES)}
_FORMATS = {
    "learning_rate": "g",
    "step": ",",
    "examples_per_second": ",.0f",
    "50%": ",.0f",
    "25%": ",.0f",
    "75%": ",.0f",
}
_SIGNED = ("mean_difference", "_low", "_high")
_TEXTS = {"arm", "minus", "run", "note"}  # aligned to the left


def write_report(experiment: Experiment, out: pathlib.Path) -> None:
    """Writes each file completely or not at all, then prints the final accuracies.

    Files of an earlier report that this one lacks are removed. There must be a row.
    """
    tables = make_tables(experiment)
    contents = render(experiment, tables)
    for name, content in contents.items():
        records.write_whole(out / name, content)
    write_events(tables.metrics, out / _EVENTS)
    for name in FILES - contents.keys():
        (out / name).unlink(missing_ok=True)
    try:
        print(f"{summary(tables)}\n\nReport: {out / _PAGE}", flush=True)
    except BrokenPipeError:  # of `| head`; the rest must not be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def remove_report(out: pathlib.Path) -> None:
    """Removes the files of an earlier report."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / _EVENTS, ignore_errors=True)


def render(experiment: Experiment, tables: Tables) -> dict[str, bytes]:
    """Contents of the report's files by name, except those for TensorBoard."""
    config, pictures = experiment.config, figures.draw(experiment, tables)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["table"] = table
    versions = ", ".join(f"{name} {v}" for name, v in config.versions.items())
    markdown = templates.get_template("report.md.j2").render(
        tables._asdict(),
        result=result(tables),
        pictures=pictures,
        planned=len(experiment.runs),
        held_out=config.training.validation,
        name=escape(config.task.name),
        unit=escape(config.task.unit),
        data=escape(experiment.data),
        machine=escape(config.machine),
        versions=escape(versions),
        commands=[code(line) for line in config.command.splitlines()],
    )
    parser = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table")
    body = parser.render(markdown)
    for name, png in pictures.items():
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        body = body.replace(f'src="{name}"', f'src="{source}"')
    body = body.replace("<table>", '<div class="table"><table>')
    body = body.replace("</table>", "</table></div>")
    page = templates.get_template("report.html.j2")
    texts = {
        "report.md": markdown,
        _PAGE: page.render(title=plain(config.task.name), body=body),
    }
    for name in _TABLES:
        texts[f"{name}.csv"] = getattr(tables, name).to_csv(index=False)
    return pictures | {name: text.encode() for name, text in texts.items()}


def summary(tables: Tables) -> str:
    """Final accuracies for the terminal: arms and notes are wrapped to its width."""
    accuracy, width = f"{tables.part}_accuracy", shutil.get_terminal_size().columns
    columns = ("arm", "learning_rate", "n", accuracy, "note")
    widths = {"arm": max(width - len(accuracy) - 39, 20), "note": 11}
    return table(tables.summary, *columns, form="simple", **widths)


def table(frame: pd.DataFrame, *columns: str, form: str = "pipe", **widths: int) -> str:
    """Columns of a frame, in Markdown unless another form is given; see `cells`."""
    shown = pd.DataFrame(cells(frame, *columns))
    text: str = shown.to_markdown(
        index=False,
        tablefmt=form,
        disable_numparse=True,
        colalign=["left" if name in _TEXTS else "right" for name in shown],
        maxcolwidths=[widths.get(name) for name in shown],
    )
    return text


def cells(frame: pd.DataFrame, *columns: str) -> dict[str, list[str]]:
    """Columns of a frame as text, by their heads.

    If a frame has `x_mean` and `x_sd`, or `x_low` and `x_high`, column `x` shows both.
    """

    def formatted(name: str) -> list[str]:
        spec = ".4f" if pd.api.types.is_float_dtype(frame[name]) else ""
        spec = "+.4f" if name.endswith(_SIGNED) or name.startswith("seed_") else spec
        spec = _FORMATS.get(name, spec)
        return ["-" if pd.isna(x) else format(x, spec) for x in frame[name]]

    shown = {}
    for name in columns:
        parts, join = [name], ""
        for first, second, between in (("mean", "sd", " ± "), ("low", "high", " to ")):
            if f"{name}_{second}" in frame:
                parts, join = [f"{name}_{first}", f"{name}_{second}"], between
        pairs = zip(*map(formatted, parts), strict=True)
        nothing = "" if name in _TEXTS else "-"
        values = [join.join(x for x in pair if x != "-") or nothing for pair in pairs]
        if {*values} != {nothing}:  # no column for what was never evaluated
            shown[name.replace("_", " ")] = values
    return shown


def result(tables: Tables) -> str:
    """One sentence: the best arm, and the interval of its lead over the first arm."""
    ranked = tables.summary[tables.summary.chosen].dropna(subset="test_accuracy_mean")
    ranked = ranked.sort_values("test_accuracy_mean", ascending=False, kind="stable")
    if ranked.empty:
        return "No run is finished yet."
    best, *others = ranked.arm
    ((reached, *_),) = cells(ranked, "test_accuracy").values()
    reached += f" at learning rate {ranked.learning_rate.iloc[0]:g}"
    reached += f" (n = {ranked.n.iloc[0]})"
    if not others:
        return f"{best} reaches a mean test accuracy of {reached}."
    first = next(iter(tables.arms))
    rival = first if first in others else others[0]
    lead = paired(tables.seeds[best] - tables.seeds[rival])
    text = f"{best} has the highest mean test accuracy, {reached}"
    if lead["n"] == 0:
        return f"{text}; it shares no finished seed with {rival}."
    text += f": {lead['mean_difference']:+.4f} over {rival}, "
    if lead["n"] == 1:
        return f"{text}from one seed, which says nothing about chance."
    low, high = lead["interval_low"], lead["interval_high"]
    includes = "includes" if low <= 0 <= high else "excludes"
    return f"{text}95% interval {low:+.4f} to {high:+.4f}, which {includes} zero."


def plain(text: str) -> str:
    """Text of a record on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def escape(text: str) -> str:
    """Text of a record escaped for Markdown: no markup, no links."""
    return re.sub(r"([\\`*_{}\[\]<>|&#~!$]|:(?=//)|(?<=www)\.)", r"\\\1", plain(text))


def code(text: str) -> str:
    """A command of a record as code, even if it has backticks."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {plain(text)} {fence}"


def write_events(rows: pd.DataFrame, folder: pathlib.Path) -> None:
    """Writes the rows for TensorBoard, a folder per run; replaces earlier ones."""
    shown = rows.filter(regex="^(train|validation|test)_(loss|accuracy)$").columns
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for name, run in rows.groupby("run", sort=False):
        values = run.assign(time=run.seconds.cumsum()).melt(["step", "time"], shown)
        # Without a limit: once the disk is full, nobody empties the queue.
        with SummaryWriter(str(part / name), max_queue=0) as writer:
            # Others were not evaluated, or have diverged.
            for line in values[np.isfinite(values.value)].itertuples():
                tag = "/".join(reversed(line.variable.split("_")))
                writer.add_scalar(tag, line.value, line.step, line.time)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
