"""Compositions of RAdam with Optax's parts, and each of them computed by hand.

"By hand" means NumPy in float64, on arrays whose first axis is the steps.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import problems

import optax_radam

RATE, B1, B2, DECAY, EPS = 0.05, 0.9, 0.99, 0.01, 1e-8
LAST_RAW_STEP = 5  # at this b2; rectification begins at the next step
SPIKED_STEPS = [2, 8, 9]  # counted from 0, on both sides of it
STEPS = 200
RESTART = 60  # does not divide them: the last restart too passes the threshold

# With a decay, so that it matters which parameters a wrapper passes on.
SETTINGS = {"learning_rate": RATE, "b2": B2, "weight_decay": DECAY}
RADAM = optax_radam.radam(**SETTINGS)
AMSGRAD = optax_radam.radam(**SETTINGS, amsgrad=True)
HALF, TWICE = optax.scale(0.5), optax.scale(2.0)
NOISE = {"eta": 0.01, "gamma": 0.55, "key": 0}

START = {"w": np.ones((3, 2), np.float32), "b": np.ones(2, np.float32)}
FEATURES = np.asarray(problems.normal_gradients(32, 3), np.float32)
# Zeros, so that momentum moves parameters below `keep_params_nonnegative`'s bound.
TARGETS = FEATURES @ np.float32([[3, 0], [0, 2], [0, 4]]) + np.float32([0, 3])


def _loss(params):
    residual = FEATURES @ params["w"] + params["b"] - TARGETS
    return jnp.mean(residual.real**2 + residual.imag**2)


class Run(NamedTuple):
    """Inputs and updates of the steps of a run."""

    gradients: Any
    params: Any  # before each step
    updates: Any
    losses: np.ndarray  # at these parameters


class Row(NamedTuple):
    """A composition of Optax's with RAdam."""

    build: Callable[[Any], Any]  # from Optax's object of that name
    by_hand: Callable[[Run], Any] | None  # the updates
    start: Any = START
    loss: Callable[[Any], jax.Array] = _loss
    spike: float = 1.0  # factor on the gradients of the spiked steps


def _radam(run, **changed):
    """RAdam's updates of a run, with some of its inputs changed."""

    def leaf(g, p):
        trajectory = oracles.radam_trajectory(g, RATE, b1=B1, b2=B2, eps=EPS)
        updates = np.diff(trajectory, axis=0, prepend=0 * trajectory[:1])
        return updates - RATE * DECAY * p  # decoupled: a term that adds to them

    run = run._replace(**changed)
    return jax.tree.map(leaf, run.gradients, run.params)


def _factors():
    rectified = range(LAST_RAW_STEP + 1, STEPS + 1)
    factors = [float(oracles.rectification(t, B2)) for t in rectified]
    return np.array([1.0] * LAST_RAW_STEP + factors)


def times(factors, tree):
    """Each step's leaves times the step's factor."""
    return jax.tree.map(lambda x: (factors * x.T).T, tree)


def _squared_norms(tree):
    leaves = [leaf.reshape(STEPS, -1) for leaf in jax.tree.leaves(tree)]
    return np.sum(np.concatenate(leaves, axis=1) ** 2, axis=1, dtype=float)


def _scaled(run):
    return times(2.0, _radam(run, gradients=times(0.5, run.gradients)))


def _on_weights_alone(run):
    return {"w": _radam(run)["w"], "b": -0.1 * run.gradients["b"]}


def _accumulated(run, every=1, max_squared_norm=np.inf):
    """RAdam on means of the gradients that are not skipped; other steps are zero."""
    kept = np.flatnonzero(_squared_norms(run.gradients) < max_squared_norm)
    last = kept[every - 1 :: every]
    groups = kept[: every * len(last)].reshape(-1, every)
    updates = _radam(
        run,
        gradients=jax.tree.map(lambda g: g[groups].mean(axis=1), run.gradients),
        params=jax.tree.map(operator.itemgetter(last), run.params),
    )
    place = np.eye(STEPS)[:, last]
    return jax.tree.map(lambda u: np.tensordot(place, u, axes=1), updates)


