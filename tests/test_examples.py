from examples import unscaled_features


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
