"""Numbers against textbooks, R and SciPy's own tests; choices against made-up runs."""

import math

import numpy as np
import pytest
import scipy.stats
from made_up_records import held_out, make_flags, rows_of, write

from experiments.config import Arm
from experiments.report import statistics
from experiments.report.selection import Selection

# Student's own example, R's `sleep`: hours of sleep gained by ten patients.
DRUG_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
DRUG_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


def _compared(a, b):
    return statistics.paired_differences(dict(enumerate(a)), dict(enumerate(b)))


def test_student_interval_is_that_of_r():
    """What `t.test(..., paired = TRUE)` prints."""
    compared = _compared(DRUG_1, DRUG_2)
    assert compared.summary.n == 10
    assert compared.summary.mean == pytest.approx(-1.58)
    assert compared.summary.deviation == pytest.approx(1.229995, abs=1e-6)
    assert compared.student == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_student_interval_is_that_of_scipys_paired_test(n):
    a, b = np.random.default_rng(n).normal(size=(2, n))
    expected = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert _compared(a, b).student == pytest.approx(tuple(expected))


def test_detectable_difference_is_that_of_tables():
    # 2.262157 and 0.883404: the quantiles 0.975 and 0.8 of t with 9 degrees.
    expected = (2.262157 + 0.883404) * 1.229995 / math.sqrt(10)
    assert _compared(DRUG_1, DRUG_2).detectable == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [5, 10, 30])
def test_detectable_difference_would_be_detected_in_four_of_five(n):
    shift = statistics.detectable_difference(2.0, n) * math.sqrt(n) / 2.0
    critical = scipy.stats.t.ppf(0.975, n - 1)
    power = scipy.stats.nct.sf(critical, n - 1, shift)
    assert power == pytest.approx(0.8, abs=0.01)


def test_bootstrap_resamples_the_mean_from_eight_pairs_on():
    assert _compared(DRUG_1[:7], DRUG_2[:7]).bootstrap is None
    assert _compared(DRUG_1[:8], DRUG_2[:8]).bootstrap is not None
    differences = np.subtract(DRUG_1, DRUG_2)
    drawn = np.random.default_rng(123).choice(differences, size=(20_000, 10))
    expected = np.percentile(drawn.mean(axis=1), (2.5, 97.5))
    compared = _compared(DRUG_1, DRUG_2)
    assert compared.bootstrap == pytest.approx(tuple(expected), abs=0.05)
    assert compared == _compared(DRUG_1, DRUG_2)


def test_pairs_are_of_shared_seeds():
    compared = statistics.paired_differences({3: 0.9, 1: 0.5, 7: 0.1}, {1: 0.2, 3: 0.7})
    assert compared.pairs == ((1, 0.5, 0.2), (3, 0.9, 0.7))
    assert [pair.difference for pair in compared.pairs] == pytest.approx([0.3, 0.2])


def test_too_few_pairs_have_no_interval():
    one = _compared([0.5], [0.25])
    assert one.summary == (1, 0.25, None)
    assert (one.student, one.bootstrap, one.detectable) == (None, None, None)
    assert statistics.paired_differences({0: 1.0}, {1: 1.0}).summary == (0, None, None)


def test_equal_differences_have_a_point_for_an_interval():
    compared = _compared([0.5] * 8, [0.25] * 8)
    assert compared.student == compared.bootstrap == (0.25, 0.25)
    assert compared.detectable == 0


def test_summary_is_of_a_sample():
    values = (2, 4, 4, 4, 5, 5, 7, 9)  # squared deviations add up to 32
    assert statistics.summarize(values) == (8, 5, pytest.approx(math.sqrt(32 / 7)))


def test_loss_changes():
    # Changes -2, 1, -1.5, 0.5: the second half is the last two.
    assert statistics.loss_changes([4, 2, 3, 1.5, 2]) == (1.0, 1.0)
    assert statistics.loss_changes([3, 2]) == (1.0, 0.0)
    assert statistics.loss_changes([3]) is None


def test_quartiles():
    assert statistics.quartiles([5, 1, 4, 2, 3]) == (2, 3, 4)


def _selection(tmp_path, flags, metrics, change=lambda rows: rows):
    rows = change(rows_of(flags, metrics))
    return Selection(write(tmp_path, flags, rows))


