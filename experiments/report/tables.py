"""Tables of an experiment: pandas frames, made only from its records."""

import itertools
import math
import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

import optax_radam
from experiments import schedules
from experiments.config import Arm
from experiments.report.records import Experiment

BOOTSTRAP_FROM = 8  # resampling fewer values gives intervals that are too narrow
POINT = ["arm", "learning_rate"]
_OPTIMIZERS = {
    "adam": "Adam",
    "radam": "RAdam",
    "radam-skip": "RAdam (skip)",
    "radam-shifted": "RAdam (shifted)",
    "schedule-free-radam": "Schedule-free RAdam",
    "sgd": "SGD",
    "adagrad": "AdaGrad",
    "rmsprop": "RMSProp",
}


class Tables(NamedTuple):
    """Frames of an experiment; arms have the names that people use."""

    part: str  # the data that rates are chosen on: "validation" or "test"
    arms: dict[str, Arm]
    metrics: pd.DataFrame  # epochs of all runs; the loss of a diverged one is infinite
    runs: pd.DataFrame  # last epochs; has the run finished, diverged, learnt nothing?
    summary: pd.DataFrame  # arms at their learning rates, over seeds
    seeds: pd.DataFrame  # final test accuracy of each arm at its chosen rate, by seed
    comparisons: pd.DataFrame  # paired differences of arms, over seeds
    endings: pd.DataFrame  # factors of the last step
    throughput: pd.DataFrame  # over the epochs of an arm


def arm_name(arm: Arm) -> str:
    """Common name of an optimizer under a schedule."""
    schedule = re.sub(r"-(\d+)", r" over \1 steps", arm.schedule).replace("-", " ")
    schedule = schedule.replace("warmup linear", "warmup and linear")
    under = "" if schedule == "constant" else f" + {schedule.replace('+', ' + ')}"
    return _OPTIMIZERS[arm.optimizer] + under


def make_tables(experiment: Experiment) -> Tables:
    """Computes every table of records with at least one row."""
    part = "validation" if experiment.config.training.validation else "test"
    arms = {arm_name(run.arm): run.arm for run in experiment.runs}
    with np.errstate(all="ignore"):  # records may hold any number
        rows = _rows(experiment, arms)
        runs = _runs(experiment, rows, part)
        summary = _summary(runs, part)
        final = runs[runs.finished].merge(summary[summary.chosen][POINT])
        seeds = final.pivot(index="seed", columns="arm", values="test_accuracy")
        speed = rows.groupby("arm", observed=True).examples_per_second
        return Tables(
            *(part, arms, rows, runs, summary, seeds),
            comparisons=_comparisons(arms, seeds),
            endings=_endings(experiment, arms, summary),
            throughput=speed.describe().reset_index()[["arm", "50%", "25%", "75%"]],
        )


def _rows(experiment: Experiment, arms: dict[str, Arm]) -> pd.DataFrame:
    runs = {run.name: run for run in experiment.runs}
    rows = pd.DataFrame([row.model_dump() for row in experiment.rows])
    rows = rows.rename(
        columns={f"{experiment.config.task.unit}_per_second": "examples_per_second"}
    )
    names = [arm_name(runs[name].arm) for name in rows.run]
    rows.insert(1, "arm", pd.Categorical(names, [*arms]))  # sorted in this order
    rows["learning_rate"] = [runs[name].learning_rate for name in rows.run]
    rows["seed"] = [runs[name].seed for name in rows.run]
    for part in ("train", "validation", "test"):
        of = rows[[f"{part}_loss", f"{part}_accuracy"]].astype(float).T.to_numpy()
        lost = ~np.isnan(of[1]) & ~np.isfinite(of[0])  # it was evaluated
        rows[f"{part}_loss"] = np.where(lost, np.inf, of[0])
        rows[f"{part}_accuracy"] = of[1]
    rows["best_test_accuracy"] = rows.best_test_accuracy.astype(float)
    rows["diverged"] = np.isinf(rows.filter(like="_loss")).any(axis=1)
    return rows.sort_values([*POINT, "seed", "epoch"], kind="stable", ignore_index=True)


