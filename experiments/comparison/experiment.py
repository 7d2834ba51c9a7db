"""An experiment from its configuration to its report, with progress in the terminal."""

from collections.abc import Callable

import rich.console
import rich.progress

from experiments.comparison import optimizers, records, report
from experiments.comparison.config import ComparisonConfig, ConfigError
from experiments.comparison.task import Task
from experiments.comparison.training import Progress, Trainer


def check(config: ComparisonConfig) -> None:
    """Refuses what cannot be run, before any data is read.

    Raises:
      ConfigError: if `--b2` is outside an optimizer's range, or `--out` is taken.
    """
    for arm in config.arms:
        try:
            optimizers.make_optimizer(arm, config.learning_rates[0], config, 1)
        except ValueError as error:
            raise ConfigError(
                f"--b2 cannot be used with {arm.name}: {error}"
            ) from error
    records.check_out_dir(config.out_dir, config.overwrite)


def run_experiment(
    config: ComparisonConfig, load_task: Callable[[], Task], command: str
) -> None:
    """Trains every run, keeps each epoch's metrics as it ends, and writes the report.

    Args:
      config: what to run; has passed `check`.
      load_task: reads or makes the data.
      command: what repeats it, for the record.

    Raises:
      DataError: if the data is not there.
      OSError: if the results cannot be written; the rows written before are intact.
      KeyboardInterrupt: on Ctrl-C, after a report on what was finished.
    """
    console = rich.console.Console()
    out_dir = config.out_dir
    with console.status(f"Reading {config.name}"):
        task = load_task()
    dataset = task.dataset
    console.print(
        f"{dataset.description}: {len(dataset.train_labels):,} training and "
        f"{len(dataset.test_labels):,} test {config.unit}"
    )
    trainer = Trainer(task, config)
    records.create_out_dir(out_dir)
    records.write_config(out_dir, config, command, dataset, trainer.steps_per_epoch)
    try:
        with records.MetricsWriter(out_dir, config.unit) as writer:
            _train_all(config, trainer, writer, console)
    except KeyboardInterrupt:
        _write_report(config, console)
        raise
    _write_report(config, console)


def _train_all(
    config: ComparisonConfig,
    trainer: Trainer,
    writer: records.MetricsWriter,
    console: rich.console.Console,
) -> None:
    runs = config.runs()
    with _progress_bar(console) as bar:
        examples_per_run = config.epochs * trainer.examples
        task = bar.add_task("", total=len(runs) * examples_per_run, loss="", speed="")
        for index, run in enumerate(runs):

            def show(
                progress: Progress, before: int = index * examples_per_run
            ) -> None:
                speed = progress.examples / progress.seconds
                bar.update(
                    task,
                    completed=before
                    + (progress.epoch - 1) * trainer.examples
                    + progress.examples,
                    loss=f"loss {progress.loss:.3f}",
                    speed=f"{speed:,.0f} {config.unit}/s",
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


def _write_report(config: ComparisonConfig, console: rich.console.Console) -> None:
    out_dir = config.out_dir
    experiment = records.read_experiment(out_dir, type(config))
    if not experiment.rows:
        return
    console.print(report.summary_table(experiment))
    report.write_report(experiment, out_dir)
    console.print(f"Report: {out_dir / records.REPORT_FILE}")
