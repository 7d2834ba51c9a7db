import functools
import hashlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import main, train
from experiments.transformer import __main__ as transformer
from experiments.transformer.__main__ import Flags


@pytest.fixture(scope="module")
def sorting():
    return Flags().load()


def _layer_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def _softmax(x):
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _post_layer_norm(layer, x):
    """The Transformer in float64 NumPy, from Vaswani et al., sections 3.1 to 3.3."""
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
    layer = transformer.Layer(rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(3.0, 2.0, (2, 5, transformer.WIDTH))
    actual = layer(jnp.float32(x))
    np.testing.assert_allclose(actual, _post_layer_norm(layer, x), atol=1e-5)


def test_positions_tell_equal_values_apart():
    model = transformer.Transformer(4, 3, rngs=nnx.Rngs(0))
    logits = model(jnp.zeros((1, 3), jnp.int32))
    assert logits.shape == (1, 3, 4)
    assert not np.allclose(logits[0, 0], logits[0, 1])


def test_labels_are_the_sequences_in_order_and_the_task_is_always_the_same(sorting):
    assert sorting.train.inputs.shape == (2048, 8)
    assert sorting.test.inputs.shape == (1000, 8)
    digest = hashlib.sha256()
    for inputs, labels in (sorting.train, sorting.test):
        assert [sorted(row) for row in inputs.tolist()] == labels.tolist()
        assert set(inputs.ravel().tolist()) == set(range(16))
        digest.update(inputs.tobytes() + labels.tobytes())
    rows = {tuple(row) for row in sorting.train.inputs.tolist()}
    assert not rows & {tuple(row) for row in sorting.test.inputs.tolist()}
    # Results on other sequences are not comparable.
    assert digest.hexdigest().startswith("bf81422abe3f")


@pytest.mark.soak
def test_losses_and_accuracies_are_means_over_labels(sorting):
    """At rate zero, the training loss is a plain mean, too."""
    few = train.Examples(*(array[:256] for array in sorting.train))
    examples, test = jax.tree.map(jnp.asarray, (few, sorting.test))
    state = jax.jit(functools.partial(train.init, sorting, optax.sgd))(0)
    model = sorting.make_model(nnx.Rngs(0))
    nnx.update(model, state.params)
    batches = train.batches(0, 0, 256, 32)
    step = jax.jit(functools.partial(train.train_step, sorting, optax.sgd))
    for _ in batches:
        state = step(examples, state, 0, batches, jnp.zeros(8))
    evaluate = jax.jit(functools.partial(train.evaluate, sorting))
    in_training = state.loss_sum / 256, state.correct / (256 * 8)
    in_test = evaluate(test, state.params, state.statistics)
    for part, (loss, accuracy) in ((examples, in_training), (test, in_test)):
        logits, labels = np.float64(model(part.inputs)), np.asarray(part.labels)
        chosen = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
        losses = np.log(np.exp(logits).sum(-1)) - chosen
        np.testing.assert_allclose(loss, losses.mean(), rtol=1e-5)
        right = np.mean(logits.argmax(-1) == labels)
        np.testing.assert_allclose(accuracy, right, atol=1e-3)  # ties in rounding


@pytest.mark.soak
def test_command(monkeypatch, tmp_path, capsys):
    out = tmp_path / "out"
    flags = "--optimizers radam-shifted --learning-rates 3e-3 --seeds 0 --epochs 2"
    monkeypatch.setattr(sys, "argv", ["transformer", *flags.split(), "--out", str(out)])
    assert main.main(Flags) == 0
    lines = (out / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [64, 128]
    assert rows[1]["test_accuracy"] > 2 / 16  # twice as good as guessing
    assert "sequences_per_second" in rows[0]
    assert "2,048 training and 1,000 test sequences" in (out / "report.md").read_text()


def test_default_arms_are_those_that_the_page_compares():
    assert [arm.name for arm in Flags().grid.arms] == [
        "adam constant",
        "adam untuned-linear-warmup",
        "radam constant",
        "radam-skip constant",
        "radam-shifted constant",
        "schedule-free-radam constant",
    ]
    assert len(Flags().grid.seeds) >= 3
