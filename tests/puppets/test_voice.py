"""The voice says what its tracks say, and emotions can be heard in it."""

import numpy as np
import pytest

from memo_jax.puppets import beds
from memo_jax.puppets.emotion import SHOWN
from memo_jax.puppets.listen import active_level
from memo_jax.puppets.prosody import speaker
from memo_jax.puppets.voice import CONTROL, speak

RATE = 16000


def said(seed, emotion="neutral", seconds=4.0):
    return speak(seconds, speaker(seed), emotion, 1.0, np.random.default_rng(seed))


def test_a_seed_always_says_the_same_and_another_one_does_not():
    np.testing.assert_array_equal(said(1).sound, said(1).sound)
    assert np.corrcoef(said(1).sound, said(2).sound)[0, 1] < 0.5


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_pitch_is_the_tracks(seed):
    speech = said(seed)
    found, wanted = [], []
    for t in np.arange(0.1, 3.8, 0.02):
        at = round(t * CONTROL)
        if speech.voicing[at - 6 : at + 7].min() < 0.5:
            continue
        piece = speech.sound[round(t * RATE) - 400 : round(t * RATE) + 400].astype(np.float64)
        lags = np.correlate(piece, piece, "full")[800:]  # from a lag of 1
        shortest, longest = (round(RATE / (f * speech.f0[at])) for f in (1.3, 0.75))
        found.append(RATE / (shortest + 1 + lags[shortest:longest].argmax()))
        wanted.append(speech.f0[at])
    assert len(found) > 10
    assert np.median(np.abs(np.array(found) / wanted - 1)) < 0.03


def test_it_is_silent_between_its_syllables_and_sounds_within():
    speech = said(5)
    seconds = np.arange(len(speech.sound)) / RATE
    inside = np.zeros(len(seconds), bool)
    near = np.zeros(len(seconds), bool)
    for start, end in speech.syllables:
        inside |= (seconds > start) & (seconds < end)
        near |= (seconds > start - 0.06) & (seconds < end + 0.06)
    assert len(speech.syllables) > 5
    assert np.abs(speech.sound[~near]).max() < 0.01 * np.abs(speech.sound[inside]).max()
    for start, end in speech.syllables:
        within = speech.loudness[round(start * CONTROL) : round(end * CONTROL)]
        assert within.max() > -32


def test_emotions_are_heard():
    """Loudness and pitch of the same people, in the order one expects."""
    many = {e: [said(seed, e, 3.0) for seed in range(5)] for e in SHOWN}
    loud = {e: np.mean([active_level(s.sound, RATE) for s in many[e]]) for e in SHOWN}
    pitch = {e: np.mean([s.f0[s.voicing > 0.3].mean() for s in many[e]]) for e in SHOWN}
    moves = {e: np.mean([np.log2(s.f0[s.voicing > 0.3]).std() for s in many[e]]) for e in SHOWN}
    pace = {e: np.mean([_pace(s) for s in many[e]]) for e in SHOWN}
    assert loud["angry"] > loud["neutral"] + 3 > loud["sad"] + 6
    assert pitch["surprised"] > pitch["happy"] > pitch["neutral"] > pitch["sad"]
    assert moves["surprised"] > moves["neutral"] > moves["sad"]
    assert pace["fearful"] > pace["neutral"] > pace["sad"]


def _pace(speech):
    lengths = [end - start for start, end in speech.syllables]
    return 1 / np.mean(lengths)


def test_voices_differ_from_person_to_person():
    people = [speaker(seed) for seed in range(60)]
    assert min(p.pitch for p in people) < 115 and max(p.pitch for p in people) > 200
    assert np.corrcoef([p.pitch for p in people], [p.tract for p in people])[0, 1] > 0.7


def test_nothing_is_clipped():
    for emotion in SHOWN:
        sound = said(3, emotion).sound
        assert sound.dtype == np.float32 and np.abs(sound).max() < 1
        assert len(sound) == 4 * RATE


@pytest.mark.parametrize("bed", [beds.music, beds.noise])
@pytest.mark.parametrize("snr", [5.0, 20.0])
def test_a_bed_lies_as_far_below_as_asked(bed, snr):
    speech = said(2).sound
    rng = np.random.default_rng(0)
    under = beds.mixed(speech, bed(len(speech), rng), snr) - speech
    rms = 10 * np.log10(2 * np.mean(under.astype(np.float64) ** 2))
    assert active_level(speech, RATE) - rms == pytest.approx(snr, abs=0.5)
