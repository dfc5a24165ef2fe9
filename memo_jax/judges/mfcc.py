"""Mel-frequency cepstra as SyncNet was trained on them: python_speech_features' defaults.

25 ms windows every 10 ms without a taper, 26 triangles over whole FFT bins, 13 coefficients of
which the first is the window's log energy, the others liftered by 22.
"""

import functools
import math

import numpy as np
from jaxtyping import Float

from memo_jax.audio.timing import SAMPLE_RATE

WINDOW = 400
HOP = 160
FFT = 512
BANDS = 26
COEFFICIENTS = 13
EMPHASIS = 0.97
LIFTER = 22
FULL_SCALE = 32768  # the published sound is 16-bit, and its energy is that of whole numbers
WINDOWS_AT_ONCE = 4096


def mfcc(samples: Float[np.ndarray, "n"]) -> Float[np.ndarray, "t 13"]:
    """One row every 10 ms of a recording at 16 kHz in [-1, 1], float32; a last window that the
    end cuts is filled with silence."""
    x = np.rint(np.clip(np.asarray(samples, np.float64) * FULL_SCALE, -FULL_SCALE, FULL_SCALE - 1))
    x[1:] -= EMPHASIS * x[:-1]
    rows = 1 + max(0, math.ceil((len(x) - WINDOW) / HOP))
    x = np.pad(x, (0, (rows - 1) * HOP + WINDOW - len(x)))
    windows = np.lib.stride_tricks.sliding_window_view(x, WINDOW)[::HOP]
    out = np.empty((rows, COEFFICIENTS), np.float32)
    for start in range(0, rows, WINDOWS_AT_ONCE):
        part = slice(start, start + WINDOWS_AT_ONCE)
        out[part] = _cepstra(windows[part])
    return out


def _cepstra(windows: Float[np.ndarray, "t n"]) -> Float[np.ndarray, "t 13"]:
    power = np.abs(np.fft.rfft(windows, FFT)) ** 2 / FFT
    cepstra = _log(power @ _bands()) @ _cosines()
    cepstra[:, 0] = _log(power.sum(axis=1))
    return cepstra


def _log(x: np.ndarray) -> np.ndarray:
    """The logarithm, silence being float64's smallest step."""
    return np.log(np.where(x == 0, np.finfo(np.float64).eps, x))


@functools.cache
def _bands() -> Float[np.ndarray, "bins bands"]:
    """Triangles between FFT bins that are evenly spaced in mel but for rounding down."""
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    corners = np.floor((FFT + 1) * hertz / SAMPLE_RATE)
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    bins = np.arange(FFT // 2 + 1)[:, None]
    rise = (bins - low) / (middle - low)
    fall = (high - bins) / (high - middle)
    return np.maximum(0, np.where(bins < middle, rise, fall))


@functools.cache
def _cosines() -> Float[np.ndarray, "bands k"]:
    """The orthonormal cosine transform (II) and the lifter after it."""
    k = np.arange(COEFFICIENTS)
    angles = np.pi / BANDS * (np.arange(BANDS)[:, None] + 0.5) * k
    length = np.where(k == 0, math.sqrt(1 / BANDS), math.sqrt(2 / BANDS))
    return np.cos(angles) * length * (1 + LIFTER / 2 * np.sin(np.pi * k / LIFTER))
