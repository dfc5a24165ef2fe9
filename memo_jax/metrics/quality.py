"""How a video holds up over its length, second by second, without any network.

All values are of frames squeezed to 256 x 256 or, where places do not matter, of their thumbnails.
"""

import itertools

import cv2
import numpy as np
from jaxtyping import Float

from memo_jax.metrics.meters import Arrays
from memo_jax.metrics.videos import Chunk
from memo_jax.prepare.media import Sound

SIDE = 256
THUMBNAIL = 32
GRID = 8
STILL = 0.02
"""A frame that differs from the one before by less than this many of 255 levels, on average over a
thumbnail, shows the same picture again: codecs repeat a picture to the bit or nearly."""

NAMES = ("sharpness", "colour", "flicker", "motion", "frozen")


class Quality:
    """`frames` float32 [n, 5]: of each frame, in the order of `NAMES`.

    sharpness: variance of the Laplacian of the grey picture.
    colour: how far the colours of an 8 x 8 grid are, in CIELAB, from those of the first second.
    flicker: mean of |2 now - before - after| / 2 over a grey thumbnail, of 255 levels.
    motion: mean of |now - before|, alike.
    frozen: 1 where the picture is the one before.
    """

    name = "quality"
    key = "quality 1"
    hears = False

    def start(self, sound: Sound | None, fps: float) -> "_Quality":
        return _Quality(fps)


class _Quality:
    def __init__(self, fps: float):
        self._fps = fps
        self._sharpness: list[float] = []
        self._grids: list[Float[np.ndarray, "g g 3"]] = []
        self._thumbnails: list[Float[np.ndarray, "t t"]] = []

    def add(self, chunk: Chunk) -> None:
        for frame in chunk.frames:
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            self._sharpness.append(float(cv2.Laplacian(small, cv2.CV_64F).var()))
            shape = (THUMBNAIL, THUMBNAIL)
            # Not of whole numbers, which hide what changes by less than a level.
            precise = grey.astype(np.float32)
            self._thumbnails.append(cv2.resize(precise, shape, interpolation=cv2.INTER_AREA))
            grid = cv2.resize(frame, (GRID, GRID), interpolation=cv2.INTER_AREA)
            lab = cv2.cvtColor(grid.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
            self._grids.append(lab)

    def finish(self) -> Arrays:
        grids, shown = np.stack(self._grids), np.stack(self._thumbnails)
        start = grids[: max(1, round(self._fps))].mean(axis=0)
        colour = np.linalg.norm(grids - start, axis=-1).mean(axis=(1, 2))
        n = len(shown)
        motion, flicker = np.zeros(n), np.zeros(n)
        if n > 1:
            motion[1:] = np.abs(np.diff(shown, axis=0)).mean(axis=(1, 2))
        if n > 2:
            flicker[1:-1] = np.abs(np.diff(shown, n=2, axis=0)).mean(axis=(1, 2)) / 2
        frozen = np.where(np.arange(n) > 0, motion < STILL, False)
        columns = (np.array(self._sharpness), colour, flicker, motion, frozen)
        return {"frames": np.stack(columns, axis=1).astype(np.float32)}


def by_second(values: Float[np.ndarray, "n k"], fps: float) -> Float[np.ndarray, "seconds k"]:
    """Means of whole seconds; of all there is in a video shorter than one."""
    seconds = max(1, int(len(values) / fps + 1e-6))
    ends = np.minimum(np.rint(np.arange(seconds + 1) * fps).astype(int), len(values))
    if seconds == 1:
        ends[1] = max(ends[1], 1)
    return np.stack([values[a:b].mean(axis=0) for a, b in itertools.pairwise(ends)])
