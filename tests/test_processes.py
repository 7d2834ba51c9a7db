"""Several processes: separate programs that communicate over loopback."""

import math
import operator
import re
import signal
import socket
import time

import jax
import numpy as np
import pytest
import small_experiment
from small_experiment import parse, rows, wait_for_rows

from experiments import processes
from experiments import run as run_module
from experiments.config import ConfigError, DataError

# A batch of four, which two processes share, or a group of two runs.
FLAGS = """--optimizers adam --seeds 0 1 --batch-size 4 --learning-rates 1e-2
  --epochs 40 --validation 4 --checkpoint-seconds 0.3"""
ROWS = 40 * 2


def _free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _start(number, out, *more, **variables):
    """Starts programs that find each other by their flags."""
    among = f"--coordinator 127.0.0.1:{_free_port()} --processes {number}".split()
    return [
        small_experiment.start(
            FLAGS, out, *more, *among, "--process-id", rank, **variables
        )
        for rank in range(number)
    ]


def _end(programs):
    """Exit statuses and standard errors of all."""
    errors = [program.communicate(timeout=120)[1] for program in programs]
    return [program.returncode for program in programs], errors


def _last_line(error):
    return error.rstrip().splitlines()[-1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The rows of the experiment in this process, on one device."""
    out = tmp_path_factory.mktemp("alone") / "out"
    with small_experiment.quick():
        assert small_experiment.run(FLAGS, out) == 0
    return rows(out)


def _assert_same_results(actual, expected):
    """Compares losses, up to rounding, but no accuracies: one example may flip."""
    assert len(actual) == len(expected) == ROWS
    key = operator.itemgetter("run", "epoch")
    pairs = zip(sorted(actual, key=key), sorted(expected, key=key), strict=True)
    for mine, theirs in pairs:
        for name in ("run", "epoch", "step"):
            assert mine[name] == theirs[name]
        for name in ("train_loss", "validation_loss", "test_loss"):
            if theirs[name] is not None:
                assert math.isclose(mine[name], theirs[name], rel_tol=1e-4)


@pytest.mark.soak
def test_two_are_stopped_and_one_goes_on_as_if_there_had_been_one(tmp_path, alone):
    out = tmp_path / "out"
    two = _start(2, out)
    wait_for_rows(two, out, 5)
    two[1].send_signal(signal.SIGTERM)  # either will do
    statuses, errors = _end(two)
    assert statuses == [143, 143], errors
    for error in errors:
        assert "error: stopped by SIGTERM; finished epochs are kept." in error
    assert "2 processes, cpu (2)" in (out / "config.json").read_text()
    assert len(rows(out)) < ROWS
    with small_experiment.quick():
        assert small_experiment.run(FLAGS, out, "--resume") == 0
    _assert_same_results(rows(out), alone)


@pytest.mark.soak
@pytest.mark.parametrize("killed", [1, 0], ids=["other", "first"])
def test_the_death_of_one_ends_the_other(tmp_path, killed):
    out = tmp_path / "out"
    two = _start(2, out, _HEARTBEAT_SECONDS="10")
    wait_for_rows(two, out, 3)
    two[killed].kill()
    began = time.monotonic()
    statuses, errors = _end(two)
    assert time.monotonic() - began < 40
    assert statuses[killed] == -signal.SIGKILL
    # JAX ends it, or Gloo does, whichever notices first.
    assert statuses[1 - killed] in (1, -signal.SIGABRT), errors
    assert re.search("JAX distributed service detected|by peer", errors[1 - killed])


@pytest.mark.soak
def test_processes_that_slurm_has_started_share_out_the_runs(tmp_path, alone):
    port = str(_free_port())
    slurm = {
        "SLURM_JOB_ID": port,
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    out = tmp_path / "out"
    two = [
        small_experiment.start(
            *(FLAGS, out, "--population", 2, "--distributed"),
            **slurm,
            SLURM_PROCID=rank,
            SLURM_LOCALID=rank,
        )
        for rank in "01"
    ]
    statuses, errors = _end(two)
    assert statuses == [0, 0], errors
    _assert_same_results(rows(out), alone)
    assert (out / "report.md").exists()


@pytest.mark.soak
def test_four_lose_their_coordinator_and_two_go_on(tmp_path, alone):
    out = tmp_path / "out"
    four = _start(4, out)
    wait_for_rows(four, out, 3)
    four[0].kill()
    statuses, errors = _end(four)
    assert {*statuses[1:]} <= {1, -signal.SIGABRT}, errors
    statuses, errors = _end(_start(2, out, "--resume"))
    assert statuses == [0, 0], errors
    _assert_same_results(rows(out), alone)


@pytest.mark.soak
def test_an_error_of_one_ends_both_at_once(tmp_path):
    """JAX would wait five minutes for the other process."""
    out = tmp_path / "out"
    two = _start(2, out)
    wait_for_rows(two, out, 3)
    two[0].send_signal(signal.SIGINT)
    began = time.monotonic()
    statuses, errors = _end(two)
    assert time.monotonic() - began < 60
    assert statuses[0] == 130, errors
    assert statuses[1] in (1, -signal.SIGABRT), errors
    assert "error: stopped by Ctrl-C" in _last_line(errors[0])


def test_processes_that_differ_are_refused_in_both(tmp_path):
    among = f"--coordinator 127.0.0.1:{_free_port()} --processes 2 --process-id".split()
    start, out = small_experiment.start, tmp_path / "out"
    two = [
        start(FLAGS, out, *among, 0),
        start(FLAGS, out, *among, 1, "--epochs", 2),
    ]
    statuses, errors = _end(two)
    assert statuses == [2, 2]
    for error in errors:
        assert _last_line(error) == (
            "error: All processes must be started alike, but --epochs is 40 in process "
            "0 and 2 in process 1."
        )
    assert not out.exists()


class Other:
    """Simulates process 1: it sends the given words, then repeats process 0's."""

    def __init__(self, monkeypatch, *words):
        self._words = list(words)
        monkeypatch.setattr(processes, "_gather", self._gather)

    def _gather(self, word):
        return [word, self._words.pop(0) if self._words else word]


def _facts(flags):
    """Facts of a process with these flags, sent when processes meet."""
    words = []

    def keep(word):
        words.append(word)
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_gather", keep)
        with pytest.raises(InterruptedError):
            run_module.run_experiment(flags, "", jax.devices()[:1])
    return words[0]


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ("--epochs 2", "--epochs is 40 in process 0 and 2 in process 1"),
        ("--learning-rates 1e-3", r"--learning-rates is \[0.01\] in process 0 and"),
        ("--b2 0.99", "--b2 is 0.999 in process 0 and 0.99 in process 1"),
        ("--seeds 1 0", r"--seeds is \[0, 1\] in process 0 and \[1, 0\] in process 1"),
        ("--resume", "--resume is False in process 0 and True in process 1"),
        ("--overwrite", "--overwrite is False in process 0 and True in process 1"),
        ("--optimizers radam", r"--optimizers is \['adam'\] in process 0 and"),
        ("--validation 0", "--validation is 4 in process 0 and 0 in process 1"),
        ("--out elsewhere", "--out is '.*out' in process 0 and 'elsewhere' in proc"),
    ],
)
def test_every_difference_between_flags_is_named(
    monkeypatch, tmp_path, other, difference
):
    flags = [
        parse(FLAGS, "--out", tmp_path / "out", *words.split()) for words in ("", other)
    ]
    Other(monkeypatch, _facts(flags[1]))
    message = f"All processes must be started alike, but {difference}"
    with pytest.raises(ConfigError, match=message):
        run_module.run_experiment(flags[0], "", jax.devices()[:1])


