import functools
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import oracles
import pytest

from optax_radam import explain


def _rows(capsys, *arguments):
    """The table, as a dict."""
    assert explain.main(arguments) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("Rectification at b2 = ")
    return dict(line.strip().split("  ", 1) for line in lines)


def _number(answer):
    """The first number in an answer of the table."""
    number = re.search(r"[\d,]+(\.\d+)?", answer)[0].replace(",", "")
    return float(number) if "." in number else int(number)


def _step_at(r, b2):
    low, high = 1, 10**6
    while low < high:
        middle = (low + high) // 2
        reached = oracles.rectification(middle, b2) >= r
        low, high = (low, middle) if reached else (middle + 1, high)
    return low


@pytest.mark.parametrize("b2", [0.9, 0.999])
def test_table_says_what_60_digits_say(capsys, b2):
    rows = _rows(capsys, "--b2", str(b2), "--steps", "1500")
    rows = {question: answer.strip() for question, answer in rows.items()}
    r = float(oracles.rectification(6, b2))
    assert rows["first tractable step"] == f"6 (r = {r:.4f})"
    for t in (10, 100, 1000):
        r = float(oracles.rectification(t, b2))
        assert rows[f"r at step {t:,}"] == f"{r:.4f}"
    assert "r at step 10,000" not in rows
    for r in (0.5, 0.9, 0.99):
        assert rows[f"r reaches {r}"] == f"at step {_step_at(r, b2):,}"
    below = 100 * min(1, (_step_at(0.9, b2) - 1) / 1500)
    assert rows["your run of 1,500 steps"].startswith(f"spends {below:.1f}%")


def test_first_factor_at_the_smallest_threshold(capsys):
    rows = _rows(capsys, "--threshold", "4")
    r = float(oracles.rectification(5, 0.999))
    assert rows["first tractable step"].strip() == f"5 (r = {r:.4f})"


def test_costs(capsys):
    """Costs are sums of Ma and Yarats' equation; test_schedules.py has the numbers."""
    rows = _rows(capsys, "--b2", "0.999")
    assert rows["costs as much as"].strip() == "1,033.3 steps not taken"
    linear = rows["linear warmup that costs as much"].strip()
    assert linear == "2,068 steps (rule of thumb, 2 / (1 - b2): 2,000)"


@pytest.mark.parametrize("b2", [0.99999999, 0.9999999999])
def test_costs_of_long_warmups(capsys, b2):
    """The limit of r is the root of 1 - x / (exp(x) - 1) at t = x / (1 - b2)."""
    rows = _rows(capsys, "--b2", str(b2))
    s = np.linspace(1e-6, 6.5, 100_000)  # of which x is the square
    cost = np.trapezoid((1 - np.sqrt(1 - s**2 / np.expm1(s**2))) * 2 * s, s)
    actual = _number(rows["costs as much as"])
    np.testing.assert_allclose(actual, cost / (1 - b2), rtol=1e-6)


def test_steps_that_no_count_of_optax_reaches(capsys):
    rows = _rows(capsys, "--b2", "0.9999999999")
    t = _number(rows["r reaches 0.99"])
    assert rows["r reaches 0.99"].endswith(f"at step {t:,} (beyond Optax's counts)")
    # r is 0.99 where x / (exp(x) - 1) is 1 - 0.99**2.
    x = t * (1 - 0.9999999999)
    np.testing.assert_allclose(x / math.expm1(x), 1 - 0.99**2, rtol=1e-6)


def test_simulation_meets_the_approximation():
    """They agree within a fifth where rho is large."""
    b2, steps = 0.99, 400
    simulated = explain.simulated_variance(b2, steps, jax.random.key(1))
    t = np.array([100, 200, 300, 400])
    rho = np.array([float(oracles.sma_length(int(step), b2)) for step in t])
    expected = explain.approximate_variance(rho)
    np.testing.assert_allclose(np.asarray(simulated)[t - 1], expected, rtol=0.2)
    # For single gradients, without averaging, the mean of 1 / |g| is infinite.
    assert simulated[0] > 10 * simulated[5]


