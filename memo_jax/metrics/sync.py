"""Lips against sound: SyncNet's Sync-C, Sync-D and offset, and a measure that needs no weights."""

import numpy as np
from jaxtyping import UInt8

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.judges.syncnet import FPS, FRAMES, SAMPLES_A_FRAME, SyncNet, search
from memo_jax.metrics.meters import Arrays
from memo_jax.metrics.videos import Chunk
from memo_jax.prepare.media import Sound
from memo_jax.prepare.sync import REACH, fit, mouth, syncnet_crop

SEGMENT = 250  # crops judged at once: they are what a video needs most memory for
LONGEST = 600  # seconds of a video that are judged

# Why a video has no figure, as numbers, since arrays are what is kept.
REASONS = ("", "no sound", "no face", "shorter than a quarter of a second")


class SyncMeter:
    """`sync` float64 [4]: offset in frames at 25 fps (above 0: the picture is late), Sync-C,
    Sync-D, and 0 or why there are none (`REASONS`).

    Crops are SyncNet's own (`prepare.sync.syncnet_crop`) around faces found every fifth of a
    second. Frames before the first face is found are taken for it; videos of other rates are
    brought to 25 fps by showing at each time the last frame.
    """

    name = "sync"
    hears = True

    def __init__(self, judge: SyncNet, weights: str):
        """`weights` is the hash of the file that the judge is from."""
        self._judge = judge
        self.key = f"syncnet {weights}"

    def start(self, sound: Sound | None, fps: float) -> "_Sync":
        return _Sync(self._judge, sound, fps)


class _Sync:
    def __init__(self, judge: SyncNet, sound: Sound | None, fps: float):
        self._judge, self._sound, self._fps = judge, sound, fps
        self._crops: list[UInt8[np.ndarray, "224 224 3"]] = []
        self._first: int | None = None  # tick of the first crop held
        self._lips: list[np.ndarray] = []
        self._heard: list[np.ndarray] = []

    def add(self, chunk: Chunk) -> None:
        if self._sound is None or chunk.boxes is None:
            return
        for i, (frame, box) in enumerate(zip(chunk.frames, chunk.boxes, strict=True)):
            crop = None
            for tick in self._ticks(chunk.first + i):
                if tick >= LONGEST * FPS:
                    return
                self._first = tick if self._first is None else self._first
                crop = syncnet_crop(frame, list(box)) if crop is None else crop
                self._crops.append(crop)
                if len(self._crops) == SEGMENT:
                    self._judged()

    def _ticks(self, frame: int) -> range:
        """Those of a clock of 25 a second at which this frame is shown."""
        step = FPS / self._fps
        return range(int(np.ceil(frame * step - 1e-6)), int(np.ceil((frame + 1) * step - 1e-6)))

    def _judged(self) -> None:
        """Brings the crops held to their places; the last five begin the next segment."""
        assert self._sound is not None and self._first is not None
        n = len(self._crops)
        samples = self._sound.cut(self._first / FPS, n / FPS)[: n * SAMPLES_A_FRAME]
        lips, heard = self._judge.places(np.stack(self._crops), samples)
        self._lips.append(lips)
        self._heard.append(heard)
        self._first += n - FRAMES
        self._crops = self._crops[n - FRAMES :]

    def finish(self) -> Arrays:
        if len(self._crops) > FRAMES:
            self._judged()
        if not self._lips:
            reason = 1 if self._sound is None else (2 if self._first is None else 3)
            return {"sync": np.array([0.0, 0.0, 0.0, reason])}
        found = search(np.concatenate(self._lips), np.concatenate(self._heard))
        return {"sync": np.array([found.offset_frames, found.confidence, found.distance, 0.0])}


class MouthMeter:
    """`mouth` float64 [3]: the share of the loudness that the mouth's movement explains above what
    it explains at other shifts, the seconds by which the sound is late, and 0 or a reason.

    No published measure, and named so that nobody takes it for one: it needs no weights, and is
    the one by which preparation accepts clips without SyncNet (`prepare.sync.moved`).
    """

    name = "mouth"
    key = "mouth 1"
    hears = True

    def start(self, sound: Sound | None, fps: float) -> "_Mouth":
        return _Mouth(sound, fps)


class _Mouth:
    def __init__(self, sound: Sound | None, fps: float):
        self._sound, self._fps = sound, fps
        self._mouths: list[UInt8[np.ndarray, "12 16"]] = []
        self._first: int | None = None

    def add(self, chunk: Chunk) -> None:
        if self._sound is None or chunk.boxes is None:
            return
        if self._first is None:
            self._first = chunk.first
        for frame, box in zip(chunk.frames, chunk.boxes, strict=True):
            if len(self._mouths) < LONGEST * self._fps:
                self._mouths.append(mouth(frame, list(box)))

    def finish(self) -> Arrays:
        if self._sound is None or self._first is None:
            return {"mouth": np.array([0.0, 0.0, 1.0 if self._sound is None else 2.0])}
        n = len(self._mouths)
        if n < self._fps / 4:
            return {"mouth": np.array([0.0, 0.0, 3.0])}
        start = self._first / self._fps
        samples = self._sound.cut(start - REACH, n / self._fps + 2 * REACH)
        reach = round(REACH * self._fps)
        explained = fit(np.stack(self._mouths), samples, self._fps, reach)
        best = int(np.argmax(explained))
        score = float(explained[best] - np.median(explained))
        return {"mouth": np.array([score, (best - reach) / self._fps, 0.0])}


assert SAMPLE_RATE == FPS * SAMPLES_A_FRAME
