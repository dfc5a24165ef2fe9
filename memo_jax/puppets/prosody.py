"""Who speaks, how an emotion makes them speak, and what they say: syllables in time."""

import dataclasses
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Speaker:
    """A voice.

    Attributes:
      pitch: Hz, its middle.
      tract: formants over those of a grown man.
      tempo: syllables a second.
      breath: noise in the voice, 0 to 1.
      bright: dB that the voice falls less at 4 kHz.
    """

    pitch: float
    tract: float
    tempo: float
    breath: float
    bright: float


def speaker(seed: int) -> Speaker:
    """The voice of an identity's seed: low with a long tract or high with a short one."""
    rng = np.random.default_rng([seed, 0x501CE])
    height = rng.uniform()
    return Speaker(
        pitch=float(95 * 2 ** (1.25 * height + rng.normal(0, 0.08))),
        tract=float(0.96 + 0.2 * height + rng.normal(0, 0.02)),
        tempo=float(rng.uniform(3.6, 5.0)),
        breath=float(rng.uniform(0.03, 0.15)),
        bright=float(rng.uniform(-2, 3)),
    )


@dataclass(frozen=True)
class Prosody:
    """What an emotion makes of a voice, at full strength; 1 and 0 are at rest.

    Attributes:
      pitch: times the speaker's.
      range: of the melody.
      tempo: times the speaker's.
      energy: dB.
      breath: added.
      bright: dB added.
      ending: semitones that a phrase ends higher.
      tremor: of the pitch, semitones at 6 Hz.
      pause: how long pauses are.
    """

    pitch: float = 1.0
    range: float = 1.0
    tempo: float = 1.0
    energy: float = 0.0
    breath: float = 0.0
    bright: float = 0.0
    ending: float = 0.0
    tremor: float = 0.0
    pause: float = 1.0


PROSODY = {
    "angry": Prosody(1.18, 1.5, 1.12, 5.0, 0.0, 6.0, -2.0, 0.0, 0.6),
    "disgusted": Prosody(0.88, 0.8, 0.78, -1.0, 0.08, -1.0, -3.0, 0.0, 1.2),
    "fearful": Prosody(1.4, 1.0, 1.25, -2.0, 0.3, 0.0, 1.0, 0.8, 0.9),
    "happy": Prosody(1.25, 1.7, 1.12, 2.5, 0.02, 2.0, 2.0, 0.0, 0.8),
    "neutral": Prosody(),
    "other": Prosody(0.95, 0.45, 0.9, -1.0, 0.0, -1.0, 0.0, 0.0, 1.1),
    "sad": Prosody(0.88, 0.45, 0.72, -5.0, 0.25, -4.0, -1.5, 0.0, 1.5),
    "surprised": Prosody(1.45, 1.9, 1.0, 2.0, 0.05, 1.0, 7.0, 0.0, 1.0),
}


@dataclass(frozen=True)
class Phone:
    """A stretch of sound that the tract aims at.

    Attributes:
      formants: Hz of a grown man's four lowest.
      voice: amplitude of voicing.
      hiss: amplitude of noise made in the mouth.
      hiss_at: Hz about which it lies.
      hiss_width: Hz.
      seconds: how long, at 4.5 syllables a second.
      nasal: whether the nose damps it.
    """

    formants: tuple[float, float, float, float]
    voice: float
    hiss: float = 0.0
    hiss_at: float = 4000.0
    hiss_width: float = 2000.0
    seconds: float = 0.08
    nasal: bool = False


def _vowel(f1: float, f2: float, f3: float, seconds: float = 0.14) -> Phone:
    return Phone((f1, f2, f3, 3500.0), 1.0, seconds=seconds)


VOWELS = {
    "a": _vowel(760, 1250, 2500, 0.16),
    "e": _vowel(500, 1850, 2500),
    "i": _vowel(290, 2250, 2950, 0.12),
    "o": _vowel(480, 880, 2450),
    "u": _vowel(310, 780, 2300, 0.12),
    "ae": _vowel(680, 1700, 2450, 0.16),
    "er": _vowel(480, 1350, 1750),
    "uh": _vowel(580, 1200, 2450, 0.1),
}

_LIPS, _RIDGE, _PALATE = (260, 800, 2200, 3400), (260, 1750, 2650, 3500), (260, 2000, 2500, 3400)

