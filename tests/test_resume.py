"""Experiments that are stopped or killed, and resume with the same results."""

import gc
import random
import shutil
import signal
import time

import jax
import orbax.checkpoint as ocp
import pytest
import small_experiment
from made_up import small_task
from small_experiment import contents, rows, untimed, wait_for_rows

from experiments import records
from experiments import run as run_module

# Five steps an epoch, the last on a part of a batch; two optimizers, one after another.
FLAGS = "--optimizers adam schedule-free-radam --batch-size 3 --validation 6"
LONG = f"{FLAGS} --epochs 40 --checkpoint-seconds 0.3"
SHORT = f"{FLAGS} --epochs 3 --checkpoint-seconds 0"


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with small_experiment.quick():
        yield


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """The rows of the long experiment, run without interruption."""
    out = tmp_path_factory.mktemp("long") / "out"
    assert small_experiment.run(LONG, out) == 0
    return untimed(out)


@pytest.mark.parametrize(
    "kills",
    [
        (signal.SIGKILL,),
        pytest.param(
            (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) * 5, marks=pytest.mark.soak
        ),
    ],
    ids=len,
)
def test_killed_at_random_moments_and_resumed(tmp_path, long, kills):
    out, luck, more = tmp_path / "out", random.Random(0), ()
    for kill in kills:
        process = small_experiment.start(LONG, out, *more)
        before = len(rows(out)) if more else 0
        count = luck.randrange(1, max(2, (len(long) - before) // len(kills)))
        wait_for_rows([process], out, before + count)
        time.sleep(luck.random() / 10)
        process.send_signal(kill)
        _, stderr = process.communicate(timeout=120)
        expected = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[kill]
        assert process.returncode == expected, stderr
        more = ("--resume",)
    assert small_experiment.run(LONG, out, "--resume") == 0
    assert untimed(out) == long


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of the short experiment, stopped in its second run's second epoch."""
    return _stop(tmp_path_factory.mktemp("stopped") / "out", SHORT, after=5)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The rows of the short experiment, run without interruption."""
    out = tmp_path_factory.mktemp("short") / "out"
    assert small_experiment.run(SHORT, out) == 0
    return untimed(out)


def _stop(out, flags, after, kill=signal.SIGINT):
    """Stops an experiment in this process after a number of rows."""
    append, left = records.append, [after]

    def counted(*args):
        append(*args)
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(kill)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "append", counted)
        status = small_experiment.run(flags, out)
    assert status == {signal.SIGINT: 130, signal.SIGTERM: 143}[kill]
    return out


def _resume(stopped, tmp_path, flags=SHORT, spoil=lambda out: None, task=small_task):
    """Resumes a damaged copy; returns the exit status."""
    out = tmp_path / "out"
    shutil.copytree(stopped, out)
    spoil(out)
    before = contents(out)
    status = small_experiment.run(flags, out, "--resume", task=task)
    if status:
        assert contents(out) == before  # nothing is deleted, nothing written
    return status


def test_sigterm_stops_at_once_and_says_how_to_go_on(tmp_path, capsys):
    began = time.monotonic()
    out = _stop(tmp_path / "my out", SHORT, after=1, kill=signal.SIGTERM)
    assert time.monotonic() - began < 60
    assert len(rows(out)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: stopped by SIGTERM; finished epochs are kept.")
    assert f"experiments.cifar10 report '{out}' draws what there is" in error


def test_ctrl_c_stops_within_an_epoch(tmp_path, monkeypatch):
    steps = []

    def interrupt(*_):
        steps.append(1)
        if len(steps) == 7:  # the second of the second epoch
            signal.raise_signal(signal.SIGINT)

    train_group = run_module.train_group
    monkeypatch.setattr(
        run_module, "train_group", lambda *args: train_group(*args[:-1], interrupt)
    )
    assert small_experiment.run(SHORT, tmp_path / "out") == 130
    assert (len(steps), len(rows(tmp_path / "out"))) == (7, 1)


def test_resuming_goes_on_bit_by_bit(stopped, tmp_path, short):
    assert _resume(stopped, tmp_path) == 0
    assert rows(tmp_path / "out")[:4] == rows(stopped)[:4]  # the last was made again
    assert untimed(tmp_path / "out") == short


def test_a_young_checkpoint_is_not_followed_by_another(tmp_path, short):
    """The run's second epoch is then trained again."""
    slow = SHORT.replace("seconds 0", "seconds 1000")
    out = _stop(tmp_path / "out", slow, after=5)
    folders = out / "checkpoints"
    assert [p.name for p in (folders / "adam-constant-0.001-s0").iterdir()] == ["3"]
    second = folders / "schedule-free-radam-constant-0.001-s0"
    assert [p.name for p in second.iterdir()] == ["1"]
    assert small_experiment.run(slow, out, "--resume") == 0
    assert untimed(out) == short


def test_a_finished_experiment_is_not_trained_again(stopped, tmp_path, monkeypatch):
    assert _resume(stopped, tmp_path) == 0
    before = contents(tmp_path / "out")
    monkeypatch.setattr(run_module, "make_programs", None)
    assert small_experiment.run(SHORT, tmp_path / "out", "--resume") == 0
    assert contents(tmp_path / "out") == before


def test_a_line_cut_by_a_power_failure_is_made_again(stopped, tmp_path, short):
    def cut(out):
        with (out / "metrics.jsonl").open("a") as file:
            file.write('{"run": "radam-const')

    assert _resume(stopped, tmp_path, spoil=cut) == 0
    assert untimed(tmp_path / "out") == short


def test_rows_without_a_checkpoint_are_made_again(stopped, tmp_path, short):
    def lose(out):
        shutil.rmtree(out / "checkpoints")

    assert _resume(stopped, tmp_path, spoil=lose) == 0
    assert untimed(tmp_path / "out") == short


def test_another_configuration_is_refused_with_the_difference(
    stopped, tmp_path, capsys
):
    other = SHORT.replace("epochs 3", "epochs 4") + " --seeds 1 --b2 0.99"
    assert _resume(stopped, tmp_path, other) == 2
    error = capsys.readouterr().err
    assert "--epochs: 3 there, 4 here" in error
    assert "--seeds: [0] there, [1] here" in error
    assert "--b2: 0.999 there, 0.99 here" in error


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
        ("jax_default_matmul_precision", "bfloat16"),
    ],
)
def test_other_settings_of_jax_are_refused(stopped, tmp_path, capsys, setting, value):
    before = getattr(jax.config, setting)
    jax.config.update(setting, value)
    try:
        assert _resume(stopped, tmp_path) == 2
    finally:
        jax.config.update(setting, before)
    assert f"  {setting}: {before!r} there, {value!r} here" in capsys.readouterr().err


