"""The experiment's command line, on a task that is quick to compile."""

import contextlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import jax
import pytest
import tyro
from made_up import small_task

from experiments import main, processes
from experiments import run as run_module
from experiments.cifar10.config import Flags

_ROOT = pathlib.Path(__file__).parent.parent


class SmallFlags(Flags):
    """Flags of the image experiment, on a task that is quick to compile."""

    make_task = staticmethod(small_task)

    def load(self):
        task = self.make_task()
        if "OTHER_DATA" in os.environ:
            task.train.labels[0] = 1 - task.train.labels[0]
        return task


@contextlib.contextmanager
def quick():
    """Writes no reports, and shares compiled programs between experiments."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before, make, made = getattr(jax.config, name), run_module.make_programs, {}

    def programs(work, *of):
        key = (work.training, len(work.task.train.labels), *of)
        if key not in made:
            made[key] = make(work, *of)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "write_report", lambda *_: None)
        patch.setattr(run_module, "make_programs", programs)
        jax.config.update(name, 0)
        yield
        jax.config.update(name, before)


@contextlib.contextmanager
def file_limit(size):
    """Limits the bytes of a file, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def parse(line, *more):
    """Parses a command line into flags."""
    args = [*line.split(), *map(str, more)]
    return tyro.cli(SmallFlags, args=args, config=(tyro.conf.OmitArgPrefixes,))


def run(line, out, *more, task=small_task):
    """Runs an experiment in this process, and returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SmallFlags, "make_task", staticmethod(task))
        return main.run(parse(line, *more, "--out", out), "a command")


def start(line, out, *more, **variables):
    """Starts an experiment in a new process, which compiles like this one."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    variables = {
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join(map(str, (_ROOT, _ROOT / "tests"))),
    } | variables
    words = [sys.executable, "-m", "small_experiment", *line.split(), *map(str, more)]
    return subprocess.Popen(
        [*words, "--out", out],
        env=inherited | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(out):
    """Rows of `metrics.jsonl`, except a line that is being written."""
    *lines, _ = (out / "metrics.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines]


def untimed(out):
    """The rows, without what differs between any two trainings."""
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows(out)]


def wait_for_rows(processes, out, count):
    """Waits until there are `count` rows, while all processes train."""
    path, deadline = out / "metrics.jsonl", time.monotonic() + 120
    while not (path.exists() and len(rows(out)) >= count):
        for process in processes:
            assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def contents(out):
    """All files but the lock."""
    files = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    return {p: data for p, data in files.items() if p.name != ".lock"}


if __name__ == "__main__":
    for name in ("_START_SECONDS", "_HEARTBEAT_SECONDS"):
        setattr(processes, name, int(os.environ.get(name, getattr(processes, name))))
    sys.exit(main.main(SmallFlags))
