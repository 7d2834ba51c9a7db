import decay_oracles
import numpy as np
import oracles
import pandas as pd
import pytest
import scipy.special
import scipy.stats

from examples import changing_decay_rates, unscaled_features, variational_inference


def test_only_momentum_blows_up_on_unscaled_features(capsys):
    course = {
        name: unscaled_features.train(optimizer)
        for name, optimizer in unscaled_features.OPTIMIZERS.items()
    }
    momentum = [course.pop(name) for name in ("optax.radam", 'radam, "momentum"')]
    for one in momentum:
        assert one.peak > 50 * one.start
        assert one.peak_step == 5
    for other in course.values():
        assert other.peak < 1.1 * other.start
        assert other.end < 0.7 * momentum[0].end
    assert min(course, key=lambda name: course[name].end) == "optax.adam"
    unscaled_features.main()
    assert capsys.readouterr().out.count("peaks at") == 6


@pytest.mark.parametrize("name", changing_decay_rates.SCHEDULES)
def test_variances_where_b2_changes(name):
    schedule = changing_decay_rates.SCHEDULES[name]
    rates = np.array([schedule(count) for count in range(1010)], float)
    for found in changing_decay_rates.variances(schedule, np.array([8, 105, 1010])):
        so_far, b2 = rates[: found.step], rates[found.step - 1]
        weights = decay_oracles.weights(so_far)
        today = float(oracles.rectification(found.step, b2)) ** 2
        today *= oracles.variance_of_rate(weights / (1 - b2**found.step))
        followed = decay_oracles.rectification(so_far) ** 2
        followed *= oracles.variance_of_rate(weights / weights.sum())
        expected = np.array([today, followed]) / oracles.variance_limit(b2)
        np.testing.assert_allclose(found[1:], expected, rtol=1e-4)


def test_picture_where_b2_changes(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(changing_decay_rates, "STEPS", 1100)
    changing_decay_rates.main(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    last = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert all(0.9 < float(largest) < 1.25 for largest in last)


@pytest.fixture
def two_rates(monkeypatch):
    """Variational inference at two learning rates, with three seeds."""
    monkeypatch.setattr(variational_inference, "RATES", (1e-2, 1e-1))
    monkeypatch.setattr(variational_inference, "SEEDS", 3)
    return variational_inference.models()["normal, deviation 1"]


def test_only_momentum_ends_in_nan(two_rates, monkeypatch, tmp_path):
    monkeypatch.setattr(variational_inference, "STEPS", 20)
    finite = {
        name: np.isfinite(variational_inference.losses(two_rates, name))
        for name in variational_inference.OPTIMIZERS
    }
    momentum = finite.pop('radam, "momentum"')
    assert not momentum[1].any()  # at the higher rate
    np.testing.assert_array_equal(finite.pop("optax.radam"), momentum)
    assert np.all([*finite.values()])
    rows = [("m", "o", 0.1, seed, loss) for seed, loss in enumerate((1, 3, np.nan))]
    variational_inference.write(
        pd.DataFrame(rows, columns=variational_inference.COLUMNS), tmp_path
    )
    assert "| 3; 1 failed" in (tmp_path / "table.md").read_text()
    assert len(pd.read_csv(tmp_path / "results.csv")) == 3


def test_variational_inference_finds_the_evidence(two_rates):
    """The loss is at least -log p(x), here by a grid over mean and scale."""
    observed = np.random.default_rng(0).normal(5, 1, 200)
    means, scales = np.linspace(4, 6, 401), np.linspace(0.5, 2, 601)[:, np.newaxis]
    log_joint = scipy.stats.norm.logpdf(means, 0, 10)
    log_joint = log_joint + scipy.stats.halfnorm.logpdf(scales, scale=10)
    squares = ((observed[:, np.newaxis] - means) ** 2).sum(axis=0)
    log_joint -= squares / scales**2 / 2 + 200 * np.log(scales * np.sqrt(2 * np.pi))
    least = -scipy.special.logsumexp(log_joint) - np.log(2 / 400 * 1.5 / 600)
    found = variational_inference.losses(two_rates, 'radam, "shifted"')[1].min()
    assert least - 0.1 < found < least + 0.3  # of 1,000 particles