def _lookahead(lookahead):
    """Lookahead: trains a pair of parameters, and takes gradients at one of them."""
    optimizer = lookahead(RADAM, sync_period=4, slow_step_size=0.8)

    def update(updates, state, params):
        return optimizer.update(updates.fast, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def _fast_and_slow(run):
    """Every fourth step, both move to 0.8 of the way from slow to fast."""
    fast, slow = run.params
    updates = _radam(run, gradients=run.gradients.fast, params=fast)
    gaps = jax.tree.map(lambda f, u, s: f + u - s, fast, updates, slow)
    meet = np.arange(1, STEPS + 1) % 4 == 0
    fast = jax.tree.map(np.subtract, updates, times(0.2 * meet, gaps))
    return optax.LookaheadParams(fast=fast, slow=times(0.8 * meet, gaps))


def _averaged(run):
    """The mean of the updates so far, weighted by 0.8 to the power of their age."""
    ages = np.subtract.outer(np.arange(STEPS), np.arange(STEPS))
    weights = np.where(ages >= 0, 0.8 ** np.abs(ages), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return jax.tree.map(lambda u: np.tensordot(weights, u, axes=1), _radam(run))


def _clipped(run):
    clipped = jax.tree.map(lambda g: np.clip(g, -0.3, 0.3), run.gradients)
    return _radam(run, gradients=clipped)


def _clipped_by_global_norm(run):
    factors = np.minimum(1, 0.5 / np.sqrt(_squared_norms(run.gradients)))
    return _radam(run, gradients=times(factors, run.gradients))


def _clipped_by_unit(run):
    def clip(g, p):  # a unit is a column of `w`, or the whole of `b`
        norm = functools.partial(np.linalg.norm, axis=1, keepdims=True)
        return g * np.minimum(1, 0.1 * np.maximum(norm(p), 1e-3) / norm(g))

    return _radam(run, gradients=jax.tree.map(clip, run.gradients, run.params))


def _noisy(run):
    """RAdam's updates with Optax's own noise, which depends only on the key."""
    noise = optax.add_noise(**NOISE)

    def step(state, gradients):
        return noise.update(gradients, state)[::-1]

    _, noisy = jax.lax.scan(step, noise.init(None), run.gradients)
    return _radam(run, gradients=jax.device_get(noisy))


def _nonnegative(run):
    def leaf(p, u):
        return np.maximum(p + u, 0) - p

    return jax.tree.map(leaf, run.params, _radam(run))


def _by_parts(run):
    real, imaginary = (_radam(jax.tree.map(part, run)) for part in (np.real, np.imag))
    return jax.tree.map(lambda x, y: x + 1j * y, real, imaginary)


def _reduced(run):
    """Reduces the rate after five losses in a row that are not 6% below the best."""
    best, waited, factors = np.inf, 0, [1.0]
    for loss in run.losses:
        improves = loss < 0.94 * best
        best, waited = (loss, 0) if improves else (best, waited + 1)
        factors.append(factors[-1] * (0.8 if waited == 5 else 1))
        waited %= 5
    return times(np.array(factors[1:]), _radam(run))


def _then(optimizer, change):
    """The optimizer, with a changed result of `update`."""

    def update(updates, state, params):
        return change(*optimizer.update(updates, state, params))

    return optax.GradientTransformation(optimizer.init, update)


def _not_rectified(run):
    return times(1 / _factors(), _radam(run))


def _start_again(tree_set, state):
    """Starts again every `RESTART` steps, with counts at zero too."""
    again = optax.tree.get(state, "count") == RESTART
    names = ("count", "mu", "nu", "rectification_count")
    values = {name: optax.tree.get(state, name) for name in names}
    return tree_set(state, **jax.tree.map(lambda x: jnp.where(again, 0, x), values))


def _restarted(run):
    parts = [slice(first, first + RESTART) for first in range(0, STEPS, RESTART)]
    updates = [_radam(jax.tree.map(operator.itemgetter(p), run)) for p in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *updates)


def _from_one_gradient(run):
    """Moments are zero before each step; the bias corrections and r_t go on."""
    steps = np.arange(1, STEPS + 1)
    of_gradient = _factors() * (1 - B1) / (1 - B1**steps)
    of_root = np.sqrt((1 - B2) / (1 - B2**steps))

    def leaf(g, p):
        root = np.where(steps <= LAST_RAW_STEP, 1, of_root * np.abs(g.T) + EPS)
        return -RATE * ((of_gradient * g.T / root).T + DECAY * p)

    return jax.tree.map(leaf, run.gradients, run.params)


ROWS = {
    "chain": Row(lambda f: f(HALF, RADAM, TWICE), _scaled),
    "named_chain": Row(lambda f: f(("a", HALF), ("b", RADAM), ("c", TWICE)), _scaled),
    "masked": Row(
        lambda f: optax.chain(
            f(RADAM, {"w": True, "b": False}),
            f(optax.scale(-0.1), {"w": False, "b": True}),
        ),
        _on_weights_alone,
    ),
    "partition": Row(
        lambda f: f({1: RADAM, 2: optax.sgd(0.1)}, {"w": 1, "b": 2}), _on_weights_alone
    ),
    "MultiSteps": Row(
        lambda f: f(RADAM, 2).gradient_transformation(),
        functools.partial(_accumulated, every=2),
    ),
    "skip_large_updates": Row(
        lambda f: optax.MultiSteps(
            RADAM, 2, should_skip_update_fn=functools.partial(f, max_squared_norm=1e3)
        ).gradient_transformation(),
        functools.partial(_accumulated, every=2, max_squared_norm=1e3),
        spike=1e3,
    ),
    "apply_if_finite": Row(lambda f: f(RADAM, 5), _accumulated, spike=np.nan),
    "lookahead": Row(
        _lookahead,
        _fast_and_slow,
        start=optax.LookaheadParams.init_synced(START),
        loss=lambda params: _loss(params.fast),
    ),
    "inject_hyperparams": Row(lambda f: f(optax_radam.radam)(**SETTINGS), _radam),
    "flatten": Row(lambda f: f(RADAM), _radam),
    "ema": Row(lambda f: optax.chain(RADAM, f(0.8)), _averaged),
    "clip": Row(lambda f: optax.chain(f(0.3), RADAM), _clipped),
    "clip_by_global_norm": Row(
        lambda f: optax.chain(f(0.5), RADAM), _clipped_by_global_norm
    ),
    "adaptive_grad_clip": Row(lambda f: optax.chain(f(0.1), RADAM), _clipped_by_unit),
    "add_noise": Row(lambda f: optax.chain(f(**NOISE), RADAM), _noisy),
    "keep_params_nonnegative": Row(lambda f: optax.chain(RADAM, f()), _nonnegative),
    "contrib.split_real_and_imaginary": Row(
        lambda f: f(RADAM),
        _by_parts,
        start=jax.tree.map(lambda x: x * np.complex64(1 - 2j), START),
    ),
    "contrib.reduce_on_plateau": Row(
        lambda f: optax.chain(RADAM, f(0.8, patience=5, rtol=0.06)), _reduced
    ),
    "contrib.mechanize": Row(
        lambda f: f(optax_radam.radam(**SETTINGS | {"learning_rate": 1.0})),
        # It learns its step sizes: computing it by hand would copy all of it.
        by_hand=None,
    ),
    "tree.get": Row(
        lambda f: _then(RADAM, lambda u, s: (times(1 / f(s, "rectification"), u), s)),
        _not_rectified,
    ),
    "tree.set": Row(
        lambda f: _then(RADAM, lambda u, s: (u, _start_again(f, s))), _restarted
    ),
    "tree_map_params": Row(
        lambda f: _then(AMSGRAD, lambda u, s: (u, f(AMSGRAD, jnp.zeros_like, s))),
        _from_one_gradient,
    ),
}
