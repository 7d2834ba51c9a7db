"""Variance of RAdam's rate where b2 changes: usual formula, and optax_radam.

The rate of a step is r_t divided by the root of the second moment, here of standard
normal gradients. Its variance is exact: an integral over the gradients' weights. The
usual formula, as in Optax, treats the step's b2 as if it had never changed; optax_radam
follows the changes.

Run it from a checkout: `python -m examples.changing_decay_rates OUT.png`
"""

import functools
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.integrate

import optax_radam

STEPS = 3000
SCHEDULES = {
    "1 - t^-0.8": lambda count: 1 - (count + 1.0) ** -0.8,
    "from 0.9 to 0.999 after 1,000 steps": lambda count: jnp.where(
        count < 1000, 0.9, 0.999
    ),
    "from 0.999 to 0.9 after 100 steps": lambda count: jnp.where(
        count < 100, 0.999, 0.9
    ),
}


class Variance(NamedTuple):
    """Variances at a step; the unit is Adam's long-run variance at that b2."""

    step: int
    usual: float
    followed: float


def _variance(weights: np.ndarray) -> float:
    """Variance of 1 / sqrt(S); S sums squared standard normals with these weights."""
    mean = weights.sum()

    def integrand(log_s: float) -> np.ndarray:
        s = np.exp(log_s)
        laplace = np.exp(-0.5 * np.log1p(2 * s * weights / mean).sum())
        return np.asarray([s * laplace, (s / np.pi) ** 0.5 * laplace])

    (square, root), _ = scipy.integrate.quad_vec(integrand, -50, 50, epsrel=1e-6)
    return float((square - root**2) / mean)


@functools.cache
def _long_run(b2: float) -> float:
    """Long-run variance of Adam's rate at this b2."""
    return _variance((1 - b2) * b2 ** np.arange(20 / (1 - b2)))


def variances(schedule: optax.Schedule, steps: np.ndarray) -> Iterator[Variance]:
    """Yields the variances at steps, counted from 1, at which b2 is above 2/3."""
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(max(steps))), np.float64)
    transform = optax_radam.scale_by_rectification(schedule)

    def step(state: optax.OptState, _: jax.Array) -> tuple[optax.OptState, jax.Array]:
        _, state = transform.update(jnp.ones(1), state)
        return state, optax.tree.get(state, "rectification")

    state = transform.init(jnp.ones(1))
    _, factors = jax.lax.scan(step, state, length=len(rates))
    for t in map(int, steps):
        b2 = rates[t - 1]
        if b2 <= 2 / 3:
            continue
        later = np.append(np.cumprod(rates[t - 1 : 0 : -1])[::-1], 1.0)
        weights = (1 - rates[:t]) * later
        unit = _long_run(b2)
        usual = float(optax_radam.rectification(t, b2)) ** 2
        yield Variance(
            t,
            usual * _variance(weights / (1 - b2**t)) / unit,
            float(factors[t - 1]) ** 2 * _variance(weights / weights.sum()) / unit,
        )


def main(out: pathlib.Path) -> None:
    """Draws the variances, and prints the largest of each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    every = np.unique(np.geomspace(6, STEPS, 60).astype(int))
    changes = [100, 101, 102, 103, 104, 105, 107, 110, 115, 1000, 1001]
    axes = figure.subplots(1, len(SCHEDULES), sharey=True)
    for axis, (name, schedule) in zip(axes, SCHEDULES.items(), strict=True):
        found = [*variances(schedule, np.union1d(every, changes))]
        steps, usual, followed = zip(*found, strict=True)
        axis.axhline(1, color="lightgray")
        axis.plot(
            steps,
            np.where(np.equal(usual, 0), np.nan, usual),
            "--",
            label="the usual formula",
        )
        axis.plot(
            steps,
            np.where(np.equal(followed, 0), np.nan, followed),
            label="optax_radam",
        )
        axis.set(title=f"b2: {name}", xlabel="step", xscale="log", yscale="log")
        print(f"{name:<36} usual {max(usual):6.2f}, followed {max(followed):.2f}")
    axes[0].set_ylabel("variance of the rate (1 is the goal)")
    axes[0].legend()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