def test_another_setting_of_jax_is_named(monkeypatch, tmp_path):
    flags = parse(FLAGS, "--out", tmp_path / "out")
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        Other(monkeypatch, _facts(flags))
    with pytest.raises(ConfigError, match="jax_threefry_partitionable is True in pro"):
        run_module.run_experiment(flags, "", jax.devices()[:1])


def test_other_data_is_named(monkeypatch, tmp_path):
    flags = parse(FLAGS, "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setenv("OTHER_DATA", "")
        other = _facts(flags)
    Other(monkeypatch, other)
    with pytest.raises(ConfigError, match=r"the data's SHA-256 is '.*' in process 0"):
        run_module.run_experiment(flags, "", jax.devices()[:1])


def test_an_error_of_another_process_is_passed_on(monkeypatch):
    Other(monkeypatch, ["no data in DIR", {}])
    message = "process 1 cannot go on: no data in DIR"
    with pytest.raises(ConfigError, match=message), processes.together():
        pass
    Other(monkeypatch)
    with pytest.raises(DataError, match="mine"), processes.together():
        raise DataError("mine")


def test_a_missing_process_is_named(tmp_path):
    _check_late(tmp_path, [(_free_port(), 0)])


@pytest.mark.soak
def test_a_wrong_coordinator_is_named(tmp_path):
    port = _free_port()
    _check_late(tmp_path, [(port, 0), (port + 1, 1)])


@pytest.mark.soak
def test_the_same_number_twice_is_named(tmp_path):
    _check_late(tmp_path, [(_free_port(), 1)] * 2)


def _check_late(tmp_path, ports_and_ranks):
    """Checks the errors of programs that cannot meet."""
    programs = [
        small_experiment.start(
            *(FLAGS, tmp_path / "out", "--coordinator", f"127.0.0.1:{port}"),
            *("--processes", 2, "--process-id", rank),
            _START_SECONDS="5",
        )
        for port, rank in ports_and_ranks
    ]
    statuses, errors = _end(programs)
    assert {*statuses} == {2}, errors
    for (port, rank), error in zip(ports_and_ranks, errors, strict=True):
        assert _last_line(error) == (
            "error: the processes have not met within 5 s. Is --coordinator "
            f"127.0.0.1:{port} the address of process 0, are all 2 processes "
            f"started, each with a --process-id of its own (this one has {rank})?"
        )


def test_a_taken_port_is_named():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        flags = f"--coordinator 127.0.0.1:{port} --processes 2 --process-id 0"
        with pytest.raises(ConfigError, match=f"{port} cannot be used: .*in use"):
            processes.initialize(parse(flags).session)


def test_distributed_needs_something_that_started_it():
    with pytest.raises(ConfigError, match="--distributed must be started by what JAX"):
        processes.initialize(parse("--distributed").session)


def test_facts_of_different_lengths_are_gathered_whole(monkeypatch):
    others = [np.int32(4), np.frombuffer('"ä"..'.encode(), np.uint8)]

    def gather(mine):
        return np.stack([mine, np.resize(others.pop(0), np.shape(mine))])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)
    assert processes._gather("mine") == ["mine", "ä"]
