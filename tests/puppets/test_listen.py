"""The mouth follows the sound: at its own time, by its loudness, by its formants."""

import numpy as np
import pytest
import soxr

from memo_jax.puppets.emotion import SHOWN
from memo_jax.puppets.listen import (
    CLOSED,
    LEVEL,
    OPEN,
    active_level,
    levelled,
    loudness_at,
    mouth_from_sound,
)
from memo_jax.puppets.prosody import speaker
from memo_jax.puppets.voice import CONTROL, speak

RATE, FPS = 16000, 25


def speech(seed, emotion="neutral", seconds=4.0):
    return speak(seconds, speaker(seed), emotion, 1.0, np.random.default_rng(seed))


@pytest.mark.parametrize("emotion", SHOWN)
def test_opening_follows_loudness_without_delay(emotion):
    sound = speech(7, emotion).sound
    opening = mouth_from_sound(sound, RATE, FPS).opening
    # A measure of its own: power within each frame, and none beside it.
    power = (sound.reshape(len(opening), -1).astype(np.float64) ** 2).mean(1)
    decibels = np.clip(10 * np.log10(2 * power + 1e-10), CLOSED, OPEN)
    by_lag = {
        lag: np.corrcoef(opening[5:-5], np.roll(decibels, lag)[5:-5])[0, 1] for lag in range(-3, 4)
    }
    assert max(by_lag, key=by_lag.get) == 0
    assert by_lag[0] > 0.9


def test_silence_closes_the_mouth():
    quiet = mouth_from_sound(np.zeros(RATE), RATE, FPS)
    assert not quiet.opening.any() and not quiet.rounding.any() and (quiet.width == 0.5).all()
    faint = mouth_from_sound(1e-3 * np.random.default_rng(0).normal(size=RATE), RATE, FPS)
    assert not faint.opening.any()


def test_a_click_opens_its_own_frame_most():
    for frame in (3, 10, 17):
        sound = np.zeros(RATE)
        sound[frame * 640 + 200 : frame * 640 + 440] = 0.5
        assert mouth_from_sound(sound, RATE, FPS).opening.argmax() == frame


def test_a_frame_hears_nothing_far_from_it():
    sound = speech(3).sound
    other = sound.copy()
    other[: 50 * 640 - 2400] = 0.0  # 150 ms before frame 50 and all that is earlier
    a, b = mouth_from_sound(sound, RATE, FPS), mouth_from_sound(other, RATE, FPS)
    for one, two in zip(a, b, strict=True):
        np.testing.assert_allclose(one[50:], two[50:], rtol=1e-6, atol=1e-6)


def test_formants_are_those_the_voice_was_made_with():
    errors, pairs = [], []
    for seed in range(6):
        said = speech(seed)
        mouth = mouth_from_sound(said.sound, RATE, FPS)
        middles, at = (np.arange(100) + 0.5) / FPS, np.arange(len(said.f0)) / CONTROL
        true = [np.interp(middles, at, said.formants[:, k]) for k in (0, 1)]
        sure = (np.interp(middles, at, said.voicing) > 0.5) & np.isfinite(mouth.f1)
        assert sure.sum() > 10
        for heard, track in zip((mouth.f1, mouth.f2), true, strict=True):
            errors.append(np.median(np.abs(heard / track - 1)[sure]))
        pairs.append(np.corrcoef(mouth.f2[sure], true[1][sure])[0, 1])
    assert max(errors) < 0.12 and min(pairs) > 0.85


def test_vowels_shape_the_lips():
    def sung(*formants):
        """A voice of 130 Hz, its harmonics as loud as resonators in series make them."""
        t, hertz = np.arange(RATE) / RATE, 130.0 * np.arange(1, 30)[:, None]
        sizes = 1 / hertz
        for f in (*formants, 2600, 3500):
            sizes = sizes / np.abs(1 - (hertz / f) ** 2 + 1j * hertz / f * 80 / f)
        tone = (sizes * np.sin(2 * np.pi * hertz * t)).sum(0)
        return mouth_from_sound(levelled(tone, RATE), RATE, FPS)

    ee, oo, ah = sung(300, 2300), sung(320, 750), sung(760, 1250)
    assert ee.width[5:-5].min() > ah.width[5:-5].max() > oo.width[5:-5].max()
    assert oo.rounding[5:-5].min() > 0.5 > ah.rounding[5:-5].max() == ee.rounding[5:-5].max() == 0


def test_other_rates_hear_the_same():
    sound = speech(2).sound
    a = mouth_from_sound(sound, RATE, FPS)
    b = mouth_from_sound(soxr.resample(sound, RATE, 44100), 44100, FPS)
    assert len(a.opening) == len(b.opening) == 100
    assert np.abs(a.opening - b.opening).max() < 0.03
    assert len(mouth_from_sound(sound, RATE, 30).opening) == 120


def test_levelling_makes_whispers_and_shouts_alike():
    sound = speech(1).sound
    loud, soft = levelled(0.9 * sound, RATE), levelled(0.03 * sound, RATE)
    np.testing.assert_allclose(loud, soft, atol=2e-3)
    assert active_level(soft, RATE) == pytest.approx(LEVEL, abs=0.5)
    assert not levelled(np.zeros(100, np.float32), RATE).any()
    assert active_level(np.zeros(0), RATE) == -np.inf


def test_loudness_is_that_of_a_sine():
    tone = 0.1 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)
    assert loudness_at(tone, np.array([0.5])) == pytest.approx(-20, abs=0.05)
