"""The contrastive term, training on features with known answers, and going on where it stopped."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_model import quick_compilation

from memo_jax.config import EmotionClassifierConfig
from memo_jax.errors import UserError
from memo_jax.models.projections import EmotionClassifier
from memo_jax.train.emotion.examples import TEST, TRAIN, VALID, Examples, Part
from memo_jax.train.emotion.fit import (
    FitConfig,
    Stopped,
    class_weights,
    contrastive_loss,
    fit,
    hidden_and_logits,
    predict,
)
from memo_jax.train.emotion.table import accuracies, as_csv, as_text, row_of, table
from memo_jax.weights import build

SMALL = FitConfig(channels=32, batch_size=64, learning_rate=3e-3, epochs=40, patience=15)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with quick_compilation():
        yield


def direct(hidden, labels, temperature):
    """The published formula, pair by pair."""
    z = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    rows = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positive = [p for p in others if labels[p] == labels[i]]
        if not positive:
            continue
        total = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
        rows.append(-np.mean([np.log(np.exp(z[i] @ z[p] / temperature) / total) for p in positive]))
    return np.mean(rows) if rows else 0.0


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_contrastive_term_is_the_published_formula(temperature):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(13, 5))
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4, 0])  # 3 is alone
    got = contrastive_loss(jnp.asarray(hidden, jnp.float32), jnp.asarray(labels), temperature)
    assert abs(float(got) - direct(hidden, labels, temperature)) < 1e-5


def test_its_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(1)
    hidden, labels = rng.normal(size=(7, 4)), np.array([0, 1, 0, 2, 1, 1, 0])
    gradient = jax.grad(contrastive_loss)(
        jnp.asarray(hidden, jnp.float32), jnp.asarray(labels), 0.3
    )
    step = 1e-5
    for at in np.ndindex(hidden.shape):
        moved = [hidden.copy(), hidden.copy()]
        moved[0][at] += step
        moved[1][at] -= step
        slope = (direct(moved[0], labels, 0.3) - direct(moved[1], labels, 0.3)) / (2 * step)
        assert abs(float(gradient[at]) - slope) < 1e-4


@pytest.mark.parametrize(("labels", "hidden"), [([0, 1, 2], np.eye(3)), ([0, 0], np.zeros((2, 3)))])
def test_rows_with_nobody_like_them_or_of_zeros_give_finite_gradients(labels, hidden):
    value, gradient = jax.value_and_grad(contrastive_loss)(
        jnp.asarray(hidden, jnp.float32), jnp.asarray(labels), 0.1
    )
    assert float(value) == 0 and np.isfinite(gradient).all()


def test_logits_are_those_of_the_classifier():
    config = EmotionClassifierConfig(in_features=6, channels=8)
    module = EmotionClassifier(config, rngs=build.CountingRngs(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (5, 6))
    hidden, logits = hidden_and_logits(module, x)
    assert hidden.shape == (5, 8)
    np.testing.assert_allclose(jax.nn.softmax(logits), module(x), atol=1e-6)


def examples(features, labels):
    """A corpus of which every fourth example is tested with, every eighth chosen by."""
    n = np.arange(len(labels))
    sides = np.where(n % 4 == 0, TEST, np.where(n % 8 == 1, VALID, TRAIN)).astype(np.int32)
    features, labels = features.astype(np.float32), labels.astype(np.int32)
    part = Part("made", "Made", "none", features, labels, sides, "speaker")
    return Examples(features, labels, np.zeros(len(labels), np.int32), sides, [part])


def blobs(n=640, width=8):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 4, 5, 6, 7], n)
    return examples(4 * np.eye(8, width)[labels] + rng.normal(size=(n, width)), labels)


def rings(n=960):
    """A class is a parity of two signs: no line parts them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2))
    x += 0.3 * np.sign(x)
    return examples(x, np.where(x[:, 0] * x[:, 1] > 0, 3, 6))


def accuracy(data, config, **options):
    fitted = fit(data, config, **options)
    test = data.sides == TEST
    return accuracies(predict(fitted.module, data.features[test]), data.labels[test])[0], fitted


def test_separable_classes_are_learnt():
    got, fitted = accuracy(blobs(), SMALL)
    assert got > 95
    assert fitted.history[fitted.best_epoch - 1]["accuracy"] == max(
        epoch["accuracy"] for epoch in fitted.history
    )