def test_simulation_of_equal_weights():
    """For b2 near 1, nu_t is the mean of t squares: the rate's variance is known."""
    keys = jax.random.split(jax.random.key(1), 16)
    simulate = functools.partial(explain.simulated_variance, 1 - 1e-6, 10)
    actual = np.mean(jax.vmap(simulate)(keys)[:, -1])
    expected = 10 / 8 - 5 * (math.gamma(4.5) / math.gamma(5)) ** 2
    np.testing.assert_allclose(actual, expected, rtol=0.05)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_figure(tmp_path, capsys, suffix):
    pytest.importorskip("matplotlib")
    out = tmp_path / f"warmups{suffix}"
    assert explain.main(["--b2", "0.9", "--steps", "50", "--out", str(out)]) == 0
    assert f"Figure: {out}" in capsys.readouterr().out
    start = {".png": b"\x89PNG", ".svg": b"<?xml"}[suffix]
    assert out.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.soak
def test_figure_of_the_longest_run(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(explain, "_SIMULATED_STEPS", 10)
    b2 = 1 - 1e-9  # rho_4 is 4 in float32: a variance that is not defined
    explain.draw(b2, 5.0, 2**31 - 1, tmp_path / "warmups.png")


def test_figure_that_cannot_be_written_leaves_nothing(tmp_path, capsys, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")

    def fill_the_disk(_, path, **__):
        pathlib.Path(path).write_bytes(b"part of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure.Figure, "savefig", fill_the_disk)
    out = tmp_path / "warmups.png"
    assert explain.main(["--b2", "0.9", "--steps", "50", "--out", str(out)]) == 1
    message = "The figure could not be written: [Errno 28] No space left on device\n"
    assert capsys.readouterr().err == message
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_table_still_comes(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    out = tmp_path / "warmups.png"
    assert explain.main(["--b2", "0.9", "--steps", "50", "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "first tractable step" in captured.out
    assert "pip install matplotlib" in captured.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--b2", "0.5"],
            "`b2` must be in (0.666666667, 1) for threshold 5.0, got 0.5",
        ),
        (["--b2", "1.5"], "`b2` must be a number in [0, 1), got 1.5"),
        (["--threshold", "3"], "`threshold` must be a finite number >= 4, got 3.0"),
        (["--steps", "0"], "--steps must be between 1 and 2147483647, got 0"),
        (["--steps", "9" * 400], "--steps must be between 1 and 2147483647, got 999"),
        (["--out", "figure.bmp"], "--out must end in one of ('.pdf', '.png', '.svg')"),
        (["--out", "no/figure.png"], "--out needs the folder no, which does not exist"),
        (["--out", "taken.png"], "--out must be a file, got the folder taken.png"),
    ],
    ids=[
        "b2",
        "b2_range",
        "threshold",
        "steps",
        "long_steps",
        "format",
        "folder",
        "is_folder",
    ],
)
def test_bad_arguments(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("taken.png").mkdir()
    with pytest.raises(SystemExit, match="2"):
        explain.main(arguments)
    assert message in capsys.readouterr().err


_COMMAND = [sys.executable, "-m", "optax_radam.explain", "--b2", "0.9"]


def test_runs_as_a_module():
    process = subprocess.run(_COMMAND, capture_output=True, text=True, check=True)
    assert "first tractable step" in process.stdout


def test_ends_quietly_where_nobody_reads():
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(_COMMAND, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert process.stderr == b""
    assert process.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        process = subprocess.run(_COMMAND, stdout=full, stderr=subprocess.PIPE)
    message = b"The output could not be written: [Errno 28] No space left on device\n"
    assert process.stderr == message
    assert process.returncode == 1
