"""espeak-ng's speech, where it is installed; elsewhere one line says so."""

import shutil

import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.puppets import espeak
from memo_jax.puppets.clips import PuppetSet, records
from memo_jax.puppets.listen import CLOSED, LEVEL, OPEN, active_level, mouth_from_sound
from memo_jax.puppets.prosody import speaker

installed = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"
)


def test_its_absence_is_told_in_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"espeak-ng is not installed; install it") as error:
        espeak.say("Hello.", "en", speaker(0), "neutral")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is not installed"):  # before the first clip is asked for
        records(PuppetSet(1, speech="espeak"))


@installed
@pytest.mark.parametrize("language", ["en", "de", "fr", "es"])
def test_the_mouth_follows_it(language):
    sound = espeak.talk(4.0, language, speaker(1), "neutral", 1.0, np.random.default_rng(0))
    assert len(sound) == 64000 and np.abs(sound).max() < 1
    assert active_level(sound, 16000) == pytest.approx(LEVEL, abs=1.5)
    mouth = mouth_from_sound(sound, 16000, 25)
    power = (sound.reshape(100, -1).astype(np.float64) ** 2).mean(1)
    decibels = np.clip(10 * np.log10(2 * power + 1e-10), CLOSED, OPEN)
    assert np.corrcoef(mouth.opening, decibels)[0, 1] > 0.9
    assert mouth.opening.max() > 0.7 and mouth.opening.min() == 0
    assert np.ptp(mouth.width) > 0.3


@installed
def test_emotions_change_it():
    def spoken(emotion):
        return espeak.say(espeak.SENTENCES["en"][0], "en", speaker(1), emotion)

    assert active_level(spoken("angry"), 16000) > active_level(spoken("sad"), 16000) + 6
    assert len(spoken("sad")) > 1.2 * len(spoken("angry"))
    np.testing.assert_array_equal(spoken("happy"), spoken("happy"))


@installed
def test_a_language_it_does_not_know_is_refused():
    with pytest.raises(UserError, match="refuses language 'xx-none'"):
        espeak.say("Hello.", "xx-none", speaker(0), "neutral")
    with pytest.raises(UserError, match="no sentences in 'it'; expected one of en, de, fr, es"):
        espeak.talk(1.0, "it", speaker(0), "neutral", 1.0, np.random.default_rng(0))