def _chosen(selection):
    return {
        arm.name: (choice.point.learning_rate, choice.edge)
        for arm, choice in selection.choices.items()
    }


ACCURACIES = {0.1: 0.5, 0.2: 0.75, 0.4: 0.625, 1.0: 0.875, 2.0: 0.25}
GRIDS = make_flags(
    optimizers=("adam", "radam", "sgd"),
    learning_rates=(0.4, 0.1, 0.2),
    rates_of=("radam=0.2,0.1", "sgd=1,2"),
    seeds=(0, 1),
    epochs=2,
)


def test_best_mean_on_the_test_data_is_chosen_and_edges_are_those_of_an_arms_own_grid(
    tmp_path,
):
    def metrics(run):
        # Seed 0 alone would choose otherwise.
        luck = {(0.4, 0): 0.25, (0.4, 1): -0.25}.get((run.learning_rate, run.seed), 0)
        return {"accuracy": ACCURACIES[run.learning_rate] + luck}

    selection = _selection(tmp_path, GRIDS, metrics)
    assert selection.part == "test"
    assert _chosen(selection) == {
        "adam constant": (0.2, None),
        "radam constant": (0.2, "highest"),
        "sgd constant": (1.0, "lowest"),
    }


def test_held_out_examples_choose_where_there_are_some(tmp_path):
    flags = make_flags(learning_rates=(0.1, 0.2), epochs=2, validation=5)
    selection = _selection(
        tmp_path,
        flags,
        lambda run: {"accuracy": ACCURACIES[run.learning_rate]},
        lambda rows: held_out(rows, epochs=2),
    )
    assert selection.part == "validation"
    point = selection.choices[Arm("adam", "constant")].point
    assert point.learning_rate == 0.2
    assert point.final("test_accuracy") == {0: 0.25}  # the lower of the two


def test_a_single_rate_is_no_edge(tmp_path):
    selection = _selection(tmp_path, make_flags(epochs=1), lambda run: {})
    assert {edge for _, edge in _chosen(selection).values()} == {None}


def test_only_finished_runs_count(tmp_path):
    def metrics(run):
        return {"accuracy": ACCURACIES[run.learning_rate]}

    def stop_before_the_last_row(rows):
        return rows[:-1]

    flags = make_flags(optimizers=("adam",), learning_rates=(0.1, 0.2), epochs=2)
    selection = _selection(tmp_path, flags, metrics, stop_before_the_last_row)
    assert _chosen(selection) == {"adam constant": (0.1, "lowest")}


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_diverged_runs_are_named_and_counted(tmp_path, part, loss):
    flags = make_flags(optimizers=("adam",), seeds=(0, 1, 2), epochs=2, validation=5)

    def change(rows):
        rows = held_out(rows, epochs=2)
        broken = rows[3].metrics._replace(**{f"{part}_loss": loss})
        return [*rows[:3], rows[3]._replace(metrics=broken), *rows[4:]]

    selection = _selection(
        tmp_path, flags, lambda run: {"accuracy": 0.25 * run.seed}, change
    )
    (point,) = selection.points(selection.arms[0])
    assert point.diverged == [1]
    assert point.final("validation_accuracy") == {0: 0, 1: 0.25, 2: 0.5}
    assert len(point.loss_changes("validation")) == 2


def test_arms_that_differ_in_one_thing_are_compared_and_all_with_the_first(tmp_path):
    flags = make_flags(
        optimizers=("adam", "radam", "sgd:step-decay"),
        schedules=("constant", "step-decay"),
        epochs=1,
    )
    selection = _selection(
        tmp_path,
        flags,
        lambda run: {"accuracy": 0.5 if run.arm.optimizer == "adam" else 0.75},
    )
    names = [(c.a.arm.name, c.b.arm.name) for c in selection.comparisons]
    assert names == [
        ("radam constant", "adam constant"),
        ("radam step-decay", "adam step-decay"),
        ("sgd step-decay", "adam step-decay"),
        ("sgd step-decay", "radam step-decay"),
        ("adam step-decay", "adam constant"),
        ("radam step-decay", "radam constant"),
        ("radam step-decay", "adam constant"),
        ("sgd step-decay", "adam constant"),
    ]
    assert selection.comparisons[0].differences.pairs == ((0, 0.75, 0.5),)
