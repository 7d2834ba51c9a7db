"""Trains every run of an experiment, and resumes an interrupted one."""

import contextlib
import functools
import sys
from collections.abc import Sequence

import jax
import tqdm  # type: ignore[import-untyped]

from experiments import processes, records, train
from experiments.checkpoints import Checkpoints
from experiments.config import ConfigError, Flags, Run, Terminated, check
from experiments.group import Work, make_programs, seeds_of, train_group
from experiments.optimizers import make_optimizer
from experiments.report.pages import remove_report, write_report
from experiments.report.records import read_experiment


def run_experiment(flags: Flags, command: str, devices: Sequence[jax.Device]) -> None:
    """Trains every run, records the metrics of each epoch, and writes the report.

    Raises:
      ConfigError: if a flag cannot be used, or differs between processes.
      DataError: if the data is missing, or the files to resume from are damaged.
      OSError: if the results cannot be written; the rows written before are intact.
    """
    first, resume = jax.process_index() == 0, flags.session.resume
    with processes.together() as facts:
        facts |= {"--overwrite": flags.session.overwrite, "--resume": resume}
        facts["--out"] = str(flags.out)
        check_optimizers(flags)
        if first:
            records.check_out(flags)
        task = flags.load()
        work = split(task, flags, devices)
        config = records.describe(flags, command, task, work)
        facts |= config.facts("grid", "training")
    with contextlib.ExitStack() as stack:
        with processes.together():
            if first:
                stack.enter_context(records.locked(flags.out))
                records.check_out(flags)  # others may have been here since
                print(
                    f"{task.description}: {len(task.train.labels):,} training and "
                    f"{len(task.test.labels):,} test {flags.unit}",
                    file=sys.stderr,
                )
                if resume:
                    records.check_same(flags.out, config)
                else:
                    remove_report(flags.out)
                    records.create(flags.out, config)
        groups = work.groups(flags.grid)
        with processes.together() as facts:
            behind, rows = records.find_rows(flags, groups)
            facts["the epochs in --out"] = behind
        _train_all(flags, work, groups, behind, rows)
        if first:
            write_report(read_experiment(flags.out, type(flags)), flags.out)


def check_optimizers(flags: Flags) -> None:
    """Refuses a `b2` that one of the optimizers cannot have."""
    for arm in flags.grid.arms:
        try:
            make_optimizer(arm.optimizer, 1.0, flags.training)
        except ValueError as error:
            message = f"--b2 cannot be used with {arm.name}: {error}"
            raise ConfigError(message) from error


def split(task: train.Task, flags: Flags, devices: Sequence[jax.Device]) -> Work:
    """The task with the used training examples, and the held-out examples.

    Raises a `ConfigError` if there are too few, or if devices cannot divide batches.
    """
    training, (inputs, labels) = flags.training, task.train
    rest, limit = len(labels) - training.validation, training.limit_train
    allowed = f"below {len(labels):,}, the training {flags.unit} of {flags.name}"
    check("validation", training.validation, allowed, rest > 0)
    allowed = f"at most {rest:,}, the {flags.unit} that are not held out"
    check("limit_train", limit, allowed, limit is None or limit <= rest)
    used = train.Examples(inputs[:rest][:limit], labels[:rest][:limit])
    held_out = train.Examples(inputs[rest:], labels[rest:])
    allowed = f"at most {len(used.labels):,}, the training {flags.unit} of {flags.name}"
    batch_size = training.batch_size
    check("batch_size", batch_size, allowed, batch_size <= len(used.labels))
    work = Work(
        task._replace(train=used),
        held_out if training.validation else None,
        training,
        devices,
    )
    most = 2**31 // work.steps_per_epoch
    check("epochs", training.epochs, f"below {most:,}", training.epochs < most)
    for runs in {len(runs) for runs in work.groups(flags.grid)}:
        sharing = work.mesh(runs).shape["data"]
        allowed = f"a multiple of {sharing}, the devices that share a batch"
        check("batch_size", batch_size, allowed, batch_size % sharing == 0)
    return work


def _train_all(
    flags: Flags,
    work: Work,
    groups: Sequence[Sequence[Run]],
    behind: Sequence[int],
    rows: bytes,
) -> None:
    """Trains all groups that are not finished; see `records.find_rows`."""
    programs = functools.cache(lambda *key: make_programs(work, *key))
    examples = functools.lru_cache(1)(work.examples)
    first, epochs, steps = jax.process_index() == 0, flags.training.epochs, 0
    rewrite = first

    def after_step(_: train.State) -> None:
        nonlocal steps
        steps += 1
        bar.update(len(runs))
        if processes.have_sigterm(steps):
            raise Terminated

    with tqdm.tqdm(
        total=len(flags.grid.runs()) * epochs * work.steps_per_epoch,
        unit=" updates",
        disable=not first,
        dynamic_ncols=True,
    ) as bar:
        for runs, done in zip(groups, behind, strict=True):
            bar.update(len(runs) * done * work.steps_per_epoch)
            if done == epochs:
                continue
            compiled = programs(runs[0].arm.optimizer, len(runs))
            folder = records.checkpoint_folder(flags, runs)
            bar.set_description(folder.name)
            with Checkpoints(folder, flags.session.checkpoint_seconds) as checkpoints:
                state = compiled.init(None, seeds_of(compiled, runs))
                if done:
                    state = checkpoints.restore_state(done, state)
                if rewrite:  # not before a checkpoint has been restored
                    records.write_whole(flags.out / records.METRICS_FILE, rows)
                    rewrite = False
                data = examples(compiled.mesh)
                for epoch, (trained, metrics) in enumerate(
                    train_group(work, compiled, data, runs, state, done, after_step),
                    start=done + 1,
                ):
                    if first:
                        records.append(flags, runs, metrics)
                    loss = metrics[0]["train_loss"]
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                    checkpoints.save_state(epoch, trained, last=epoch == epochs)
