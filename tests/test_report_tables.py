"""Tables of reports, compared with numbers by hand or from SciPy."""

import math

import numpy as np
import pytest
import scipy.stats
from made_up_records import make_flags, rows_of, write

import optax_radam
from experiments.config import Arm
from experiments.report import tables

TWO_ARMS = {"optimizers": ("adam", "radam"), "seeds": (0, 1, 2)}
ACCURACIES = {"adam": [0.5, 0.6, 0.7], "radam": [0.55, 0.7, 0.73]}


def _tables(out, metrics, left_out=(), **fields):
    flags = make_flags(**{"epochs": 2} | fields)
    rows = rows_of(flags, metrics)
    rows = [(run, row) for run, row in rows if (run.seed, row["epoch"]) not in left_out]
    return tables.make_tables(write(out, flags, rows))


def _by_seed(run):
    return {"accuracy": ACCURACIES[run.arm.optimizer][run.seed]}


@pytest.mark.parametrize(
    ("arm", "name"),
    [
        (("adam", "constant"), "Adam"),
        (("adam", "untuned-linear-warmup"), "Adam + untuned linear warmup"),
        (("radam-skip", "step-decay"), "RAdam (skip) + step decay"),
        (
            ("sgd", "linear-warmup-100+warmup-linear-decay-5000"),
            "SGD + linear warmup over 100 steps + warmup and linear decay over 5000 "
            "steps",
        ),
    ],
)
def test_arms_have_the_names_that_people_use(arm, name):
    assert tables.arm_name(Arm(*arm)) == name


def test_means_and_standard_deviations_over_seeds(tmp_path):
    summary = _tables(tmp_path, _by_seed, **TWO_ARMS).summary.set_index("arm")
    assert summary.loc["Adam", "test_accuracy_mean"] == pytest.approx(0.6)
    assert summary.loc["Adam", "test_accuracy_sd"] == pytest.approx(0.1)
    assert [*summary.n] == [3, 3]


def test_the_best_mean_chooses_the_rate_and_ends_of_the_grid_are_named(tmp_path):
    def metrics(run):
        good = {"adam": 0.1, "radam": 0.2}[run.arm.optimizer]
        return {"accuracy": 0.9 if run.learning_rate == good else 0.5}

    rates = {"learning_rates": (0.1, 0.2, 0.05)}
    summary = _tables(tmp_path, metrics, **TWO_ARMS, **rates).summary
    chosen = summary[summary.chosen]
    assert [*chosen.learning_rate] == [0.1, 0.2]
    assert [*chosen.edge] == ["", "highest"]
    assert not summary[~summary.chosen].edge.any()


def test_a_single_rate_is_no_edge(tmp_path):
    assert not _tables(tmp_path, _by_seed, **TWO_ARMS).summary.edge.any()


def test_held_out_examples_choose_where_there_are_any(tmp_path):
    def metrics(run):
        good = run.learning_rate == 0.1
        return {
            "validation_loss": 1.0,
            "validation_accuracy": 0.9 if good else 0.2,
            "accuracy": 0.1 if good else 0.8,
        }

    fields = {"learning_rates": (0.1, 0.2), "validation": 5}
    summary = _tables(tmp_path, metrics, **TWO_ARMS, **fields).summary
    assert {*summary[summary.chosen].learning_rate} == {0.1}


def test_paired_differences_are_students(tmp_path):
    (line,) = _tables(tmp_path, _by_seed, **TWO_ARMS).comparisons.itertuples()
    assert (line.arm, line.minus, line.n) == ("RAdam", "Adam", 3)
    test = scipy.stats.ttest_rel(ACCURACIES["radam"], ACCURACIES["adam"])
    low, high = test.confidence_interval(0.95)
    mean = (0.05 + 0.1 + 0.03) / 3
    found = line.mean_difference, line.interval_low, line.interval_high
    np.testing.assert_allclose(found, [mean, low, high], rtol=1e-9)
    assert [line.seed_0, line.seed_1, line.seed_2] == pytest.approx([0.05, 0.1, 0.03])


@pytest.mark.parametrize("n", [10, 30])
def test_the_detectable_difference_is_found_in_four_of_five_experiments(n):
    """By the noncentral distribution, if the spread were known."""
    values = np.random.default_rng(0).normal(size=n)
    detectable = tables.paired(_series(values))["detectable"]
    shift = detectable / (np.std(values, ddof=1) / np.sqrt(n))
    power = scipy.stats.nct.sf(scipy.stats.t(n - 1).ppf(0.975), n - 1, shift)
    assert power == pytest.approx(0.8, abs=0.04)


