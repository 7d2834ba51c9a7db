"""Variational inference by NumPyro, with Adam and RAdam: losses and failed runs.

`AutoNormal` starts each latent variable between -2 and 2, where gradients may be far
larger than the step that a parameter needs. Five models, each with ten seeds and five
learning rates: eight schools, not centred; logistic regression on scikit-learn's breast
cancer data, with features standardised and as they are; and the mean and scale of 200
numbers drawn around 5, with standard deviations of 1 and of 0.1.

Run it from a checkout: `python -m examples.variational_inference OUT`
"""

import functools
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Iterator
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
from jax.typing import ArrayLike
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from sklearn.datasets import load_breast_cancer

import optax_radam

STEPS = 2000
SEEDS = 10
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
PARTICLES = 1000  # of the final loss
COLUMNS = ["model", "optimizer", "rate", "seed", "loss"]
WARMUP = optax_radam.untuned_linear_warmup_schedule(b2=0.999)
OPTIMIZERS: dict[str, Callable[[ArrayLike], optax.GradientTransformation]] = {
    "optax.radam": optax.radam,
    "optax.adam": optax.adam,
    "optax.adam, untuned warmup": lambda rate: optax.adam(
        optax_radam.multiply_schedules(rate, WARMUP)
    ),
    'radam, "momentum"': functools.partial(optax_radam.radam, fallback="momentum"),
    'radam, "skip"': functools.partial(optax_radam.radam, fallback="skip"),
    'radam, "shifted"': functools.partial(optax_radam.radam, fallback="shifted"),
}


def _eight_schools() -> None:
    """Effects of coaching (Rubin 1981), not centred."""
    effects = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", 8):
        theta = numpyro.sample("theta", dist.Normal(0, 1))
        numpyro.sample("effect", dist.Normal(mu + tau * theta, errors), obs=effects)


def _regression(features: np.ndarray, classes: np.ndarray) -> None:
    """Logistic regression with standard normal weights."""
    width = features.shape[1]
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand([width]).to_event(1))
    bias = numpyro.sample("bias", dist.Normal(0, 1))
    with numpyro.plate("patients", len(classes)):
        logits = jnp.asarray(features, jnp.float32) @ weights + bias
        numpyro.sample("class", dist.Bernoulli(logits=logits), obs=classes)


def _normal(deviation: float) -> None:
    """Mean and scale of 200 numbers."""
    observed = np.random.default_rng(0).normal(5, deviation, 200)
    mean = numpyro.sample("mean", dist.Normal(0, 10))
    scale = numpyro.sample("scale", dist.HalfNormal(10))
    with numpyro.plate("numbers", 200):
        numpyro.sample("x", dist.Normal(mean, scale), obs=jnp.float32(observed))


def models() -> dict[str, Callable[[], None]]:
    """Models by name."""
    raw, classes = load_breast_cancer(return_X_y=True)
    standard = (raw - raw.mean(0)) / raw.std(0)
    return {
        "eight schools": _eight_schools,
        "regression, standardised": functools.partial(_regression, standard, classes),
        "regression, raw features": functools.partial(_regression, raw, classes),
        "normal, deviation 1": functools.partial(_normal, 1.0),
        "normal, deviation 0.1": functools.partial(_normal, 0.1),
    }


def losses(model: Callable[[], None], optimizer: str) -> np.ndarray:
    """Final losses of a model, learning rates by seeds."""

    def train(rate: jax.Array, seed: jax.Array) -> jax.Array:
        guide = AutoNormal(model)
        transform = numpyro.optim.optax_to_numpyro(OPTIMIZERS[optimizer](rate))
        svi = SVI(model, guide, transform, Trace_ELBO())
        state = svi.init(jax.random.key(seed))
        state, _ = jax.lax.scan(lambda s, _: svi.update(s), state, length=STEPS)
        end: jax.Array = Trace_ELBO(num_particles=PARTICLES).loss(
            jax.random.key(SEEDS), svi.get_params(state), model, guide
        )
        return end

    over_seeds = jax.vmap(train, in_axes=(None, 0))
    over_rates = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))
    return np.asarray(over_rates(jnp.array(RATES), jnp.arange(SEEDS)))


def runs() -> Iterator[tuple[str, str, float, int, float]]:
    """Yields model, optimizer, learning rate, seed and final loss of each run."""
    for model_name, model in models().items():
        for optimizer in OPTIMIZERS:
            print(f"{model_name}: {optimizer}", flush=True)
            for (rate, seed), loss in np.ndenumerate(losses(model, optimizer)):
                yield model_name, optimizer, RATES[rate], seed, float(loss)


def _cell(losses: pd.Series) -> str:
    """Median of the losses, then the worst, or how many are not finite."""
    losses = losses.where(np.isfinite(losses), np.inf)
    failed = int(np.isinf(losses).sum())
    worst = f"{failed} failed" if failed else f"{losses.max():.4g}"
    return f"{losses.median():.4g}; {worst}"


def write(frame: pd.DataFrame, out: pathlib.Path) -> None:
    """Writes the losses of all runs, and a table."""
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "results.csv", index=False, na_rep="nan")
    cells = frame.groupby(COLUMNS[:3], sort=False)["loss"].apply(_cell)
    table = cells.unstack(sort=False).reset_index().to_markdown(index=False)
    names = ("jax", "optax", "numpyro", "scikit-learn")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    (out / "table.md").write_text(
        f"# Variational inference\n\n{table}\n\n"
        f"Final loss by rate: the median; then the worst of {SEEDS} seeds, "
        f"or how many ended in NaN or infinity. {STEPS:,} steps. "
        "`python -m examples.variational_inference OUT`; "
        f"{jax.default_backend()}, {os.cpu_count()} cores ({platform.machine()}); "
        f"Python {platform.python_version()}, {versions}.\n"
    )


if __name__ == "__main__":
    write(pd.DataFrame(runs(), columns=COLUMNS), pathlib.Path(sys.argv[1]))
