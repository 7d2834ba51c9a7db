"""Explains rectification at your b2: `python -m optax_radam.explain --help`.

Prints a table. If matplotlib is installed, draws r_t beside the untuned warmups, and
the variance of the adaptive learning rate, simulated beside the paper's approximation
(Liu et al. 2020, section 4, https://arxiv.org/abs/1908.03265). The exit status is 2
for bad arguments, 1 if something could not be written.
"""

import argparse
import bisect
import functools
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from optax_radam import _schedules, _sma

_LAST_STEP = 2**31 - 1  # where Optax's counts stop
_POINTS = 10_000  # of a curve, at most
_SAMPLES = 4096
_SIMULATED_STEPS = 10_000  # at most: later steps show nothing new
_FORMATS = (".pdf", ".png", ".svg")


def _first_step(
    quantity: Callable[[float, float], float], value: float, b2: float
) -> int:
    """The first step at which a quantity that never falls is at least `value`."""
    return 1 + bisect.bisect_left(range(1, 2**62), value, key=lambda t: quantity(t, b2))


def _named(step: int) -> str:
    """The step, with a remark if Optax cannot count to it."""
    beyond = " (beyond Optax's counts)" if step > _LAST_STEP else ""
    return f"{step:,}{beyond}"


def _cost(b2: float, first: int) -> float:
    """The sum of 1 - r_t over all steps, with r_t = 0 before the first tractable one.

    A thousand terms are summed. The rest is an integral over log t by Simpson's rule:
    all terms would take minutes at b2 = 0.9999999. The relative error is below 2e-8.
    """

    def lost(t: float) -> float:
        return 1 - _sma.float_rectification(t, b2)

    start = first + 1000
    summed = first - 1 + math.fsum(lost(t) for t in range(first, start))
    # Beyond 40 / (1 - b2), less than 1e-9 of the sum is left.
    low = math.log(start - 0.5)
    high = max(low, math.log(40 / (1 - b2)))
    panels = 2000
    width = (high - low) / panels
    grid = (math.exp(low + index * width) for index in range(panels + 1))
    weights = (1, *(4, 2) * (panels // 2 - 1), 4, 1)
    terms = (weight * lost(t) * t for weight, t in zip(weights, grid, strict=True))
    return summed + width / 3 * math.fsum(terms)


def table(b2: float, threshold: float, steps: int) -> Iterator[tuple[str, str]]:
    """Describes a run in pairs of a question and its answer.

    Args:
      b2: decay rate of the second moment.
      threshold: smallest rho_t treated as tractable.
      steps: length of the run, in updates.

    Yields:
      Pairs of strings.
    """
    factor = _schedules.rectification_schedule(b2, threshold)
    first = _first_step(_sma.float_sma_length, threshold, b2)
    linear = 2 / (1 - b2)
    yield "gradients the second moment stands for, at most", f"{linear - 1:,.0f}"
    r = _sma.float_rectification(first, b2)
    yield "first tractable step", f"{_named(first)} (r = {r:.4f})"
    for exponent in range(1, len(str(max(steps, 10)))):
        t = 10**exponent
        yield f"r at step {t:,}", f"{factor(t - 1):.4f}"
    for r in (0.5, 0.9, 0.99):
        t = _first_step(_sma.float_rectification, r, b2)
        yield f"r reaches {r}", f"at step {_named(t)}"
    cost = _cost(b2, first)
    yield "costs as much as", f"{cost:,.1f} steps not taken"
    yield (
        "linear warmup that costs as much",
        f"{2 * cost + 1:,.0f} steps (rule of thumb, 2 / (1 - b2): {linear:,.0f})",
    )
    below = min(steps, _first_step(_sma.float_rectification, 0.9, b2) - 1)
    yield (
        f"your run of {steps:,} steps",
        f"spends {100 * below / steps:.1f}% of them below r = 0.9",
    )


def approximate_variance(rho: jax.Array) -> jax.Array:
    """The paper's approximation of the adaptive learning rate's variance.

    It is rho / (2 (rho - 2) (rho - 4)) for gradients of variance 1, where rho > 4.
    """
    return rho / (2 * (rho - 2) * (rho - 4))


@functools.partial(jax.jit, static_argnames=("b2", "steps"))
def simulated_variance(b2: float, steps: int, key: jax.Array) -> jax.Array:
    """Simulated variance at steps 1, 2, ..., of `_SAMPLES` runs with normal gradients.

    Args:
      b2: decay rate of the second moment.
      steps: number of steps.
      key: a typed key.

    Returns:
      An array of shape (steps,).
    """

    def step(nu: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        gradients = jax.random.normal(jax.random.fold_in(key, t), (_SAMPLES,))
        nu = b2 * nu + (1 - b2) * gradients**2
        rate = jnp.sqrt(_sma.bias_correction(t, b2) / nu)
        return nu, jnp.var(rate)

    _, variances = jax.lax.scan(step, jnp.zeros(_SAMPLES), 1 + jnp.arange(steps))
    return variances


def draw(b2: float, threshold: float, steps: int, out: pathlib.Path) -> None:
    """Writes the figure, whole or not at all.

    Args:
      b2: decay rate of the second moment.
      threshold: smallest rho_t treated as tractable.
      steps: length of the run, in updates.
      out: file, ending in one of `_FORMATS`.

    Raises:
      ImportError: if matplotlib is not installed.
      OSError: if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    warmups, variance = figure.subplots(1, 2)

    t = jnp.array(range(1, steps + 1, 1 + (steps - 1) // _POINTS))
    for label, schedule, style in (
        ("rectification, $r_t$", _schedules.rectification_schedule(b2, threshold), "-"),
        ("untuned linear", _schedules.untuned_linear_warmup_schedule(b2), "--"),
        (
            "untuned exponential",
            _schedules.untuned_exponential_warmup_schedule(b2),
            ":",
        ),
    ):
        warmups.plot(t, schedule(t - 1), style, label=label)
    warmups.set(
        title=f"Warmups at b2 = {b2}", xlabel="step", ylabel="factor", ylim=(0, 1.05)
    )
    warmups.legend(loc="lower right")

    simulated_steps = max(min(steps, _SIMULATED_STEPS), 10)
    simulated = simulated_variance(b2, simulated_steps, jax.random.key(0))
    t = 1 + jnp.arange(simulated_steps)
    rho = _sma.sma_length(t, b2)
    defined = t[rho > 4]
    variance.plot(t, simulated, ".", markersize=2, label="simulated, normal gradients")
    variance.plot(
        defined, approximate_variance(rho[rho > 4]), label="the paper's approximation"
    )
    first = _first_step(_sma.float_sma_length, threshold, b2)
    variance.axvline(
        first, color="gray", linestyle=":", label=f"tractable: step {first}"
    )
    variance.set(
        title="Variance of the adaptive learning rate",
        xlabel="step",
        xscale="log",
        yscale="log",
    )
    variance.legend(loc="upper right")

    partial = out.with_name(f".{out.name}.partial")
    try:
        figure.savefig(partial, format=out.suffix[1:], dpi=150)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m optax_radam.explain", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--b2", type=float, default=0.999, help="default: %(default)s")
    parser.add_argument(
        "--threshold", type=float, default=5.0, help="default: %(default)s"
    )
    parser.add_argument(
        "--steps", type=int, default=10_000, help="of your run; default: %(default)s"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="FILE", help=f"a figure: {_FORMATS}"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 1 <= options.steps <= _LAST_STEP:
        parser.error(
            f"--steps must be between 1 and {_LAST_STEP}, got {options.steps}."
        )
    out: pathlib.Path | None = options.out
    if out is not None and out.suffix not in _FORMATS:
        parser.error(f"--out must end in one of {_FORMATS}, got {out}.")
    if out is not None and not os.path.isdir(out.parent):
        parser.error(f"--out needs the folder {out.parent}, which does not exist.")
    if out is not None and os.path.isdir(out):
        parser.error(f"--out must be a file, got the folder {out}.")
    try:
        rows = list(table(options.b2, options.threshold, options.steps))
    except ValueError as error:
        parser.error(str(error))

    print(f"Rectification at b2 = {options.b2}, threshold {options.threshold:g}")
    width = max(len(question) for question, _ in rows)
    for question, answer in rows:
        print(f"  {question:<{width}}  {answer}")
    if out is None:
        return 0
    try:
        draw(options.b2, options.threshold, options.steps, out)
    except ImportError:
        print(
            "The figure needs matplotlib: pip install matplotlib",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        print(f"The figure could not be written: {error}", file=sys.stderr)
        return 1
    print(f"Figure: {out}")
    return 0


def _command() -> int:
    """Runs `main` and flushes its output; returns the exit status."""
    try:
        try:
            return main()
        finally:  # after `--help` too
            print(end="", flush=True)
    except BrokenPipeError:  # of `| head -1`
        status = 128 + 13  # as if by the signal SIGPIPE
    except OSError as error:
        print(f"The output could not be written: {error}", file=sys.stderr)
        status = 1
    # At exit, Python would try to write the rest, and fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


if __name__ == "__main__":
    sys.exit(_command())