def test_other_data_is_refused(stopped, tmp_path, capsys):
    def other():
        task = small_task()
        task.test.inputs[0, 0, 0, 0] += 1
        return task

    assert _resume(stopped, tmp_path, task=other) == 2
    assert "the data's SHA-256: '" in capsys.readouterr().err


def test_another_machine_and_other_versions_are_reported(stopped, tmp_path, capsys):
    def older(out):
        path = out / "config.json"
        path.write_text(path.read_text().replace('"optax": "', '"optax": "0.'))

    assert _resume(stopped, tmp_path, spoil=older) == 0
    assert "Not as it was: optax 0." in capsys.readouterr().err


def _lose_a_row(out):
    path = out / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))


def _lose_a_finished_row(out):
    path = out / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / "config.json").write_text("{"), "config.json cannot be"),
        (lambda out: (out / "config.json").write_text("[]"), "config.json cannot be"),
        (lambda out: (out / "config.json").unlink(), "config.json is missing"),
        (lambda out: (out / "metrics.jsonl").unlink(), "metrics.jsonl cannot be read"),
        (
            lambda out: (out / "metrics.jsonl").write_text("mine\n"),
            "metrics.jsonl, line 1 cannot be read",
        ),
        (
            lambda out: (out / "metrics.jsonl").write_text("null\n"),
            "metrics.jsonl, line 1 cannot be read",
        ),
        (_lose_a_row, "metrics.jsonl lacks 1 of the 1 rows of schedule-free-radam"),
        (_lose_a_finished_row, "metrics.jsonl lacks 1 of the 3 rows of adam"),
    ],
    ids=[
        "torn config",
        "foreign config",
        "no config",
        "no metrics",
        "foreign metrics",
        "not even a row",
        "the last row lost",
        "a finished run's row lost",
    ],
)
def test_torn_and_foreign_files_are_named(stopped, tmp_path, capsys, spoil, message):
    assert _resume(stopped, tmp_path, spoil=spoil) in (1, 2)
    assert message in capsys.readouterr().err


