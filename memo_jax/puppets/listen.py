"""The mouth that belongs to a sound: one function for drawn, espeak's and real recordings.

A frame's mouth follows from the sound around that frame alone, and from its absolute loudness, as
the model's own features do (`memo_jax.audio.logmel`): so a recording of unknown loudness goes
through `levelled` first.
"""

from typing import NamedTuple

import numpy as np
import soxr
from jaxtyping import Float

from memo_jax.audio.timing import SAMPLE_RATE

LEVEL = -21.0
"""dB of full scale of speech while it sounds: what `levelled` makes."""

CLOSED, OPEN = -42.0, -12.0
"""dB of full scale at and below which the mouth is closed, and from which it is wide open."""

_WINDOW = 0.064  # seconds of Hann for loudness; its half power is as long as a frame at 25 fps
_LPC_RATE = 8000
_LPC_ORDER = 10
_LPC_WINDOW = 0.032


class Mouth(NamedTuple):
    """For each frame: `opening`, `width`, `rounding` as in `Truth`; `loudness` in dB of full scale;
    `f1` and `f2` in Hz, NaN where nothing sounds."""

    opening: Float[np.ndarray, " n"]
    width: Float[np.ndarray, " n"]
    rounding: Float[np.ndarray, " n"]
    loudness: Float[np.ndarray, " n"]
    f1: Float[np.ndarray, " n"]
    f2: Float[np.ndarray, " n"]


def mouth_from_sound(
    sound: Float[np.ndarray, " samples"], rate: int, fps: float, frames: int | None = None
) -> Mouth:
    """The mouth at the middle of every frame.

    Args:
      sound: speech without music or noise, mono in [-1, 1], at its level (`levelled`).
      rate: Hz.
      fps: frames per second.
      frames: how many; by default as many as the sound lasts for, a last one begun counting.
    """
    x = np.asarray(sound, np.float64)
    if rate != SAMPLE_RATE:
        x = soxr.resample(x, rate, SAMPLE_RATE)
    if frames is None:
        frames = int(np.ceil(round(len(x) / SAMPLE_RATE * fps, 6)))
    middles = (np.arange(frames) + 0.5) / fps
    loudness = loudness_at(x, middles)
    opening = np.clip((loudness - CLOSED) / (OPEN - CLOSED), 0.0, 1.0)
    # Formants a few times in every frame, the loudest counting most.
    parts = 4
    times = (middles[:, None] + (np.arange(parts) + 0.5 - parts / 2)[None] / parts / fps).ravel()
    f1, f2, power = formants_at(x, times)
    weight = np.maximum(power, 1e-12) * (f2 > 0)
    f1, f2 = (_gathered(f, weight, parts) for f in (f1, f2))
    heard = (loudness > CLOSED) & np.isfinite(f1)
    f1, f2 = (np.where(heard, f, np.nan) for f in (f1, f2))
    sure = np.where(heard, np.clip((loudness - CLOSED) / 10.0, 0.0, 1.0), 0.0)
    low, high = np.nan_to_num(f1, nan=500.0), np.nan_to_num(f2, nan=1500.0)
    width = 0.5 + sure * (np.clip((high - 700.0) / 1700.0, 0.0, 1.0) - 0.5)
    rounding = (
        sure * np.clip((1400.0 - high) / 700.0, 0.0, 1.0) * np.clip((680.0 - low) / 180.0, 0.0, 1.0)
    )
    return Mouth(opening, width, rounding, loudness, f1, f2)


def loudness_at(x: Float[np.ndarray, " n"], times: np.ndarray) -> np.ndarray:
    """dB of full scale (of a sine's power) about each time, at 16 kHz; -100 for silence."""
    half = round(_WINDOW * SAMPLE_RATE / 2)
    window = np.hanning(2 * half + 1)
    power = _around(x, times, half) ** 2 @ (window / window.sum())
    return 10.0 * np.log10(np.maximum(2.0 * power, 1e-10))


def levelled(sound: Float[np.ndarray, " samples"], rate: int) -> Float[np.ndarray, " samples"]:
    """The sound at the level that `mouth_from_sound` expects; peaks stay within [-1, 1].

    Silence stays silence.
    """
    level = active_level(sound, rate)
    gain = 10 ** ((LEVEL - level) / 20) if np.isfinite(level) else 1.0
    return within(np.asarray(sound, np.float64) * gain).astype(np.float32)


