"""A corpus of clips of all lengths becomes recordings of few."""

import numpy as np
import pytest

from memo_jax.audio.lengths import LONGEST, padded

RATES = (24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 50.0, 60000 / 1001, 60.0)


@pytest.mark.parametrize("fps", RATES)
def test_there_is_room_and_not_much_more(fps):
    for frames in range(int(2 * fps), int(30 * fps) + 1):
        samples = round(frames / fps * 16000)
        n, room = padded(samples, frames)
        assert samples <= n <= max(48000, 1.5 * samples)
        assert frames <= room <= max(3 * 1.25 * fps, 1.9 * frames)


def test_a_corpus_needs_a_handful_of_programs():
    rng = np.random.default_rng(0)
    clips = [(n, fps) for n in rng.integers(50, 751, 4000) for fps in (25.0,)]
    own = {(round(n / fps * 16000), n) for n, fps in clips}
    shared = {padded(*one) for one in own}
    assert len(own) > 600 and len(shared) == 8
    mixed = {
        padded(round(n / fps * 16000), int(n)) for n, _ in clips for fps in RATES if n <= 30 * fps
    }
    assert len(mixed) <= 4 * 8


def test_long_ones_are_whole_half_minutes_and_very_long_ones_are_left():
    assert padded(31 * 16000, 31 * 25) == (60 * 16000, 60 * 25)
    assert padded(16000, 200) == (48000, 3 * 120)
    n = LONGEST * 16000 + 1
    assert padded(n, 77) == (n, 77)
