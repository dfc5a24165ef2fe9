"""Where shots begin. Three finders: PySceneDetect's, OpenCV's histograms, TransNet V2."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from jaxtyping import Int8, UInt8

from memo_jax.errors import UserError
from memo_jax.prepare.media import Picture

GOES_ON, BEGINS, BETWEEN = 0, 1, 2
"""A frame goes on with the shot, is the first of a new one, or belongs to a transition."""

BLOCK = 50  # frames judged at once


@dataclass(frozen=True)
class CutConfig:
    """How shots are told apart and how long clips are.

    Attributes:
      finder: "content" (PySceneDetect's content detector), "histogram" (OpenCV), or "transnet".
      threshold: a frame's score from which on it is a cut; 0 takes the finder's own: 27 of 255
        as PySceneDetect has it, 0.5 of 1 for histograms, 0.5 for TransNet V2 as published.
      shortest: seconds of the shortest clip.
      longest: seconds of the longest.
      gap: seconds without a new picture that end a clip.
    """

    finder: Literal["content", "histogram", "transnet"] = "content"
    threshold: float = 0.0
    shortest: float = 2.0
    longest: float = 30.0
    gap: float = 0.5

    def __post_init__(self) -> None:
        if not 0.1 <= self.shortest <= self.longest:
            raise UserError(
                f"clips of {self.shortest:g} to {self.longest:g} seconds, expected 0.1 at least "
                "and rising"
            )


class CutFinder(Protocol):
    """Whatever tells shots apart.

    Attributes:
      size: (height, width) of the pictures it looks at.
      before: frames that it must see before those that it judges.
      after: and after.
    """

    size: tuple[int, int]
    before: int
    after: int

    def marks(self, frames: UInt8[np.ndarray, "n h w 3"]) -> Int8[np.ndarray, " n"]:
        """GOES_ON, BEGINS or BETWEEN for each frame."""


class ContentCuts:
    """PySceneDetect's content detector: the mean change of hue, saturation and brightness."""

    size = (108, 192)
    before, after = 1, 0

    def __init__(self, threshold: float = 0.0):
        """Raises UserError where PySceneDetect is not installed."""
        try:
            from scenedetect import FrameTimecode, __version__
            from scenedetect.detectors import ContentDetector
        except ImportError as error:
            raise UserError(
                "--cuts content needs PySceneDetect: pip install memo_jax[prepare], or give "
                "--cuts histogram"
            ) from error
        # Frames are numbers up to 0.6 and timecodes from 0.7 on.
        self._number = int if __version__.startswith("0.6.") else lambda i: FrameTimecode(i, 25.0)
        self._detector: Any = ContentDetector
        self._threshold = threshold or 27.0

    def marks(self, frames: UInt8[np.ndarray, "n h w 3"]) -> Int8[np.ndarray, " n"]:
        """See CutFinder."""
        found = np.zeros(len(frames), np.int8)
        detector = self._detector(threshold=self._threshold, min_scene_len=1)
        for i, frame in enumerate(frames):
            for cut in detector.process_frame(self._number(i), frame[..., ::-1]):
                found[getattr(cut, "frame_num", cut)] = BEGINS
        return found


class HistogramCuts:
    """OpenCV: the distance between neighbours' colour histograms (Bhattacharyya, 0 to 1)."""

    size = (108, 192)
    before, after = 1, 0

    def __init__(self, threshold: float = 0.0):
        self._threshold = threshold or 0.5

    def marks(self, frames: UInt8[np.ndarray, "n h w 3"]) -> Int8[np.ndarray, " n"]:
        """See CutFinder."""
        found = np.zeros(len(frames), np.int8)
        before = None
        for i, frame in enumerate(frames):
            hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
            now = cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 8], [0, 180, 0, 256, 0, 256])
            if before is not None:
                apart = cv2.compareHist(before, now, cv2.HISTCMP_BHATTACHARYYA)
                found[i] = BEGINS if apart >= self._threshold else GOES_ON
            before = now
        return found


class TransNetCuts:
    """TransNet V2 with weights that the user has. Frames of a transition are left out."""

    size = (27, 48)
    before, after = 50, 50

    def __init__(self, weights: str, threshold: float = 0.0):
        from memo_jax.judges import transnet

        self._cutter = transnet.load(weights)
        self._threshold = threshold or 0.5

    def marks(self, frames: UInt8[np.ndarray, "n h w 3"]) -> Int8[np.ndarray, " n"]:
        """See CutFinder."""
        return np.where(self._cutter.cuts(frames) >= self._threshold, BETWEEN, GOES_ON).astype(
            np.int8
        )


def cut_finder(config: CutConfig, weights: str = "") -> CutFinder:
    """The finder that a config names; `weights` are TransNet V2's."""
    if config.finder == "transnet":
        if not weights:
            raise UserError("--cuts transnet needs its weights: give --transnet FILE")
        return TransNetCuts(weights, config.threshold)
    kind = ContentCuts if config.finder == "content" else HistogramCuts
    return kind(config.threshold)


def marked(pictures: Iterable[Picture], finder: CutFinder) -> Iterator[tuple[Picture, int]]:
    """Each picture with its mark, in order; about `BLOCK + finder.after` are held."""
    height, width = finder.size
    held: list[Picture] = []
    small: list[np.ndarray] = []  # of those before the held ones too
    before = 0  # how many of `small` are of pictures given out already

    def judge(count: int) -> Iterator[tuple[Picture, int]]:
        nonlocal before
        marks = finder.marks(np.stack(small))[before : before + count]
        yield from zip(held[:count], marks.tolist(), strict=True)
        del held[:count]
        keep = min(before + count, finder.before)
        del small[: before + count - keep]
        before = keep

    for picture in pictures:
        held.append(picture)
        small.append(picture.small(height, width))
        if len(held) >= BLOCK + finder.after:
            yield from judge(BLOCK)
    if held:
        yield from judge(len(held))


def shots(
    marks: Iterable[tuple[Picture, int]], fps: float, config: CutConfig
) -> Iterator[list[Picture]]:
    """Runs of frames of one size without a cut, a gap or a transition, none longer than a clip."""
    most = max(1, int(config.longest * fps))
    shot: list[Picture] = []
    for picture, mark in marks:
        if shot:
            other = picture.gap > config.gap or picture.shape != shot[-1].shape
            if other or mark != GOES_ON or len(shot) == most:
                yield shot
                shot = []
        if mark != BETWEEN:
            shot.append(picture)
    if shot:
        yield shot