def active_level(sound: Float[np.ndarray, " samples"], rate: int) -> float:
    """dB of full scale (of a sine's power) while it sounds; minus infinity for silence.

    What is louder than 25 dB below the loudest tenth counts as sounding.
    """
    block = max(1, round(0.02 * rate))
    x = np.asarray(sound, np.float64)[: len(sound) // block * block]
    power = (x.reshape(-1, block) ** 2).mean(axis=1)
    heard = power[power > 1e-9]
    if not heard.size:
        return -np.inf
    active = heard[heard > np.quantile(heard, 0.9) * 10**-2.5]
    return float(10 * np.log10(2 * active.mean()))


def within(x: np.ndarray) -> np.ndarray:
    """Samples with peaks over 0.8 bent softly to stay below 1."""
    over = np.abs(x) > 0.8
    return np.where(over, np.sign(x) * (0.8 + 0.2 * np.tanh((np.abs(x) - 0.8) / 0.2)), x)


def formants_at(
    x: Float[np.ndarray, " n"], times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and second formant in Hz and the power of the sound below 4 kHz, by linear prediction.

    Formants are 0 where the sound has none.
    """
    if not len(x) or not len(times):
        return np.zeros(len(times)), np.zeros(len(times)), np.zeros(len(times))
    low = soxr.resample(x, SAMPLE_RATE, _LPC_RATE)
    half = round(_LPC_WINDOW * _LPC_RATE / 2)
    power = (_around(low, times, half, _LPC_RATE) ** 2).mean(axis=1)
    rising = np.append(low[:1], low[1:] - 0.95 * low[:-1])
    pieces = _around(rising, times, half, _LPC_RATE) * np.hamming(2 * half + 1)
    found = np.zeros((2, len(times)))
    loud = power > 1e-8
    if loud.any():
        found[:, loud] = _lpc_formants(pieces[loud])
    return found[0], found[1], power


def _lpc_formants(pieces: np.ndarray) -> np.ndarray:
    """[2, n] of windowed pieces [n, samples]."""
    spectrum = np.abs(np.fft.rfft(pieces, 1024)) ** 2
    r = np.fft.irfft(spectrum)[:, : _LPC_ORDER + 1]
    r[:, 0] *= 1.0 + 1e-4
    lag = np.abs(np.subtract.outer(np.arange(_LPC_ORDER), np.arange(_LPC_ORDER)))
    a = np.linalg.solve(r[:, lag], r[:, 1:, None])[..., 0]
    companion = np.zeros((len(pieces), _LPC_ORDER, _LPC_ORDER))
    companion[:, 0] = a
    companion[:, np.arange(1, _LPC_ORDER), np.arange(_LPC_ORDER - 1)] = 1.0
    roots = np.linalg.eigvals(companion)
    hertz = np.angle(roots) * _LPC_RATE / (2 * np.pi)
    bandwidth = -np.log(np.maximum(np.abs(roots), 1e-6)) * _LPC_RATE / np.pi
    hertz = np.where((hertz > 180) & (hertz < 3600) & (bandwidth < 600), hertz, np.inf)
    first = np.sort(hertz, axis=1)[:, :2].T
    return np.where(np.isfinite(first).all(axis=0), first, 0.0)


def _around(
    x: np.ndarray, times: np.ndarray, half: int, rate: int = SAMPLE_RATE
) -> Float[np.ndarray, "t w"]:
    """Pieces about each time; beyond its ends the sound is silent."""
    padded = np.pad(x, half + 1)
    first = np.rint(np.asarray(times) * rate).astype(np.int64) + 1
    at = np.clip(first[:, None] + np.arange(2 * half + 1), 0, len(padded) - 1)
    return padded[at]


def _gathered(values: np.ndarray, weight: np.ndarray, parts: int) -> np.ndarray:
    """The weighted mean about each frame, two frames to both sides; NaN where nothing weighs."""
    kernel = np.hanning(4 * parts + 1)
    total = np.convolve(weight, kernel, "same")[parts // 2 :: parts]
    sums = np.convolve(weight * values, kernel, "same")[parts // 2 :: parts]
    return np.where(total > 1e-9, sums / np.maximum(total, 1e-12), np.nan)
