"""Trains every run of an experiment, and goes on where it was interrupted."""

import contextlib
import functools
import hashlib
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tqdm  # type: ignore[import-untyped]
from jax.sharding import PartitionSpec as P

from experiments import processes, records, train
from experiments.checkpoints import Checkpoints
from experiments.config import ConfigError, Flags, Terminated, check
from experiments.group import Work, initial_state, make_programs, put, train_group
from experiments.optimizers import make_optimizer
from experiments.report import announce, files, write_report
from experiments.report.records import read_experiment
from experiments.report.tables import summary_table


def run_experiment(
    flags: Flags,
    load_task: Callable[[Any], train.Task],
    command: str,
    devices: Sequence[jax.Device],
) -> None:
    """Trains every run, keeps each epoch's metrics as it ends, and writes the report.

    Args:
      flags: what to run, and where the results go.
      load_task: reads or makes the data that the flags name.
      command: what repeats it, for the record.
      devices: those to train on.

    Raises:
      ConfigError: if a flag cannot be used, or differs between processes.
      DataError: if the data is not there, or what is to be resumed is damaged.
      OSError: if the results cannot be written; the rows written before are intact.
      Terminated: on SIGTERM.
    """
    first, session = processes.is_first(), flags.session
    out = {"overwrite": session.overwrite, "resume": session.resume}
    processes.compare(
        **records.spelled(records.recorded(flags)),
        **{"--out": str(flags.out), "--overwrite": session.overwrite},
        **{"--resume": session.resume},
    )
    with processes.together():
        _check_optimizers(flags)
        if first:
            records.check_out(flags.out, **out)
        task = load_task(flags)
        work, data = split(task, flags, devices), _describe(task)
    processes.compare(**{"the data's SHA-256": data.sha256})
    with contextlib.ExitStack() as stack:
        with processes.together():
            if first:
                stack.enter_context(records.locked(flags.out))
                records.check_out(flags.out, **out)  # others may have been here since
                _begin(flags, command, data, work)
        with processes.together():
            log = records.Log(flags, writes=first)
        with processes.alone():
            _train_all(flags, work, log)
            if first:
                experiment = read_experiment(flags.out, type(flags))
                write_report(experiment, flags.out)
                announce(flags.out, summary_table(experiment))


def _check_optimizers(flags: Flags) -> None:
    for arm in flags.grid.arms:
        try:
            make_optimizer(arm.optimizer, 1.0, flags.training)
        except ValueError as error:
            raise ConfigError(
                f"--b2 cannot be used with {arm.name}: {error}"
            ) from error


def split(task: train.Task, flags: Flags, devices: Sequence[jax.Device]) -> Work:
    """The task with the examples that are used, and those that are held out.

    Raises:
      ConfigError: if there are too few, or devices do not divide the batches.
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
    for runs in {len(runs) for runs in flags.grid.groups(work.group_size)}:
        sharing = work.mesh(runs).shape["data"]
        allowed = f"a multiple of {sharing}, the devices that share a batch"
        check("batch_size", batch_size, allowed, batch_size % sharing == 0)
    return work


def _describe(task: train.Task) -> records.Data:
    digest = hashlib.sha256()
    for array in (*task.train, *task.test):
        digest.update(np.ascontiguousarray(array).tobytes())
    counts = len(task.train.labels), len(task.test.labels)
    return records.Data(task.description, *counts, digest.hexdigest())


def _begin(flags: Flags, command: str, data: records.Data, work: Work) -> None:
    """Starts the files of an experiment, or checks those to go on with."""
    print(
        f"{data.description}: {data.train_examples:,} training and "
        f"{data.test_examples:,} test {flags.unit}",
        file=sys.stderr,
    )
    if flags.session.resume:
        for difference in records.check_same(flags, data, work.devices):
            print(f"Not as it was: {difference}", file=sys.stderr)
        return
    records.create(flags.out, files.REPORT_FILES, files.EVENT_FOLDER)
    records.write_config(flags, command, data, work.steps_per_epoch, work.devices)


def _train_all(flags: Flags, work: Work, log: records.Log) -> None:
    """Trains all groups that are not finished."""
    programs = functools.cache(lambda *key: make_programs(work, *key))
    data = functools.lru_cache(1)(
        lambda mesh: put((work.task.train, work.held_out, work.task.test), mesh, P())
    )
    epochs, steps = flags.training.epochs, itertools.count()
    n, batch_size = len(work.task.train.labels), flags.training.batch_size
    bar = tqdm.tqdm(
        total=len(flags.grid.runs()) * epochs * n,
        unit=f" {flags.unit}",
        disable=not processes.is_first(),
        dynamic_ncols=True,
    )

    def after_step(state: train.State, position: int) -> None:
        before, done = (min(k * batch_size, n) for k in (position - 1, position))
        losses = state.loss_sum.addressable_shards  # of the runs that are here
        if bar.update(state.step.size * (done - before)):  # it has been redrawn
            loss = np.mean([np.mean(shard.data) for shard in losses]) / done
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        if processes.have_sigterm(next(steps)):
            raise Terminated

    with bar:
        for runs in flags.grid.groups(work.group_size):
            if log.has_finished(runs):
                bar.update(len(runs) * epochs * n)
                continue
            group = runs[0].name + (f"+{len(runs) - 1}" if len(runs) > 1 else "")
            bar.set_description(group)
            folder = flags.out / records.CHECKPOINT_FOLDER / group
            compiled = programs(runs[0].arm.optimizer, len(runs))
            with Checkpoints(folder) as checkpoints:
                state = initial_state(compiled, runs)
                if checkpoints.epoch:
                    state = checkpoints.restore(state)
                    bar.update(len(runs) * checkpoints.epoch * n)
                log.keep(runs, checkpoints.epoch)
                saved = time.monotonic()
                for trained, metrics in train_group(
                    work, compiled, data(compiled.mesh), runs, state, after_step
                ):
                    epoch = metrics[0].epoch
                    log.append(runs, metrics)
                    age = time.monotonic() - saved
                    old = age >= flags.session.checkpoint_seconds
                    if epoch == epochs or processes.first_says(old):
                        checkpoints.save(epoch, trained)
                        saved = time.monotonic()
