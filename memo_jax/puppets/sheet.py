"""Pictures to look at: who there is, what they show, and how a clip goes with its sound."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.puppets.clips import Take
from memo_jax.puppets.emotion import SHOWN
from memo_jax.puppets.still import still
from memo_jax.puppets.world import render

MOUTHS: tuple[dict[str, float], ...] = (
    {"opening": 0.3},
    {"opening": 0.6, "width": 0.9},
    {"opening": 1.0},
    {"opening": 0.5, "rounding": 1.0, "width": 0.2},
    {"blink": 1.0},
)
"""Open a little, spread, wide open, round; and closed eyes."""

COLUMNS = len(SHOWN) + len(MOUTHS)


def contact_sheet(seeds: Sequence[int], size: int) -> UInt8[np.ndarray, "H W 3"]:
    """A row for each person: the eight emotions, then the mouths of `MOUTHS`."""
    rows = []
    for seed in seeds:
        truths = [still(seed, emotion) for emotion in SHOWN]
        truths += [still(seed, values=values) for values in MOUTHS]
        rows.append(np.concatenate([render(truth, size)[0] for truth in truths], axis=1))
    return np.concatenate(rows)


def crowd(seeds: Sequence[int], size: int, columns: int) -> UInt8[np.ndarray, "H W 3"]:
    """Neutral portraits, row by row; what is left of the last row is white."""
    rows = -(-len(seeds) // columns)
    sheet = np.full((rows, columns, size, size, 3), 255, np.uint8)
    for i, seed in enumerate(seeds):
        sheet[i // columns, i % columns] = render(still(seed), size)[0]
    return sheet.swapaxes(1, 2).reshape(rows * size, columns * size, 3)


def strip(take: Take, size: int, columns: int = COLUMNS) -> UInt8[np.ndarray, "H W 3"]:
    """Frames of a clip from its start to its end over its spectrogram, with the opening in red and
    the rounding in blue."""
    n = len(take.truth)
    shown = ((np.arange(columns) + 0.5) * n / columns).astype(int)
    frames = render(take.truth, size)[shown]
    width = columns * size
    heard = spectrogram(take.sound, SAMPLE_RATE, 2 * size, width)
    x = (np.arange(n) + 0.5) / n * width
    for track, colour in (
        (take.truth.rounding, (60, 90, 220)),
        (take.truth.opening, (220, 30, 30)),
    ):
        points = np.stack([x, 2 * size - 2 - (2 * size - 4) * track], axis=1)
        cv2.polylines(heard, [np.rint(points).astype(np.int32)], False, colour, 1, cv2.LINE_AA)
    return np.concatenate([np.concatenate(list(frames), axis=1), heard])


def spectrogram(
    sound: Float[np.ndarray, " n"], rate: int, height: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Power over time and frequency up to 8 kHz, low frequencies below, black for loud."""
    window = 256
    middles = (np.arange(width) + 0.5) / width * len(sound)
    at = middles.astype(int)[:, None] + np.arange(window)
    pieces = np.pad(sound, window // 2)[np.minimum(at, len(sound) + window - 1)]
    decibels = 20 * np.log10(np.abs(np.fft.rfft(pieces * np.hanning(window), 512)) + 1e-3)
    shown = decibels[:, : 1 + round(512 * min(8000, rate / 2) / rate)].T[::-1]
    grey = 255 - np.clip((shown + 55) * 4, 0, 255)
    return np.repeat(cv2.resize(grey.astype(np.uint8), (width, height))[..., None], 3, axis=2)
