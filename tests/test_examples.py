from examples import unscaled_features


def test_momentum_blows_up_on_unscaled_features_and_skip_does_not(capsys):
    course = {
        name: unscaled_features.train(optimizer)
        for name, optimizer in unscaled_features.OPTIMIZERS.items()
    }
    skip = course.pop('optax_radam.radam, fallback="skip"')
    assert skip.peak == skip.start
    assert skip.end < 0.5 * skip.start
    for momentum in course.values():
        assert momentum.peak > 50 * momentum.start
        assert momentum.peak_step == 5
        assert momentum.end > 2 * skip.end
    unscaled_features.main()
    assert capsys.readouterr().out.count("peaks at") == 3
