"""What lies under a voice: music or noise, at a chosen distance."""

import numpy as np
from jaxtyping import Float

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.puppets.listen import LEVEL, active_level, within

_SCALE = np.array((0, 2, 4, 7, 9, 12, 14, 16))


def music(n: int, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    """Chords that change with the bar, a melody, and a beat; power 1."""
    t = np.arange(n) / SAMPLE_RATE
    beat = 60.0 / rng.uniform(80, 140)
    root = 110.0 * 2 ** (rng.integers(12) / 12)
    out = np.zeros(n)
    for bar in range(int(np.ceil(n / SAMPLE_RATE / (4 * beat)))):
        chord = rng.choice((0, 5, 7, 9))
        for step in (0, 4 if chord in (0, 5, 7) else 3, 7):
            out += _note(t, root * 2 ** ((chord + step) / 12), bar * 4 * beat, 4 * beat, 0.4)
        for k in range(4):
            pitch = root * 4 * 2 ** (rng.choice(_SCALE) / 12)
            out += _note(t, pitch, (4 * bar + k) * beat, beat, 0.5)
            since = t - (4 * bar + k) * beat
            hit = np.where(since >= 0, np.exp(-np.clip(since, 0, None) / 0.03), 0.0)
            out += 0.4 * hit * np.sin(2 * np.pi * 70 * since)
    return _unit(out)


def noise(n: int, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    """White to brown noise that swells; power 1."""
    spectrum = np.fft.rfft(rng.normal(0, 1, n))
    hertz = np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 40.0)
    out = np.fft.irfft(spectrum * (hertz / 1000.0) ** -rng.uniform(0, 1.0), n)
    swell = 1 + 0.4 * np.sin(
        2 * np.pi * rng.uniform(0.1, 0.5) * np.arange(n) / SAMPLE_RATE + rng.uniform(0, 6)
    )
    return _unit(out * swell)


def mixed(
    speech: Float[np.ndarray, " n"], bed: Float[np.ndarray, " n"], snr: float
) -> Float[np.ndarray, " n"]:
    """Speech with a bed of power 1 that lies `snr` dB below the speech while it sounds, or below
    usual speech where there is none."""
    level = active_level(speech, SAMPLE_RATE)
    gain = np.sqrt(0.5 * 10 ** (((level if np.isfinite(level) else LEVEL) - snr) / 10))
    return within(np.asarray(speech, np.float64) + gain * bed).astype(np.float32)


def _note(t: np.ndarray, hertz: float, start: float, seconds: float, size: float) -> np.ndarray:
    since = t - start
    on = (since >= 0) & (since < seconds)
    out = np.zeros(len(t))
    s = since[on]
    decay = np.minimum(s / 0.01, 1) * np.exp(-2.5 * s / seconds)
    k = np.arange(1, 6)[:, None]
    tone = (np.sin(2 * np.pi * hertz * k * s) / k**1.6).sum(axis=0)
    out[on] = size * decay * tone
    return out


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(max(np.mean(x**2), 1e-12)) if len(x) else x
