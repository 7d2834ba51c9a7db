"""Records of runs that never took place."""

import dataclasses

import jax
from made_up import small_task

from experiments import records
from experiments.config import Arm, Flags, Grid, Run, Session, Training
from experiments.group import Work
from experiments.report.records import EpochMetrics, Row, read_experiment

STEPS_PER_EPOCH = 3


@dataclasses.dataclass(frozen=True)
class MadeUpFlags(Flags):
    """Flags of an experiment on images."""

    module = "experiments.made_up"
    unit = "images"
    classes = 10
    name = "made-up"


def make_flags(**fields):
    """Flags with the given fields of `Grid` and `Training`."""
    names = {field.name for field in dataclasses.fields(Grid)}
    grid = {name: value for name, value in fields.items() if name in names}
    training = {name: value for name, value in fields.items() if name not in names}
    return MadeUpFlags(Grid(**grid), Training(**training))


def row(epoch=1, rate=0.1, arm="adam", seed=0, loss=1.5, accuracy=0.5, **metrics):
    """A row without held-out examples, or with what `metrics` say."""
    fields = {
        "epoch": epoch,
        "step": STEPS_PER_EPOCH * epoch,
        "train_loss": loss,
        "train_accuracy": accuracy,
        "validation_loss": None,
        "validation_accuracy": None,
        "test_loss": loss,
        "test_accuracy": accuracy,
        "best_epoch": None,
        "best_test_accuracy": None,
        "seconds": 0.5,
        "examples_per_second": 40.0,
    }
    run = Run(Arm(arm, "constant"), rate, seed)
    return Row(run, EpochMetrics(**fields | metrics))


def rows_of(flags, metrics):
    """Every row of an experiment; `metrics` says what `row` does not, of each run."""
    return [
        row(epoch, **metrics(run))._replace(run=run)
        for run in flags.grid.runs()
        for epoch in range(1, flags.training.epochs + 1)
    ]


def held_out(rows, epochs, best_epoch=1):
    """The same rows as of an experiment with held-out examples."""
    changed = []
    for run, metrics in rows:
        last = metrics.epoch == epochs
        replaced = metrics._replace(
            validation_loss=metrics.test_loss,
            validation_accuracy=metrics.test_accuracy,
            test_loss=metrics.test_loss if last else None,
            test_accuracy=1 - metrics.test_accuracy if last else None,
            best_epoch=best_epoch,
            best_test_accuracy=0.75 if last else None,
        )
        changed.append(Row(run, replaced))
    return changed


def write(out, flags, rows):
    """Writes the files of an experiment and reads them back."""
    flags = dataclasses.replace(flags, session=Session(out=out))
    out.mkdir(exist_ok=True)
    task = small_task()
    command = f"python -m {flags.module} for {flags.grid}"
    work = Work(task, None, Training(batch_size=7), jax.devices())  # of three steps
    content = records.describe(flags, command, task, work)
    records.create(out, content)
    for row in rows:
        records.append(flags, [row.run], [row.metrics._asdict()])
    return read_experiment(out, type(flags))