# Orbax's background loop complains as it is collected after the failure.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_torn_checkpoint_is_named(stopped, tmp_path, capsys):
    def tear(out):
        for path in (out / "checkpoints").rglob("d/*"):
            path.write_bytes(b"torn")

    assert _resume(stopped, tmp_path, spoil=tear) == 1
    error = capsys.readouterr().err
    assert "s0/1 cannot be read: " in error
    assert "Nothing was deleted" in error.splitlines()[-1]
    gc.collect()


def _flip(out, bit, luck):
    """Flips one bit of a random file of the newest checkpoint."""
    paths = sorted(p for p in (out / "checkpoints").rglob("*") if p.is_file())
    path = luck.choice([p for p in paths if "schedule-free" in str(p)])
    content = bytearray(path.read_bytes())
    content[int(bit * len(content))] ^= 1 << luck.randrange(8)
    path.write_bytes(content)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "trial",
    [*range(3), *(pytest.param(n, marks=pytest.mark.soak) for n in range(3, 60))],
)
def test_a_flipped_bit_is_refused_or_makes_no_difference(
    stopped, tmp_path, short, trial
):
    luck = random.Random(trial)
    status = _resume(
        stopped, tmp_path, spoil=lambda out: _flip(out, luck.random(), luck)
    )
    assert status == 1 or untimed(tmp_path / "out") == short
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_in_the_arrays_is_refused(stopped, tmp_path, capsys, monkeypatch):
    """Orbax restores such arrays without an error."""
    manager = ocp.CheckpointManager
    restore = manager.restore

    def flipped(*args, **kwargs):
        restored = restore(*args, **kwargs)
        leaves, structure = jax.tree.flatten(restored.state)
        index = max(range(len(leaves)), key=lambda i: leaves[i].size)
        bits = leaves[index].view("int32")
        leaves[index] = (bits ^ (bits == bits.ravel()[0])).view(leaves[index].dtype)
        return ocp.args.Composite(
            state=structure.unflatten(leaves), checksums=restored.checksums
        )

    monkeypatch.setattr(manager, "restore", flipped)
    assert _resume(stopped, tmp_path) == 1
    assert "its arrays are not those that were saved" in capsys.readouterr().err


def test_a_directory_that_is_in_use_is_refused(tmp_path, capsys):
    out = tmp_path / "out"
    with records.locked(out):
        (out / "config.json").write_text('{"program": "optax_radam experiment"}')
        for more in ("--overwrite", "--resume"):
            assert small_experiment.run(SHORT, out, more) == 2
            assert "into which another process trains" in capsys.readouterr().err


def test_what_another_process_finished_meanwhile_is_kept(tmp_path, stopped, capsys):
    """The other process finishes between the check and the lock."""
    out = tmp_path / "out"

    def slow():
        shutil.copytree(stopped, out)
        return small_task()

    assert small_experiment.run(SHORT, out, task=slow) == 2
    assert "--out must be a new or an empty directory" in capsys.readouterr().err
    assert {p.relative_to(out): b for p, b in contents(out).items()} == {
        p.relative_to(stopped): b for p, b in contents(stopped).items()
    }


def test_overwriting_replaces_an_experiment_of_ours(stopped, tmp_path, short):
    out = tmp_path / "out"
    shutil.copytree(stopped, out)
    (out / "notes.txt").write_text("mine")
    other = SHORT.replace("epochs 3", "epochs 1")
    assert small_experiment.run(other, out, "--overwrite") == 0
    first = [row for row in short if row["epoch"] == 1]
    assert [r["train_loss"] for r in rows(out)] == [r["train_loss"] for r in first]
    assert (out / "notes.txt").read_text() == "mine"


# Orbax's background loop complains as it is collected after the failure.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_leaves_what_was_finished_and_one_line(tmp_path, capsys, short):
    out = tmp_path / "out"
    with small_experiment.file_limit(3000):
        assert small_experiment.run(SHORT, out) == 1
    about, *progress, error = capsys.readouterr().err.splitlines()
    assert "training and 7 test images" in about
    assert all("updates/s" in line for line in progress if line)
    assert error.startswith("error: ")
    assert "checkpoints/adam-constant-0.001-s0 failed: " in error
    assert untimed(out) == short[: len(rows(out))] != []
    assert small_experiment.run(SHORT, out, "--resume") == 0
    assert untimed(out) == short
    gc.collect()
