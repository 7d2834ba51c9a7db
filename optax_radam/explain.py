"""What rectification does at your b2: `python -m optax_radam.explain --help`.

Prints a table, and draws, if matplotlib is there, r_t beside the untuned warmups, and
the variance that it answers: of the adaptive learning rate, simulated beside the
paper's approximation (Liu et al. 2020, section 4, https://arxiv.org/abs/1908.03265).
"""

import argparse
import bisect
import functools
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from optax_radam import _schedules, _sma

_SAMPLES = 4096
_SIMULATED_STEPS = 10_000  # at most: later, nothing happens that it would show
_FORMATS = (".pdf", ".png", ".svg")


def _step_at(r: float, b2: float) -> int:
    """The first step at which the factor is at least `r`."""
    steps = range(1, 2**31)
    index = bisect.bisect_left(steps, r, key=lambda t: float(_sma.rectification(t, b2)))
    return steps[index]


def table(b2: float, threshold: float, steps: int) -> Iterator[tuple[str, str]]:
    """What there is to say about a run, as pairs of a question and its answer.

    Args:
      b2: decay rate of the second moment.
      threshold: smallest rho_t taken for tractable.
      steps: length of the run, in updates.

    Yields:
      Pairs of strings.
    """
    factor = _schedules.rectification_schedule(b2, threshold)
    first = int(_sma.first_tractable_step(b2, threshold))
    limit = float(_sma.sma_length_limit(b2))
    yield "gradients the second moment stands for, at most", f"{limit:,.0f}"
    yield "first tractable step", f"{first:,} (r = {factor(first - 1):.4f})"
    for exponent in range(1, len(str(max(steps, 10)))):
        t = 10**exponent
        yield f"r at step {t:,}", f"{factor(t - 1):.4f}"
    for r in (0.5, 0.9, 0.99):
        yield f"r reaches {r}", f"at step {_step_at(r, b2):,}"
    # What is left of the sum then is below 1e-9 of it.
    horizon = int(40 / (1 - b2))
    cost = _schedules.effective_warmup_period(factor, horizon)
    yield "costs as much as", f"{cost:,.1f} steps not taken"
    linear = 2 / (1 - b2)
    yield (
        "linear warmup that costs as much",
        f"{2 * cost + 1:,.0f} steps (rule of thumb, 2 / (1 - b2): {linear:,.0f})",
    )
    below = min(steps, _step_at(0.9, b2) - 1)
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
    """That variance at steps 1, 2, ..., of `_SAMPLES` runs with normal gradients.

    Args:
      b2: decay rate of the second moment.
      steps: how many.
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
      threshold: smallest rho_t taken for tractable.
      steps: length of the run, in updates.
      out: file, ending in one of `_FORMATS`.

    Raises:
      ImportError: if there is no matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    warmups, variance = figure.subplots(1, 2)

    t = 1 + jnp.arange(steps)
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
        title=f"Warmups at b2 = {b2:g}", xlabel="step", ylabel="factor", ylim=(0, 1.05)
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
    first = int(_sma.first_tractable_step(b2, threshold))
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
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}.")
    out: pathlib.Path | None = options.out
    if out is not None and out.suffix not in _FORMATS:
        parser.error(f"--out must end in one of {_FORMATS}, got {out}.")
    if out is not None and not out.parent.is_dir():
        parser.error(f"--out needs the folder {out.parent}, which is not there.")
    try:
        rows = list(table(options.b2, options.threshold, options.steps))
    except ValueError as error:
        parser.error(str(error))

    print(f"Rectification at b2 = {options.b2:g}, threshold {options.threshold:g}")
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
    print(f"Figure: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
