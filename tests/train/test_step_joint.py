"""Joint training of all networks: it learns, keeps an average, and loads what it left."""

import jax
import numpy as np
import pytest
import smallest

DECAY = 0.75
STEPS = 30


@pytest.fixture(scope="module")
def own(trainer):
    return trainer(
        "2b",
        learning_rate=3e-3,
        warmup_steps=2,
        ema_decay=DECAY,
        robust_threshold=None,
    )


@pytest.fixture(scope="module")
def trace(own, model):
    """The states after the first two steps and the last, and the losses of all."""
    state, frozen = own.init(model)
    batch = own.put(smallest.batch())
    states, told = [jax.tree.map(np.asarray, state)], []
    for step in range(STEPS):
        state, metrics = own.step(smallest.PAST)(state, frozen, batch)
        told.append(jax.tree.map(np.asarray, metrics))
        if step < 2:
            states.append(jax.tree.map(np.asarray, state))
    return states, told, state, frozen


def test_a_few_samples_are_learnt(trace):
    losses = np.array([told["loss"] for told in trace[1]])
    assert all(told["finite"] for told in trace[1])
    assert losses[-10:].mean() < 0.7 * losses[:5].mean()


def test_the_average_follows_the_weights(trace, own):
    (start, first, second), _, last, frozen = trace
    assert all(np.array_equal(start.ema[path], start.trained[path]) for path in start.ema)
    for before, after in ((start, first), (first, second)):
        for path, value in after.ema.items():
            want = DECAY * before.ema[path] + (1 - DECAY) * after.trained[path]
            np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-6)
    assert own.weights(last, frozen, ema=True) is last.ema
    assert own.weights(last, frozen) is last.trained


def test_the_rate_rises_with_the_steps(trace):
    assert [float(told["lr"]) for told in trace[1][:4]] == pytest.approx([1.5e-3, 3e-3, 3e-3, 3e-3])


def test_a_state_lies_as_the_abstract_one_says(trace, own):
    _, _, state, frozen = trace
    for real, said in zip((state, frozen), own.abstract(), strict=True):
        assert jax.tree.structure(real) == jax.tree.structure(said)
        for leaf, shape in zip(jax.tree.leaves(real), jax.tree.leaves(said), strict=True):
            assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
            assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
    for name, leaf in own.put(smallest.batch()).items():
        said = own.abstract_batch(smallest.PAST)[name]
        assert (leaf.shape, leaf.dtype) == (said.shape, said.dtype)