CONSONANTS: dict[str, tuple[Phone, ...]] = {
    "": (),
    "m": (Phone((260, 950, 2200, 3300), 0.22, seconds=0.07, nasal=True),),
    "n": (Phone((270, 1600, 2500, 3400), 0.24, seconds=0.06, nasal=True),),
    "p": (Phone(_LIPS, 0.0, seconds=0.07), Phone(_LIPS, 0.0, 0.22, 1000, 1500, 0.02)),
    "b": (Phone(_LIPS, 0.08, seconds=0.06), Phone(_LIPS, 0.3, 0.1, 1000, 1500, 0.012)),
    "t": (Phone(_RIDGE, 0.0, seconds=0.06), Phone(_RIDGE, 0.0, 0.4, 4500, 2500, 0.025)),
    "d": (Phone(_RIDGE, 0.08, seconds=0.05), Phone(_RIDGE, 0.3, 0.15, 4000, 2500, 0.012)),
    "k": (Phone(_PALATE, 0.0, seconds=0.06), Phone(_PALATE, 0.0, 0.35, 2000, 1200, 0.03)),
    "g": (Phone(_PALATE, 0.08, seconds=0.05), Phone(_PALATE, 0.3, 0.12, 1900, 1200, 0.015)),
    "s": (Phone(_RIDGE, 0.0, 0.3, 6000, 1800, 0.1),),
    "sh": (Phone(_PALATE, 0.0, 0.32, 3200, 1500, 0.1),),
    "f": (Phone(_LIPS, 0.0, 0.1, 5500, 5000, 0.08),),
    "h": (Phone((500, 1500, 2500, 3500), 0.05, 0.12, 1700, 2500, 0.05),),
    "z": (Phone(_RIDGE, 0.25, 0.15, 6000, 2000, 0.07),),
    "v": (Phone(_LIPS, 0.3, 0.06, 4500, 5000, 0.06),),
    "l": (Phone((360, 1200, 2700, 3400), 0.5, seconds=0.06),),
    "r": (Phone((400, 1150, 1550, 3200), 0.5, seconds=0.06),),
    "w": (Phone((300, 650, 2200, 3300), 0.4, seconds=0.06),),
    "y": (Phone((280, 2200, 2900, 3500), 0.45, seconds=0.06),),
}
_STRESSES = np.array((1.0, 0.75, 0.9, 0.7))


@dataclass(frozen=True)
class Event:
    """A phone placed in time; `pitch` in semitones about the speaker's middle, at its start."""

    phone: Phone
    start: float
    end: float
    gain: float
    pitch: float


@dataclass(frozen=True)
class Script:
    """What is said: phones in order, and [start, end] seconds of each syllable."""

    events: tuple[Event, ...]
    syllables: tuple[tuple[float, float], ...]


def write(
    seconds: float, who: Speaker, how: Prosody, rng: np.random.Generator, strength: float = 1.0
) -> Script:
    """Phrases of syllables with pauses between them, that end before `seconds` do."""
    tempo = who.tempo / 4.5 * (1 + strength * (how.tempo - 1))
    reach = 1 + strength * (how.range - 1)
    events: list[Event] = []
    syllables: list[tuple[float, float]] = []
    vowels, consonants = list(VOWELS), list(CONSONANTS)
    at = rng.uniform(0.05, 0.5)
    while at < seconds - 0.5:
        count = int(rng.integers(3, 10))
        offset = int(rng.integers(4))
        for i in range(count):
            phones = [*CONSONANTS[str(rng.choice(consonants))], VOWELS[str(rng.choice(vowels))]]
            if rng.uniform() < 0.2:
                phones += CONSONANTS[str(rng.choice(("m", "n", "s", "l")))]
            stress = _STRESSES[(i + offset) % 4] * rng.uniform(0.85, 1.1)
            part = i / max(1, count - 1)
            melody = 2.5 - 4.0 * part + 3.0 * (stress - 0.8) / 0.2 * 0.6 + rng.normal(0, 0.7)
            melody = melody * reach + strength * how.ending * max(0.0, 3 * part - 2)
            stretch = (1.35 if i == count - 1 else 1.0) * rng.uniform(0.85, 1.2) / tempo
            length = sum(phone.seconds for phone in phones) * stretch
            if at + length > seconds - 0.1:
                return Script(tuple(events), tuple(syllables))
            syllables.append((at, at + length))
            for phone in phones:
                end = at + phone.seconds * stretch
                events.append(Event(_said(phone, rng), at, end, float(stress), float(melody)))
                at = end
        at += rng.uniform(0.18, 0.6) * (1 + strength * (how.pause - 1))
    return Script(tuple(events), tuple(syllables))


def _said(phone: Phone, rng: np.random.Generator) -> Phone:
    """A phone as it comes out this time: nobody meets a formant twice."""
    f1, f2, f3, f4 = np.array(phone.formants) * rng.uniform(0.94, 1.06, 4)
    return dataclasses.replace(phone, formants=(f1, f2, f3, f4))
