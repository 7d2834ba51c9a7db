"""Records of runs that never were."""

from made_up import made_up_dataset

from experiments.comparison import files, records
from experiments.comparison.config import Arm, Run
from experiments.comparison.states import EpochMetrics

STEPS_PER_EPOCH = 3


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
    return records.Row(run, EpochMetrics(**fields | metrics))


def rows_of(config, metrics):
    """Every row of a configuration; `metrics` says what `row` does not, of each run."""
    return [
        row(epoch, **metrics(run))._replace(run=run)
        for run in config.runs()
        for epoch in range(1, config.epochs + 1)
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
        changed.append(records.Row(run, replaced))
    return changed


def write(out_dir, config, rows):
    """Writes the files of an experiment and reads them back."""
    files.create_out_dir(out_dir)
    command = records.command_line(config)
    records.write_config(
        out_dir, config, command, made_up_dataset(), STEPS_PER_EPOCH, devices=1
    )
    with records.MetricsWriter(out_dir, "images", rows[:-1]) as writer:
        for last in rows[-1:]:
            writer.append(last)
    return records.read_experiment(out_dir, type(config))
