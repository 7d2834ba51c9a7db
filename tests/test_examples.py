import decay_oracles
import numpy as np
import oracles
import pytest

from examples import changing_decay_rates, unscaled_features


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
