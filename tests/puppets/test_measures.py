"""Figures of generated puppets, on tracks whose answer is known."""

import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.puppets import measures


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    return np.convolve(rng.uniform(size=300), np.ones(3) / 3, mode="valid")


@pytest.mark.parametrize("lag", [-4, -1, 0, 1, 5])
def test_a_planted_lag_is_found(truth, lag):
    read = 0.5 * np.roll(truth, lag) + 0.2
    found = measures.lips(read[10:-10], truth[10:-10])
    assert found.lag == lag and found.correlation == pytest.approx(1, abs=1e-6)
    assert (found.at_once == found.correlation) == (lag == 0)


def test_noise_lowers_the_correlation_by_as_much_as_it_should(truth):
    noise = np.random.default_rng(1).normal(size=len(truth)) * truth.std()
    found = measures.lips(truth + noise, truth)
    assert found.lag == 0 and found.correlation == pytest.approx(np.sqrt(0.5), abs=0.05)


def test_a_mouth_that_never_moves(truth):
    assert measures.lips(np.ones_like(truth), truth) == measures.Lips(0.0, 0, 0.0)
    assert measures.lips(-truth, truth).at_once == pytest.approx(-1)


def test_lengths_that_do_not_fit(truth):
    with pytest.raises(UserError, match="298 frames read and 297"):
        measures.lips(truth, truth[1:])
    with pytest.raises(UserError, match="at least 7"):
        measures.lips(truth[:6], truth[:6])


def test_identity_by_second():
    turned = np.radians(np.repeat([0, 30, 60], 10))
    embeddings = np.stack([np.cos(turned), np.sin(turned)], axis=1)
    assert measures.identity_by_second(embeddings, 10) == pytest.approx([1, 0.75**0.5, 0.5])
    other = measures.identity_by_second(embeddings[:25], 10, to=np.array([0.0, 2.0]))
    assert other == pytest.approx([0, 0.5])  # half a second is none
    with pytest.raises(UserError, match="9 frames"):
        measures.identity_by_second(embeddings[:9], 10)


def test_seconds_of_a_rate_that_is_no_whole_number():
    embeddings = np.ones((90, 1))
    assert len(measures.identity_by_second(embeddings, 29.97)) == 3


def test_emotion_accuracy():
    assert measures.emotion_accuracy(np.array([3, 3, 0, 3]), 3) == 0.75
    assert measures.emotion_accuracy(np.array([3, 1]), np.array([3, 0])) == 0.5


def test_jitter_is_of_what_does_not_move_evenly():
    even = np.arange(10) * 0.1
    assert measures.jitter(even, np.ones(10)) == pytest.approx(0, abs=1e-12)
    shaken = np.tile([1.0, -1.0], 5)
    assert measures.jitter(even, shaken) == pytest.approx(4 / np.sqrt(2))
    with pytest.raises(UserError, match="three"):
        measures.jitter(np.zeros(2))


def test_sway_is_how_far_heads_go():
    still, there_and_back = np.full(8, 0.3), np.tile([0.1, 0.3], 4)
    assert measures.sway(still) == 0
    assert measures.sway(there_and_back) == pytest.approx(0.1)
    assert measures.sway(still, there_and_back) == pytest.approx(0.1 / np.sqrt(2))
    with pytest.raises(UserError, match="one frame"):
        measures.sway(np.zeros(0))


def test_seams_are_how_much_more_changes_between_clips():
    inside = np.repeat(np.arange(0, 12, 2), 4).reshape(6, 2, 2, 1)  # 2 from frame to frame
    even = np.broadcast_to(inside, (6, 2, 2, 3)).astype(np.uint8)
    assert measures.seams(even, 3) == 1
    jump = even + np.array([0, 0, 0, 4, 4, 4], np.uint8)[:, None, None, None]
    assert measures.seams(jump, 3) == 3
    assert measures.seams(jump[::-1], 3) == 3  # a fall counts as a rise does
    assert np.isnan(measures.seams(even, 6)) and np.isnan(measures.seams(0 * even, 3))
