"""A speech-like voice: pulses and noise through a moving tract, by seed, with its tracks known."""

from dataclasses import dataclass

import numpy as np
import soxr
from jaxtyping import Float

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.puppets.listen import LEVEL, loudness_at, within
from memo_jax.puppets.prosody import PROSODY, Prosody, Script, Speaker, write

CONTROL = 200
"""Track values a second."""

_HOP = SAMPLE_RATE // CONTROL
_FFT = 1024
_BINS = np.arange(_FFT // 2 + 1) * (SAMPLE_RATE / _FFT)
_BANDWIDTHS = np.array((70.0, 90.0, 130.0, 200.0))
_OVER = 4  # the pulses are made at this many times the rate, so that they do not alias


@dataclass(frozen=True, eq=False)
class Speech:
    """Speech and its tracks, `CONTROL` values a second, the first at time 0.

    Attributes:
      sound: at 16 kHz, in [-1, 1].
      f0: Hz, as the voice would have it also where it is silent.
      formants: Hz, four.
      voicing: amplitude of the voice, 0 to about 1.
      syllables: start and end of each, seconds.
    """

    sound: Float[np.ndarray, " n"]
    f0: Float[np.ndarray, " t"]
    formants: Float[np.ndarray, "t 4"]
    voicing: Float[np.ndarray, " t"]
    syllables: tuple[tuple[float, float], ...]

    @property
    def loudness(self) -> Float[np.ndarray, " t"]:
        """dB of full scale at every track value."""
        return loudness_at(self.sound, np.arange(len(self.f0)) / CONTROL)


def speak(
    seconds: float, who: Speaker, emotion: str, strength: float, rng: np.random.Generator
) -> Speech:
    """Syllables of no language, spoken with an emotion of strength 0 to 1.

    Level follows the emotion: an angry voice is some 10 dB louder than a sad one.
    """
    how = PROSODY[emotion]
    script = write(seconds, who, how, rng, strength)
    n = round(seconds * SAMPLE_RATE)
    tracks = _tracks(script, n // _HOP + 2, who, how, strength, rng)
    sound = _sound(tracks, n, who, how, strength, rng)
    gain = LEVEL + rng.uniform(-2.0, 2.0) + strength * how.energy
    return Speech(
        sound=_at_level(sound, tracks.voicing, gain),
        f0=tracks.f0,
        formants=tracks.formants,
        voicing=tracks.voicing,
        syllables=script.syllables,
    )


@dataclass(frozen=True, eq=False)
class _Tracks:
    f0: np.ndarray
    formants: np.ndarray
    voicing: np.ndarray
    hiss: np.ndarray
    hiss_at: np.ndarray
    hiss_width: np.ndarray
    nasal: np.ndarray


def _tracks(
    script: Script,
    n: int,
    who: Speaker,
    how: Prosody,
    strength: float,
    rng: np.random.Generator,
) -> _Tracks:
    """Steps from phone to phone, smoothed as far as a tongue, lips and a glottis are slow."""
    rest = (500.0, 1500.0, 2500.0, 3500.0)
    formants = np.tile(np.array(rest), (n, 1))
    voicing, hiss, nasal = np.zeros(n), np.zeros(n), np.zeros(n)
    hiss_at, hiss_width = np.full(n, 4000.0), np.full(n, 2000.0)
    pitch = np.zeros(n)
    done = 0
    for event in script.events:
        a, b = round(event.start * CONTROL), max(round(event.end * CONTROL), 1)
        # The tongue moves on to the next phone while nothing sounds, and the melody with it.
        formants[done:b], pitch[done:b] = event.phone.formants, event.pitch
        voicing[a:b] = event.phone.voice * event.gain
        hiss[a:b] = event.phone.hiss * event.gain
        hiss_at[a:b], hiss_width[a:b] = event.phone.hiss_at, event.phone.hiss_width
        nasal[a:b] = event.phone.nasal
        done = b
    formants[done:], pitch[done:] = formants[max(done - 1, 0)], pitch[max(done - 1, 0)]
    formants = np.stack([_smooth(f, 0.06) for f in formants.T], axis=1)
    times = np.arange(n) / CONTROL
    tremor = strength * how.tremor * np.sin(2 * np.pi * 6.0 * times + rng.uniform(0, 6))
    drift = _smooth(rng.normal(0, 1.5, n), 0.05)  # no voice holds a pitch
    semitones = _smooth(pitch, 0.14) + tremor + drift
    middle = who.pitch * (1 + strength * (how.pitch - 1))
    return _Tracks(
        f0=np.clip(middle * 2 ** (semitones / 12), 55, 600),
        formants=formants * who.tract,
        voicing=_smooth(voicing, 0.035),
        hiss=_smooth(hiss, 0.015),
        hiss_at=hiss_at,
        hiss_width=hiss_width,
        nasal=_smooth(nasal, 0.03),
    )


def _sound(
    tracks: _Tracks,
    n: int,
    who: Speaker,
    how: Prosody,
    strength: float,
    rng: np.random.Generator,
) -> np.ndarray:
    breath = who.breath + strength * how.breath
    bright = who.bright + strength * how.bright
    pulses = _pulses(tracks.f0, n, rng)
    at = np.arange(n) / _HOP
    points = np.arange(len(tracks.f0))
    voicing = np.interp(at, points, tracks.voicing)
    glottis = voicing * ((1 - 0.5 * breath) * pulses + 0.5 * breath * rng.normal(0, 1, n))
    tract = _tract(tracks.formants, tracks.nasal, bright)
    noise = rng.normal(0, 1, n) * np.interp(at, points, tracks.hiss)
    hiss = np.exp(
        -0.5 * ((_BINS - tracks.hiss_at[:, None]) / (0.6 * tracks.hiss_width[:, None])) ** 2
    )
    return _filtered(glottis, tract) + _filtered(noise, hiss)


def _pulses(f0: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """The glottis' flow, differentiated: rising, falling, and shut; power about 1."""
    m = n * _OVER
    hertz = np.interp(np.arange(m) / (_HOP * _OVER), np.arange(len(f0)), f0)
    phase = np.cumsum(hertz) / (SAMPLE_RATE * _OVER)
    cycle = phase.astype(np.int64)
    loud = 1 + 0.06 * rng.normal(0, 1, cycle[-1] + 2 if m else 1)
    late = 0.012 * rng.normal(0, 1, len(loud))
    # Each cycle a little longer or shorter, and its end where the next one starts.
    t = phase - cycle
    t = np.clip(t * (1 + late[cycle]), 0, 1)
    opening, closing = 0.4, 0.16
    rise = 0.5 * np.pi / opening * np.sin(np.pi * t / opening)
    fall = -0.5 * np.pi / closing * np.sin(0.5 * np.pi * (t - opening) / closing)
    flow = np.where(t < opening, rise, np.where(t < opening + closing, fall, 0.0))
    return soxr.resample(flow * loud[cycle], SAMPLE_RATE * _OVER, SAMPLE_RATE)[:n] / 3.0


def _tract(formants: np.ndarray, nasal: np.ndarray, bright: float) -> np.ndarray:
    """Frequency response [t, bins] of resonators in series."""
    damped = nasal[:, None].astype(np.float32)
    hertz = _BINS.astype(np.float32)
    response = np.ones((len(formants), len(_BINS)), np.complex64)
    for k in range(4):
        f = formants[:, k : k + 1].astype(np.float32)
        half = np.float32(0.5 * _BANDWIDTHS[k]) * (1 + np.float32(1.5 * (k > 0)) * damped)
        # (half^2 + f^2) / ((half + i hertz)^2 + f^2): a pair of poles, 1 at 0 Hz.
        below = np.empty(response.shape, np.complex64)
        below.real = half**2 + f**2 - hertz**2
        below.imag = 2 * half * hertz
        response *= (half**2 + f**2) / below
    # What higher formants, left out here, would add.
    lift = np.minimum((_BINS / (4000.0 * formants[:, 3:] / 3500.0)) ** 2, 4.0)
    return response * (1 + lift) * 10 ** (bright * np.minimum(_BINS / 4000.0, 1.5) / 20)


def _filtered(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    """x through a filter that changes with time, pieces overlapping by half."""
    frames = len(x) // _HOP + 1
    window = np.hanning(2 * _HOP + 1)[:-1]
    padded = np.pad(x, (_HOP, 2 * _HOP))
    at = np.arange(frames)[:, None] * _HOP + np.arange(2 * _HOP)[None]
    pieces = np.fft.irfft(np.fft.rfft(padded[at] * window, _FFT) * response[:frames], _FFT)
    out = np.zeros((frames + _FFT // _HOP + 2) * _HOP)
    # Pieces that do not overlap are added at once.
    for k in range(-(-_FFT // _HOP)):
        block = np.zeros((frames, _HOP))
        part = pieces[:, k * _HOP : (k + 1) * _HOP]
        block[:, : part.shape[1]] = part
        out[k * _HOP : (k + frames) * _HOP] += block.ravel()
    return out[_HOP : _HOP + len(x)]


def _at_level(x: np.ndarray, voicing: np.ndarray, level: float) -> np.ndarray:
    """x with `level` dB of full scale where the voice sounds."""
    loud = np.interp(np.arange(len(x)) / _HOP, np.arange(len(voicing)), voicing) > 0.25
    if not loud.any():
        return np.zeros(len(x), np.float32)
    power = np.mean(x[loud] ** 2)
    return within(x * np.sqrt(0.5 * 10 ** (level / 10) / power)).astype(np.float32)


def _smooth(x: np.ndarray, seconds: float) -> np.ndarray:
    """x smoothed by a Hann window that long; the ends go on."""
    half = max(1, round(seconds * CONTROL / 2))
    kernel = np.hanning(2 * half + 3)[1:-1]
    return np.convolve(np.pad(x, half, mode="edge"), kernel / kernel.sum(), "valid")
