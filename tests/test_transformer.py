import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.comparison.config import Run
from experiments.comparison.training import Trainer
from experiments.transformer import __main__, model, task
from experiments.transformer.config import Config


@pytest.fixture(scope="module")
def sorting():
    return task.make()


def _layer_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def _softmax(x):
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _post_layer_norm(layer, x):
    """In float64 NumPy, after Vaswani et al.'s sections 3.1 to 3.3."""
    weights = jax.tree.map(np.float64, nnx.to_pure_dict(nnx.state(layer)))
    attention = weights["attention"]

    def project(name):
        part = attention[name]
        return np.einsum("nlw,whd->nhld", x, part["kernel"]) + part["bias"][:, None]

    query, key, value = map(project, ("query", "key", "value"))
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
    out = attention["out"]
    mixed = np.einsum("nhld,hdw->nlw", _softmax(scores) @ value, out["kernel"])
    x = _layer_norm(x + mixed + out["bias"])
    hidden = x @ weights["hidden"]["kernel"] + weights["hidden"]["bias"]
    fed = np.maximum(hidden, 0) @ weights["out"]["kernel"] + weights["out"]["bias"]
    return _layer_norm(x + fed)


def test_layers_normalize_after_the_residual():
    layer = model.Layer(rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(3.0, 2.0, (2, 5, model.WIDTH))
    actual = layer(jnp.float32(x))
    np.testing.assert_allclose(actual, _post_layer_norm(layer, x), atol=1e-5)


def test_positions_tell_equal_values_apart():
    transformer = model.Transformer(4, 3, rngs=nnx.Rngs(0))
    logits = transformer(jnp.zeros((1, 3), jnp.int32))
    assert logits.shape == (1, 3, 4)
    assert not np.allclose(logits[0, 0], logits[0, 1])


def test_labels_are_the_sequences_in_order_and_the_task_is_always_the_same(sorting):
    dataset = sorting.dataset
    assert dataset.train_inputs.shape == (2048, 8)
    for inputs, labels in (
        (dataset.train_inputs, dataset.train_labels),
        (dataset.test_inputs, dataset.test_labels),
    ):
        assert [sorted(row) for row in inputs.tolist()] == labels.tolist()
        assert set(inputs.ravel().tolist()) == set(range(16))
    train = {tuple(row) for row in dataset.train_inputs.tolist()}
    assert not train & {tuple(row) for row in dataset.test_inputs.tolist()}
    # Results of other sequences are not comparable.
    assert dataset.checksum.startswith("bf81422abe3f")


def test_losses_and_accuracies_are_means_over_labels(sorting):
    """At a rate that moves nothing, evaluation is a plain mean."""
    trainer = Trainer(sorting, Config(epochs=1))
    run = Run(Config().arms[0], 1e-30, seed=0)
    weights = trainer.initial_state([run]).train.weights
    ((_, (metrics,)),) = trainer.train([run])
    weights = jax.tree.map(lambda leaf: leaf[0], weights)
    transformer = nnx.merge(trainer._graphdef, *weights)
    for part, loss, accuracy in (
        ("train", metrics.train_loss, metrics.train_accuracy),
        ("test", metrics.test_loss, metrics.test_accuracy),
    ):
        inputs = getattr(sorting.dataset, f"{part}_inputs")
        labels = getattr(sorting.dataset, f"{part}_labels")
        logits = np.float64(transformer(jnp.asarray(inputs)))
        chosen = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
        losses = np.log(np.exp(logits).sum(-1)) - chosen
        np.testing.assert_allclose(loss, losses.mean(), rtol=1e-5)
        right = np.mean(logits.argmax(-1) == labels)
        np.testing.assert_allclose(accuracy, right, atol=1e-3)  # ties in rounding


def test_command(monkeypatch, tmp_path, capsys):
    out = tmp_path / "out"
    flags = "--optimizers radam-shifted --learning-rates 3e-3 --seeds 0 --epochs 2"
    monkeypatch.setattr(sys, "argv", ["transformer", *flags.split(), "--out", str(out)])
    assert __main__.main() == 0
    lines = (out / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [64, 128]
    assert rows[1]["test_accuracy"] > 2 / 16  # twice as good as guessing
    assert "sequences_per_second" in rows[0]
    assert "2,048 training and 1,000 test sequences" in (out / "report.md").read_text()


def test_default_arms_are_those_that_the_page_compares():
    assert [arm.name for arm in Config().arms] == [
        "adam constant",
        "adam untuned-linear-warmup",
        "radam constant",
        "radam-skip constant",
        "radam-shifted constant",
        "schedule-free-radam constant",
    ]
    assert len(Config().seeds) >= 3
