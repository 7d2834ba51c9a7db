"""Records of runs that never took place."""

import dataclasses

import jax
from made_up import small_task

from experiments import records
from experiments.config import Arm, Flags, Grid, Run, Session, Training
from experiments.group import Work
from experiments.report.records import read_experiment

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
    """A run's metrics of an epoch: those given; others equal the training's."""
    fields = {"epoch": epoch, "step": STEPS_PER_EPOCH * epoch, "train_loss": loss}
    fields |= {"train_accuracy": accuracy, "test_loss": loss, "test_accuracy": accuracy}
    fields |= {"seconds": 0.5, "examples_per_second": 40.0}
    return Run(Arm(arm, "constant"), rate, seed), fields | metrics


def rows_of(flags, metrics):
    """Every row of an experiment; `metrics` gives each run's fields for `row`."""
    return [
        (run, row(epoch, **metrics(run))[1])
        for run in flags.grid.runs()
        for epoch in range(1, flags.training.epochs + 1)
    ]


def write(out, flags, rows):
    """Writes the files of an experiment and reads them back."""
    flags = dataclasses.replace(flags, session=Session(out=out))
    out.mkdir(exist_ok=True)
    task = small_task()
    command = f"python -m {flags.module} for {flags.grid}"
    work = Work(task, None, Training(batch_size=7), jax.devices())  # of three steps
    records.create(out, records.describe(flags, command, task, work))
    for run, metrics in rows:
        records.append(flags, [run], [metrics])
    return read_experiment(out, type(flags))
