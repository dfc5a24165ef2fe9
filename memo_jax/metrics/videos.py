"""Sets of videos: which files they are, and each as chunks of frames with the faces in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from memo_jax.errors import UserError
from memo_jax.io.boxes import Face, FaceFinder
from memo_jax.io.crop import HEAD_MARGIN, HEAD_RISE
from memo_jax.io.paths import fail
from memo_jax.prepare.media import MediaConfig, Sound, Video
from memo_jax.prepare.reasons import Reject

SUFFIXES = frozenset(".mp4 .mov .mkv .webm .avi .m4v".split())
CHUNK = 32  # frames held at once: two windows of I3D
SEARCH = 0.2  # seconds between the pictures in which faces are searched
LONGEST = 1280  # pixels of a side; larger pictures are scaled down as they are decoded

Where = Literal["find", "portrait"]


class BrokenVideo(Exception):
    """A video that cannot be measured; the message is one line."""


def list_videos(folder: Path, what: str) -> list[Path]:
    """The videos in a folder and below it, by name.

    Raises:
      UserError: no such folder, or no video in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise fail(f"{what} {str(folder)!r} is no folder; give one that holds videos")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        known = ", ".join(sorted(SUFFIXES))
        raise fail(f"{what} {str(folder)!r} holds no video; expected files in {known}")
    return found


def name_of(path: Path, folder: Path) -> str:
    """What pairs a generated video with a real one: its path in the folder without the suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


@dataclass(eq=False)
class Chunk:
    """Some frames of a video, one after the other.

    Attributes:
      frames: RGB.
      first: number of the first one in the video.
      fps: frames per second.
      finder: what finds faces; None takes the picture for a portrait as this package crops heads.
      before: the last box of the chunk before this one.
    """

    frames: UInt8[np.ndarray, "n h w 3"]
    first: int
    fps: float
    finder: FaceFinder | None
    before: Float[np.ndarray, " 3"] | None = None

    @property
    def sampled(self) -> list[int]:
        """Frames of this chunk, by their place in it, that are looked at one by one: every fifth
        of a second, and the video's first one."""
        step = max(1, round(SEARCH * self.fps))
        return [i for i in range(len(self.frames)) if (self.first + i) % step == 0]

    @cached_property
    def faces(self) -> dict[int, Face]:
        """The largest face of each sampled frame in which there is one."""
        if self.finder is None:
            return {i: portrait_face(self.frames.shape[1:3]) for i in self.sampled}
        found = {i: self.finder.find(self.frames[i]) for i in self.sampled}
        return {i: faces[0] for i, faces in found.items() if faces}

    @cached_property
    def boxes(self) -> Float[np.ndarray, "n 3"] | None:
        """A face's (centre x, centre y, side) in every frame, between sampled ones on a straight
        line; None where none has been found so far."""
        known = {i: np.array(_box(face)) for i, face in self.faces.items()}
        if self.before is not None:
            known = {-1: self.before} | known
        if not known:
            return None
        at, values = list(known), np.array(list(known.values()))
        wanted = np.arange(len(self.frames))
        return np.stack([np.interp(wanted, at, column) for column in values.T], axis=1)


def chunks(video: Video, finder: FaceFinder | None) -> Iterator[Chunk]:
    """All frames of an open video.

    Raises:
      BrokenVideo: frames of several sizes.
    """
    held: list[np.ndarray] = []
    first, before = 0, None

    def whole() -> Chunk:
        return Chunk(np.stack(held), first, float(video.rate), finder, before)

    for picture in video.pictures():
        frame = picture.rgb()
        if held and frame.shape != held[0].shape:
            raise BrokenVideo("its pictures change their size")
        held.append(frame)
        if len(held) == CHUNK:
            chunk = whole()
            yield chunk
            first += len(held)
            # Only looked at where somebody looked for faces; None otherwise.
            boxes = chunk.__dict__.get("boxes")
            before = before if boxes is None else boxes[-1]
            held = []
    if held:
        yield whole()


def opened(path: Path, fps: float) -> Video:
    """A video at a constant rate; raises BrokenVideo."""
    try:
        return Video(path, MediaConfig(fps=fps, least_fps=1.0, longest_side=LONGEST))
    except (Reject, UserError) as error:
        raise BrokenVideo(str(error)) from error


def sound_of(video: Video) -> Sound | None:
    """The sound at 16 kHz on the pictures' clock, or None without one."""
    try:
        return video.sound()
    except Reject as error:
        if error.code == "no-sound":
            return None
        raise BrokenVideo(str(error)) from error


def portrait_face(shape: tuple[int, ...]) -> Face:
    """Where the face lies in a picture that is the square around a head (`io.crop`)."""
    height, width = shape[:2]
    side = min(height, width) / HEAD_MARGIN
    x, y = width / 2, height / 2 + HEAD_RISE * side
    return Face((x - side / 2, y - side / 2, side, side), 1.0)


def _box(face: Face) -> tuple[float, float, float]:
    x, y, w, h = face.box
    return x + w / 2, y + h / 2, max(w, h)