def _runs(experiment: Experiment, rows: pd.DataFrame, part: str) -> pd.DataFrame:
    by_run = rows.groupby("run", sort=False)
    loss = by_run[f"{part}_loss"]
    runs = by_run.tail(1).set_index("run")
    runs["finished"] = runs.epoch == experiment.config.training.epochs
    runs["diverged"] = by_run.diverged.any()
    # Mean change from epoch to epoch, up or down, in the second half.
    runs["late_change"] = loss.agg(
        lambda x: x.diff().abs().iloc[1 + (len(x) - 1) // 2 :].mean()
    )
    runs["largest_rise"] = loss.agg(lambda x: max(x.diff().max(), 0))
    runs.loc[runs.diverged, ["late_change", "largest_rise"]] = np.nan
    guess = 0.99 * math.log(experiment.config.task.classes)
    guesses = (runs[["train_loss", f"{part}_loss"]] >= guess).all(axis=1)
    runs["untrained"] = guesses & runs.finished & ~runs.diverged
    kinds = {"diverged": runs.diverged, "untrained": runs.untrained}
    kinds["unfinished"] = ~runs.finished
    runs["note"] = np.select([*kinds.values()], [*kinds], "")
    return runs.reset_index()


def _summary(runs: pd.DataFrame, part: str) -> pd.DataFrame:
    final = [f"{of}_accuracy" for of in ("validation", "test", "best_test")]
    values = [*final, "late_change", "largest_rise"]
    runs = runs.assign(n=runs.finished, **runs[final].where(runs.finished))
    summary = runs.groupby(POINT, observed=True, as_index=False).agg(
        **{name: (name, "sum") for name in ("n", "diverged", "untrained", "epoch")},
        **{f"{value}_mean": (value, "mean") for value in values},
        **{f"{value}_sd": (value, "std") for value in values},
    )
    mean = f"{part}_accuracy_mean"
    # The best mean, or the most epochs while no run is finished.
    best = summary.sort_values([mean, "epoch"], ascending=False).drop_duplicates("arm")
    summary["shown"] = summary.index.isin(best.index)
    summary["chosen"] = summary.shown & summary[mean].notna()
    rates = summary.groupby("arm", observed=True).learning_rate
    ends = [summary.learning_rate == rates.transform(end) for end in ("min", "max")]
    several = summary.chosen & (rates.transform("size") > 1)
    summary["edge"] = np.where(several, np.select(ends, ["lowest", "highest"], ""), "")
    summary["note"] = np.where(summary.chosen, "chosen", "")
    for name in ("diverged", "untrained"):
        counts = summary[name].map(lambda n, name=name: f"; {n} {name}" if n else "")
        summary["note"] = (summary.note + counts).str.removeprefix("; ")
    return summary


def _comparisons(arms: dict[str, Arm], seeds: pd.DataFrame) -> pd.DataFrame:
    """Pairs of arms that differ in one thing, and of each arm with the first."""

    def kind(pair: tuple[str, str]) -> int:
        (optimizer, schedule), other = (arms[name] for name in pair)
        if schedule == other.schedule:
            return 0
        return 1 if optimizer == other.optimizer else 2

    pairs = itertools.combinations([arm for arm in arms if arm in seeds], 2)
    lines = [
        {"arm": a, "minus": b, **paired(seeds[a] - seeds[b])}
        | (seeds[a] - seeds[b]).add_prefix("seed_").to_dict()
        for b, a in sorted(pairs, key=kind)
        if kind((b, a)) < 2 or b == next(iter(arms))
    ]
    return pd.DataFrame(lines)


def paired(differences: "pd.Series[float]") -> dict[str, float]:
    """Mean of differences within seeds, 95% intervals, and the detectable difference.

    A difference of the detectable size is found with 80% power by Student's interval.
    """
    values = differences.dropna()
    n, mean, half, detectable = len(values), values.mean(), math.nan, math.nan
    if n > 1:
        t = scipy.stats.t(n - 1).ppf([0.975, 0.8])
        half, detectable = np.cumsum(t * values.sem())
    found = {"n": n, "mean_difference": mean, "detectable": detectable}
    found |= {"interval_low": mean - half, "interval_high": mean + half}
    if n >= BOOTSTRAP_FROM:
        resampled = scipy.stats.bootstrap(
            (values,), np.mean, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        found |= {"bootstrap_low": resampled.low, "bootstrap_high": resampled.high}
    return found


def factors(experiment: Experiment, arm: Arm, rate: float, steps: range) -> Any:
    """Factors of a schedule on the learning rate, and r_t, at some steps."""
    training, last = experiment.config.training, _last_step(experiment)
    of = schedules.learning_rates(arm.schedule, rate, training, last, steps) / rate
    if "radam" not in arm.optimizer:
        return of, np.ones(len(steps))
    shifted = arm.optimizer == "radam-shifted"
    r_t = optax_radam.rectification_schedule(training.b2, shifted=shifted)
    return of, np.asarray(r_t(np.array(steps, np.int32)))


def _last_step(experiment: Experiment) -> int:
    steps = experiment.config.training.epochs * experiment.config.steps_per_epoch
    return min(max(steps, 2), 2**31 - 1)


def _endings(
    experiment: Experiment, arms: dict[str, Arm], summary: pd.DataFrame
) -> pd.DataFrame:
    last, lines = _last_step(experiment), []
    halves = range(last // 2 - 1, last, last - last // 2)  # the middle and the end
    for arm, rate in summary[summary.shown][POINT].itertuples(index=False):
        share, r_t = factors(experiment, arms[arm], rate, halves)
        middle, end = share * r_t
        line = {"arm": arm, "step": last, "r_t": r_t[1], "rate": share[1]}
        lines.append(line | {"only_warmup": bool(middle < end < 0.9)})
    return pd.DataFrame(lines)
