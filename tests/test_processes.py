"""Many processes, as separate programs that talk over loopback."""

import json
import math
import operator
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import programs
import psutil
import pytest
import small_experiment
import tyro

from experiments.cifar10.config import Config
from experiments.comparison import command, experiment
from experiments.comparison.config import ConfigError

ROOT = pathlib.Path(__file__).parent.parent
# A group of two runs, which two processes share out.
FLAGS = """--optimizers adam --seeds 0 1 --population 2 --batch-size 4
  --learning-rates 1e-2 --epochs 80 --validation 4 --checkpoint-seconds 0.2"""
ROWS = 80 * 2


def _free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Processes:
    """A comparison in so many processes."""

    def __init__(self, number, out, *flags, slurm=False):
        port = _free_port()
        self.out = out
        self.programs = []
        for rank in range(number):
            more = f"--coordinator 127.0.0.1:{port} --processes {number}"
            more = [*more.split(), "--process-id", str(rank)]
            variables = {}
            if slurm:
                more = ["--distributed"]
                variables = {
                    "SLURM_JOB_ID": str(port),
                    "SLURM_STEP_NODELIST": "localhost",
                    "SLURM_NTASKS": str(number),
                    "SLURM_PROCID": str(rank),
                    "SLURM_LOCALID": str(rank),
                }
            self.programs.append(_start(out, *more, *flags, **variables))

    def wait_for_more_rows(self, count):
        """Until there are so many more than now."""
        path = self.out / "metrics.jsonl"
        count += len(_rows(self.out)) if path.exists() else 0
        deadline = time.monotonic() + 120
        while not (path.exists() and len(_rows(self.out)) >= count):
            for program in self.programs:
                assert program.poll() is None, program.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def wait(self):
        """Exit statuses and stderr of all."""
        results = []
        for program in self.programs:
            _, stderr = program.communicate(timeout=120)
            results.append((program.returncode, stderr))
        return results


def _start(out, *flags, **variables):
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    words = [sys.executable, "-m", "small_experiment", *FLAGS.split(), *flags]
    return subprocess.Popen(
        [*words, "--out", str(out)],
        env=programs.environment(PYTHONPATH=paths, **variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _rows(out):
    *lines, _ = (out / "metrics.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines]


def _run_alone(out, *flags):
    """In this process."""
    config = tyro.cli(Config, args=[*FLAGS.split(), *flags, "--out", str(out)])
    assert command.run(config, small_experiment.load_task) == 0
    return _rows(out)


def _assert_same_results(actual, expected):
    """But for rounding, and for an example in the balance."""
    assert len(actual) == len(expected) == ROWS
    key = operator.itemgetter("run", "epoch")
    pairs = zip(sorted(actual, key=key), sorted(expected, key=key), strict=True)
    for mine, theirs in pairs:
        for name in ("run", "epoch", "step"):
            assert mine[name] == theirs[name]
        for name in ("train_loss", "validation_loss", "test_loss"):
            if theirs[name] is not None:
                assert math.isclose(mine[name], theirs[name], rel_tol=1e-3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return _run_alone(tmp_path_factory.mktemp("alone") / "out")


def test_processes_that_slurm_has_started_do_what_one_does(tmp_path, alone):
    out = tmp_path / "out"
    results = Processes(2, out, slurm=True).wait()
    assert [status for status, _ in results] == [0, 0], results
    _assert_same_results(_rows(out), alone)
    assert (out / "report.md").exists()
    assert "2 processes, cpu (2)" in (out / "config.json").read_text()


def _last_line(stderr):
    return stderr.rstrip().splitlines()[-1]


def test_stopped_killed_and_resumed_in_other_numbers(tmp_path, alone):
    out = tmp_path / "out"
    one_by_one = ("--population", "1")  # each process takes its share of a batch
    two = Processes(2, out, *one_by_one)
    two.wait_for_more_rows(2)
    two.programs[1].send_signal(signal.SIGTERM)  # any of them will do
    for status, stderr in two.wait():
        assert status == 143, stderr
        assert "interrupted by SIGTERM; --resume goes on" in stderr

    two = Processes(2, out, *one_by_one, "--resume")
    two.wait_for_more_rows(2)
    (worker,) = psutil.Process(two.programs[1].pid).children()
    worker.kill()
    killed = time.monotonic()
    (first, first_error), (second, second_error) = two.wait()
    assert time.monotonic() - killed < 60
    assert (first, second) == (1, 137)
    place = r" in step \d+ of adam-constant-0.01-s\d"
    remedy = r"\. Go on by: python -m small_experiment .* --process-id {} .*--resume"
    assert re.search(
        "^error: process 1 of 2 was killed by SIGKILL" + place + remedy.format(1),
        _last_line(second_error),
    )
    assert re.search(
        "^error: process 0 of 2 ended, because process 1 of 2 was killed by SIGKILL,"
        + place
        + remedy.format(0),
        _last_line(first_error),
    )

    _assert_same_results(_run_alone(out, *one_by_one, "--resume"), alone)


def test_results_must_go_where_all_processes_see_them(tmp_path):
    message = f"all processes share: process 0 of 1 does not see {tmp_path}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        experiment._check_shared(tmp_path)


@pytest.mark.soak
def test_four_processes_lose_their_coordinator_and_go_on_in_two(tmp_path, alone):
    out = tmp_path / "out"
    one_by_one = ("--population", "1")
    four = Processes(4, out, *one_by_one)
    four.wait_for_more_rows(2)
    four.programs[0].kill()  # the parent; its child ends with it
    killed = time.monotonic()
    _, *others = four.wait()
    assert time.monotonic() - killed < 60
    for status, stderr in others:
        assert status == 1
        assert "because process 0 of 4 lost its parent" in _last_line(stderr)
    for number in (2, 4):
        again = Processes(number, out, *one_by_one, "--resume")
        again.wait_for_more_rows(2)
        if number == 2:
            again.programs[0].send_signal(signal.SIGINT)
        for status, stderr in again.wait():
            assert status == (130 if number == 2 else 0), stderr
    _assert_same_results(_rows(out), alone)