def test_the_mlp_learns_what_a_linear_head_cannot():
    (mlp, _), (linear, _) = accuracy(rings(), SMALL), accuracy(rings(), SMALL.linear)
    assert mlp > 95 and linear < 70


def test_the_contrastive_term_draws_classes_together():
    def spread(weight):
        data = blobs()
        config = FitConfig(**{**SMALL.__dict__, "contrastive": weight, "epochs": 5})
        hidden = np.asarray(hidden_and_logits(fit(data, config).module, data.features)[0])
        z = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
        same = data.labels[:, None] == data.labels[None]
        return (z @ z.T)[same].mean() - (z @ z.T)[~same].mean()

    assert spread(1.0) > spread(0.0) + 0.05


def test_class_weights_make_classes_weigh_the_same():
    labels = np.array([0] * 6 + [3] * 2)
    weights = class_weights(labels, 9, even=True)
    assert weights[0] * 6 == weights[3] * 2 and np.isclose(weights[labels].mean(), 1)
    assert (class_weights(labels, 9, even=False) == 1).all()


def test_stopped_and_gone_on_is_the_same_to_the_bit(tmp_path):
    config = FitConfig(**{**SMALL.__dict__, "epochs": 6})
    whole = fit(blobs(), config)
    for seconds in (0.0, 1e9):  # a state after every epoch, or only when asked to stop
        stop = iter([False, False, True, False, True]).__next__
        keep = tmp_path / str(seconds)
        for _ in range(2):
            with pytest.raises(Stopped):
                fit(blobs(), config, keep=keep, keep_seconds=seconds, stop=stop)
        parts = fit(blobs(), config, keep=keep, keep_seconds=seconds)
        assert parts.history == whole.history and parts.best_epoch == whole.best_epoch
        first, second = (build.flatten(nnx.state(f.module)) for f in (whole, parts))
        assert all(np.array_equal(first[name], second[name]) for name in first)
        told = []
        done = fit(blobs(), config, keep=keep, tell=told.append)
        assert not told and done.history == whole.history


def test_another_classifiers_state_is_refused(tmp_path):
    config = FitConfig(**{**SMALL.__dict__, "epochs": 1})
    fit(blobs(), config, keep=tmp_path)
    with pytest.raises(UserError, match="of another classifier"):
        fit(blobs(), FitConfig(**{**config.__dict__, "channels": 16}), keep=tmp_path)


def test_features_that_are_not_finite_stop_training():
    data = blobs()
    data.features[7] = np.nan
    with pytest.raises(UserError, match="the loss is nan in epoch 1"):
        fit(data, SMALL)


@pytest.mark.parametrize(
    "wrong", [{"layers": 0}, {"clip": 0.0}, {"temperature": -1.0}, {"contrastive": float("nan")}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))} is "):
        FitConfig(**wrong)


def test_accuracies_are_weighted_by_examples_and_by_classes():
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    assert accuracies(predicted, labels) == (75.0, 50.0)


def test_the_table_has_a_row_for_each_corpus_and_one_over_all():
    labels = np.array([0, 0, 1, 1, 3, 3], np.int32)
    sides = np.array([TEST, TEST, TRAIN, TEST, TEST, TRAIN], np.int32)
    corpora = np.array([0, 0, 0, 1, 1, 1], np.int32)
    features = np.zeros((6, 2), np.float32)
    parts = [
        Part("a", "A", "English", features[:3], labels[:3], sides[:3], "speaker"),
        Part("b", "B", "Greek", features[3:], labels[3:], sides[3:], "file"),
    ]
    data = Examples(features, labels, corpora, sides, parts)
    rows = table(data, {"linear": np.array([0, 1, 0, 3]), "mlp": np.array([0, 0, 1, 0])})
    assert [(r.corpus, r.train, r.test) for r in rows] == [
        ("A", 1, 2),
        ("B", 1, 2),
        ("overall", 2, 4),
    ]
    assert [r.linear_weighted for r in rows] == [50, 50, 50]
    assert [r.mlp_weighted for r in rows] == [100, 50, 75]
    assert rows[2].mlp_unweighted == pytest.approx(100 * 2 / 3)
    text = as_text(rows)
    assert "overall" in text.splitlines()[-2] and "75.00" in text.splitlines()[-2]
    assert "78.26" in text and len(as_csv(rows).splitlines()) == 4
    assert json.loads(json.dumps([dict(row_of(r)) for r in rows]))[1]["corpus"] == "B"
