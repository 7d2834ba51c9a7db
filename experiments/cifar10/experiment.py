"""An experiment from its configuration to its report, with progress in the terminal."""

import pathlib
from collections.abc import Sequence

import rich.console
import rich.progress

from experiments.cifar10 import data, optimizers, records, report
from experiments.cifar10.config import Arm, Config, ConfigError
from experiments.cifar10.training import Progress, Trainer


def check(config: Config, arms: Sequence[Arm]) -> None:
    """Refuses what cannot be run, before any data is read.

    Raises:
      ConfigError: if `--b2` is outside an optimizer's range, or `--out` is taken.
    """
    for arm in arms:
        try:
            optimizers.make_optimizer(arm, config.learning_rates[0], config, 1)
        except ValueError as error:
            raise ConfigError(
                f"--b2 cannot be used with {arm.name}: {error}"
            ) from error
    records.check_out_dir(config.out_dir, config.overwrite)


def run_experiment(config: Config, arms: Sequence[Arm], command: str) -> None:
    """Trains every run, keeps each epoch's metrics as it ends, and writes the report.

    Args:
      config: what to run; has passed `check`.
      arms: which of its arms.
      command: what repeats it, for the record.

    Raises:
      DataError: if the data is not there.
      OSError: if the results cannot be written; the rows written before are intact.
      KeyboardInterrupt: on Ctrl-C, after a report on what was finished.
    """
    console = rich.console.Console()
    out_dir = config.out_dir
    with console.status(f"Reading {config.dataset}"):
        dataset = data.load(config.dataset, config.data_dir)
    console.print(
        f"{dataset.description}: {len(dataset.train_labels):,} training and "
        f"{len(dataset.test_labels):,} test images"
    )
    trainer = Trainer(dataset, config)
    records.create_out_dir(out_dir)
    records.write_config(
        out_dir, config, arms, command, dataset, trainer.steps_per_epoch
    )
    try:
        with records.MetricsWriter(out_dir) as writer:
            _train_all(config, arms, trainer, writer, console)
    except KeyboardInterrupt:
        _write_report(out_dir, console)
        raise
    _write_report(out_dir, console)


def _train_all(
    config: Config,
    arms: Sequence[Arm],
    trainer: Trainer,
    writer: records.MetricsWriter,
    console: rich.console.Console,
) -> None:
    runs = config.runs(arms)
    with _progress_bar(console) as bar:
        images_per_run = config.epochs * trainer.images
        task = bar.add_task("", total=len(runs) * images_per_run, loss="", speed="")
        for index, run in enumerate(runs):

            def show(progress: Progress, before: int = index * images_per_run) -> None:
                bar.update(
                    task,
                    completed=before
                    + (progress.epoch - 1) * trainer.images
                    + progress.images,
                    loss=f"loss {progress.loss:.3f}",
                    speed=f"{progress.images / progress.seconds:,.0f} images/s",
                )

            title = f"{run.name} ({index + 1}/{len(runs)})"
            bar.update(task, description=f"{title} epoch 1/{config.epochs}")
            for metrics in trainer.train(run, show):
                writer.append(records.Row(run, metrics))
                epoch = min(metrics.epoch + 1, config.epochs)
                bar.update(task, description=f"{title} epoch {epoch}/{config.epochs}")


def _progress_bar(console: rich.console.Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[loss]}"),
        rich.progress.TextColumn("{task.fields[speed]}"),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )


def _write_report(out_dir: pathlib.Path, console: rich.console.Console) -> None:
    experiment = records.read_experiment(out_dir)
    if not experiment.rows:
        return
    console.print(report.summary_table(experiment))
    report.write_report(out_dir)
    console.print(f"Report: {out_dir / records.REPORT_FILE}")