def _series(values):
    return tables.pd.Series(values)


def test_equal_differences_have_a_point_for_an_interval():
    found = tables.paired(_series([0.25, 0.25, 0.25]))
    assert found["interval_low"] == found["interval_high"] == 0.25


def test_pairs_are_of_seeds_that_both_have_finished(tmp_path):
    flags = make_flags(epochs=2, **TWO_ARMS)
    rows = [
        (run, row)
        for run, row in rows_of(flags, _by_seed)
        if (run.arm.optimizer, run.seed, row["epoch"]) != ("radam", 1, 2)
    ]
    (line,) = tables.make_tables(write(tmp_path, flags, rows)).comparisons.itertuples()
    assert line.n == 2
    assert line.mean_difference == pytest.approx((0.05 + 0.03) / 2)


def test_arms_that_differ_in_one_thing_are_compared_and_all_with_the_first(tmp_path):
    arms = ("adam", "radam", "adam:step-decay", "sgd:step-decay")
    found = _tables(tmp_path, lambda run: {}, optimizers=arms).comparisons
    step = " + step decay"
    assert {*zip(found.arm, found.minus, strict=True)} == {
        ("RAdam", "Adam"),
        (f"Adam{step}", "Adam"),
        (f"SGD{step}", "Adam"),
        (f"SGD{step}", f"Adam{step}"),
    }


def test_a_bootstrap_is_beside_eight_pairs_and_more():
    random = np.random.default_rng(0)
    values = random.normal(size=8)
    assert "bootstrap_low" not in tables.paired(_series(values[:7]))
    found = tables.paired(_series(values))
    means = random.choice(values, (20_000, 8)).mean(1)
    expected = np.quantile(means, [0.025, 0.975])
    actual = found["bootstrap_low"], found["bootstrap_high"]
    np.testing.assert_allclose(actual, expected, atol=0.03)


def test_one_pair_has_no_interval_and_no_detectable_difference():
    found = tables.paired(_series([0.1]))
    assert found["n"] == 1
    assert math.isnan(found["interval_low"])
    assert math.isnan(found["detectable"])


def test_diverged_untrained_and_unfinished_runs_are_marked(tmp_path):
    def metrics(run):
        loss = {0: math.nan, 1: math.log(10), 2: 1.0, 3: 1.0}[run.seed]
        return {"loss": loss, "accuracy": 0.1}

    fields = {"optimizers": ("adam",), "seeds": (0, 1, 2, 3)}
    found = _tables(tmp_path, metrics, left_out={(3, 2)}, **fields)
    assert [*found.runs.note] == ["diverged", "untrained", "", "unfinished"]
    assert found.summary.note[0] == "chosen; 1 diverged; 1 untrained"
    assert found.summary.n[0] == 3  # diverged ones are included


def test_a_diverged_run_is_not_the_most_stable(tmp_path):
    losses = {(0, 1): 1.0, (0, 2): 3.0, (1, 1): math.inf, (1, 2): math.inf}
    flags = make_flags(optimizers=("adam",), seeds=(0, 1), epochs=2)
    rows = [
        (run, row | {"test_loss": losses[run.seed, row["epoch"]]})
        for run, row in rows_of(flags, lambda run: {})
    ]
    found = tables.make_tables(write(tmp_path, flags, rows))
    assert found.summary.late_change_mean[0] == 2.0
    assert [*found.runs.late_change.isna()] == [False, True]


def test_a_run_that_was_nothing_but_warmup_is_named(tmp_path):
    """Six steps: at b2 = 0.999, r_t is near 0; at 0.5, Adam's warmup is over."""
    arms = ("adam", "radam", "adam:untuned-linear-warmup", "adam:warmup-linear-decay")
    long = _tables(tmp_path / "long", lambda run: {}, optimizers=arms).endings
    assert [*long.only_warmup] == [False, True, True, False]
    assert long.r_t[1] == pytest.approx(optax_radam.rectification_schedule(0.999)(5))
    assert long.rate[2] == pytest.approx(6 / 2000)
    short = _tables(tmp_path / "short", lambda run: {}, optimizers=arms[2:3], b2=0.5)
    assert not short.endings.only_warmup[0]
