"""The records as TensorBoard's event files."""

import pathlib
import shutil

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from experiments import schedules
from experiments.config import Run
from experiments.report import files
from experiments.report.records import EpochMetrics, Experiment, Row

# TensorBoard asks for the middle of the name; time and host, usual in it, are left out.
_FILE = "events.out.tfevents.0"
_METRICS = tuple(
    (f"{metric}/{part}", f"{part}_{metric}")
    for metric in ("loss", "accuracy")
    for part in ("train", "validation", "test")
)


def write_event_files(experiment: Experiment, out_dir: pathlib.Path) -> None:
    """Writes a folder for each run, with its scalars after each epoch.

    Steps are updates, and times those of training alone, from zero. The same records
    make the same files. The folder appears whole, in place of an earlier one.

    Args:
      experiment: the records.
      out_dir: where the folder of the runs' folders goes.
    """
    part = out_dir / (files.EVENT_FOLDER + ".part")
    shutil.rmtree(part, ignore_errors=True)
    runs: dict[Run, list[Row]] = {}
    for row in experiment.rows:
        runs.setdefault(row.run, []).append(row)
    rates: dict[tuple[str, float], list[float]] = {}
    try:
        for run, rows in runs.items():
            key = (run.arm.schedule, run.learning_rate)
            if key not in rates:
                rates[key] = _learning_rates(experiment, *key)
            folder = part / run.name
            folder.mkdir(parents=True)
            _write(folder / _FILE, rows, rates[key])
        shutil.rmtree(out_dir / files.EVENT_FOLDER, ignore_errors=True)
        part.rename(out_dir / files.EVENT_FOLDER)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _learning_rates(experiment: Experiment, schedule: str, peak: float) -> list[float]:
    steps = experiment.training.epochs * experiment.steps_per_epoch
    rates = schedules.learning_rates(schedule, peak, experiment.training, steps)
    return [float(rate) for rate in rates]


def _write(path: pathlib.Path, rows: list[Row], rates: list[float]) -> None:
    # The one below `SummaryWriter`, which adds a thread and the time of writing.
    writer = RecordWriter(str(path))
    try:
        writer.write(Event(file_version="brain.Event:2").SerializeToString())
        seconds = 0.0
        for _, metrics in rows:
            seconds += metrics.seconds
            event = Event(
                wall_time=seconds,
                step=metrics.step,
                summary=_summary(metrics, rates[metrics.step - 1]),
            )
            writer.write(event.SerializeToString())
    finally:
        writer.close()


def _summary(metrics: EpochMetrics, learning_rate: float) -> Summary:
    """What was evaluated, and the rate of the epoch's last update."""
    scalars = {tag: getattr(metrics, field) for tag, field in _METRICS}
    scalars["learning_rate"] = learning_rate
    return Summary(
        value=[
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
            if value is not None
        ]
    )
