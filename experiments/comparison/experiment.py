"""A comparison from its configuration to its report, with progress in the terminal."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Sequence

import rich.console
import rich.progress

from experiments.comparison import (
    files,
    interruption,
    optimizers,
    processes,
    records,
    report,
)
from experiments.comparison.checkpoints import Checkpoints
from experiments.comparison.config import (
    ComparisonConfig,
    ConfigError,
    DataError,
    Run,
)
from experiments.comparison.devices import Devices
from experiments.comparison.states import GroupState, Progress, steps_made
from experiments.comparison.task import Dataset, Task
from experiments.comparison.training import Trainer


def check(config: ComparisonConfig) -> None:
    """Refuses what cannot be run, before any data is read.

    Raises:
      ConfigError: if `--b2` is outside an optimizer's range, the devices do not divide
        what they are to share, or `--out` is taken.
    """
    for arm in config.arms:
        try:
            optimizers.make_optimizer(arm.optimizer, 1.0, config)
        except ValueError as error:
            raise ConfigError(
                f"--b2 cannot be used with {arm.name}: {error}"
            ) from error
    Devices(config)
    if processes.is_first():
        files.check_out_dir(
            config.out_dir, overwrite=config.overwrite, resume=config.resume
        )


def run_experiment(
    config: ComparisonConfig,
    load_task: Callable[[], Task],
    command: str,
    tell: Callable[[str], None],
) -> None:
    """Trains every run, keeps each epoch's metrics as it ends, and writes the report.

    Args:
      config: what to run; has passed `check`.
      load_task: reads or makes the data.
      command: what repeats it, for the record.
      tell: is told how many steps a run has made.

    Raises:
      ConfigError: if it is to be resumed under another configuration.
      DataError: if the data is not there, or what is to be resumed is damaged.
      OSError: if the results cannot be written; the rows written before are intact.
      Interrupted: on Ctrl-C or SIGTERM, after a report on what was finished.
    """
    first = processes.is_first()
    console = rich.console.Console(quiet=not first)
    out_dir = config.out_dir
    with console.status(f"Reading {config.name}"):
        task = load_task()
    dataset = task.dataset
    console.print(
        f"{dataset.description}: {len(dataset.train_labels):,} training and "
        f"{len(dataset.test_labels):,} test {config.unit}"
    )
    trainer = Trainer(task, config)
    alone = files.locked(out_dir) if first else contextlib.nullcontext()
    with alone, interruption.noted() as signal_number:
        if first:
            _prepare_out_dir(config, trainer, dataset, command, console)
        _check_shared(out_dir)
        try:
            _Session(config, trainer, console, signal_number, tell).train_all()
        except (interruption.Interrupted, KeyboardInterrupt):
            _write_report(config, console)
            raise
        _write_report(config, console)


def _prepare_out_dir(
    config: ComparisonConfig,
    trainer: Trainer,
    dataset: Dataset,
    command: str,
    console: rich.console.Console,
) -> None:
    """Begins the files of an experiment, or checks those to be gone on with."""
    out_dir, devices = config.out_dir, trainer.devices.mesh.size
    if config.resume:
        for difference in records.check_same(out_dir, config, dataset, devices):
            console.print(f"Not as it was: {difference}")
        return
    files.create_out_dir(out_dir)
    records.MetricsWriter(out_dir, config.unit).close()
    records.write_config(
        out_dir, config, command, dataset, trainer.steps_per_epoch, devices
    )


def _check_shared(out_dir: pathlib.Path) -> None:
    """Refuses a directory that other processes do not see."""
    processes.wait_for_all()
    path = out_dir / files.CONFIG_FILE
    if not path.exists():
        raise ConfigError(
            "--out must be on a file system that all processes share: "
            f"{processes.name()} does not see {path}, which process 0 has written."
        )


class _Session:
    """Trains what is not finished yet, saving as it goes."""

    def __init__(
        self,
        config: ComparisonConfig,
        trainer: Trainer,
        console: rich.console.Console,
        signal_number: Callable[[], int | None],
        tell: Callable[[str], None],
    ) -> None:
        self._config = config
        self._trainer = trainer
        self._bar = _progress_bar(console)
        self._signal_number = signal_number
        self._tell = tell
        self._agreement = processes.Agreement()
        self._saved = time.monotonic()

    def train_all(self) -> None:
        """Every group that is not finished."""
        config, groups = self._config, self._config.groups()
        rows, finished, state = self._rows(), 0, None
        ended = {row.run for row in rows if row.metrics.epoch == config.epochs}
        while finished < len(groups) and ended.issuperset(groups[finished]):
            finished += 1
        if config.resume:
            finished = processes.from_first(finished)
            state, rows = self._restore(finished, groups, rows)
        with self._writer(rows) as writer, self._bar:
            for index in range(finished, len(groups)):
                self._train(index, groups, state, writer)
                state = None

    def _rows(self) -> list[records.Row]:
        """What was written before; known to process 0 alone, which writes."""
        config = self._config
        if not (config.resume and processes.is_first()):
            return []
        return records.read_experiment(config.out_dir, type(config)).rows

    def _writer(
        self, rows: list[records.Row]
    ) -> contextlib.AbstractContextManager[records.MetricsWriter | None]:
        if not processes.is_first():
            return contextlib.nullcontext()
        return records.MetricsWriter(self._config.out_dir, self._config.unit, rows)

    def _restore(
        self, index: int, groups: list[list[Run]], rows: list[records.Row]
    ) -> tuple[GroupState | None, list[records.Row]]:
        """Where to go on, and the rows that were written until then.

        Args:
          index: of the first group that is not finished.
          groups: all of them.
          rows: all that were written, if this is process 0.

        Raises:
          DataError: if checkpoint and rows do not fit together.
        """
        config, state, epochs = self._config, None, 0
        group = groups[index] if index < len(groups) else []
        if group:
            with Checkpoints(config.out_dir, index) as checkpoints:
                state = checkpoints.restore(self._trainer.initial_state(group))
        if state is not None:
            epochs = steps_made(state) // self._trainer.steps_per_epoch
        if not processes.is_first():
            return state, []
        expected = {
            (run, epoch)
            for number, runs in enumerate(groups[: index + 1])
            for run in runs
            for epoch in range(1, (config.epochs if number < index else epochs) + 1)
        }
        kept = [row for row in rows if (row.run, row.metrics.epoch) in expected]
        later = {row.run for row in rows} - {run for run, _ in expected} - {*group}
        if len(kept) != len(expected) or later:
            raise DataError(
                f"{config.out_dir / files.METRICS_FILE} has {len(kept)} of the "
                f"{len(expected)} rows that were written before the newest checkpoint, "
                f"and rows of {len(later)} runs that come after it. Nothing was "
                "deleted; restore the file, or train anew into another --out."
            )
        return state, kept

    def _train(
        self,
        index: int,
        groups: Sequence[list[Run]],
        state: GroupState | None,
        writer: records.MetricsWriter | None,
    ) -> None:
        group = groups[index]
        show = self._shown(index, groups)
        with Checkpoints(self._config.out_dir, index) as checkpoints:

            def after_call(state: GroupState, step: int, *, save: bool = False) -> None:
                self._tell(f"step {step} of {group[0].name}")
                self._settle(checkpoints, state, save=save)

            for epoch_end, metrics in self._trainer.train(
                group, state, after_call, show
            ):
                if writer is not None:
                    for run, of_run in zip(group, metrics, strict=True):
                        writer.append(records.Row(run, of_run))
                last = metrics[0].epoch == self._config.epochs
                after_call(epoch_end, metrics[0].step, save=last)

    def _settle(
        self, checkpoints: Checkpoints, state: GroupState, *, save: bool
    ) -> None:
        """Saves if it is time or `save` says so, and stops if somebody has asked to.

        Raises:
          Interrupted: if so; the state is saved.
        """
        elapsed = time.monotonic() - self._saved
        decision = self._agreement.after_call(
            save=save or elapsed >= self._config.checkpoint_seconds,
            signal_number=self._signal_number() or 0,
            now=save,
        )
        if decision.save or decision.signal_number:
            checkpoints.save(state)
            self._saved = time.monotonic()
        if decision.signal_number:
            raise interruption.Interrupted(decision.signal_number)

    def _shown(
        self, index: int, groups: Sequence[list[Run]]
    ) -> Callable[[Progress], None]:
        """What shows a group's progress."""
        config, bar = self._config, self._bar
        done, group = sum(map(len, groups[:index])), groups[index]
        per_run = config.epochs * self._trainer.examples
        if not bar.task_ids:
            total = len(config.runs()) * per_run
            bar.add_task("", total=total, loss="", speed="")
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        title = f"{group[0].name}{more} ({done + len(group)}/{len(config.runs())})"
        bar.update(bar.task_ids[0], description=f"{title} epoch 1/{config.epochs}")

        def show(progress: Progress) -> None:
            of_run = (progress.epoch - 1) * self._trainer.examples + progress.examples
            speed = progress.examples_per_second
            bar.update(
                bar.task_ids[0],
                completed=done * per_run + len(group) * of_run,
                description=f"{title} epoch {progress.epoch}/{config.epochs}",
                loss=f"loss {progress.loss:.3f}",
                speed=f"{speed:,.0f} {config.unit}/s",
            )

        return show


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
    if not processes.is_first():
        return
    out_dir = config.out_dir
    experiment = records.read_experiment(out_dir, type(config))
    if not experiment.rows:
        return
    console.print(report.summary_table(experiment))
    report.write_report(experiment, out_dir)
    console.print(f"Report: {out_dir / files.REPORT_FILE}")
