"""What is measured of one video: a meter sees its frames once, chunk by chunk, and gives arrays.

What a meter gives is kept on disk under the content of the video and the meter's key, which tells
its network and settings, so that nothing is measured twice.
"""

import contextlib
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from memo_jax.errors import UserError
from memo_jax.io.boxes import FaceFinder
from memo_jax.metrics.videos import BrokenVideo, Chunk, chunks, opened, sound_of
from memo_jax.prepare.media import Sound
from memo_jax.prepare.reasons import Reject
from memo_jax.weights.cache import cache_folder, sha256

VERSION = 1  # of what meters give; changes when a meter's numbers do

Arrays = dict[str, np.ndarray]


class Reading(Protocol):
    """One video's measurement under way."""

    def add(self, chunk: Chunk) -> None:
        """Takes in the next frames."""

    def finish(self) -> Arrays:
        """What was found."""


class Meter(Protocol):
    """Measures videos. `key` tells everything that its numbers depend on but the video."""

    name: str
    key: str
    hears: bool

    def start(self, sound: Sound | None, fps: float) -> Reading:
        """Begins a video; `sound` is None where it has none or the meter does not hear."""


class Cache:
    """Meters' arrays in a folder, by the content of the video. None keeps nothing."""

    def __init__(self, folder: Path | None):
        self._folder = folder

    @classmethod
    def default(cls) -> "Cache":
        """In the user's cache."""
        return cls(cache_folder() / "metrics")

    def read(self, name: str) -> Arrays | None:
        """Arrays kept under a name; None where there are none, or they are damaged."""
        if self._folder is None:
            return None
        try:
            with np.load(self._folder / name[:2] / f"{name}.npz", allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None

    def write(self, name: str, arrays: Arrays) -> None:
        """Keeps arrays, whole or not at all; a folder that cannot be written only costs time."""
        if self._folder is None:
            return
        folder = self._folder / name[:2]
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(dir=folder, prefix=".unfinished-")
            try:
                with os.fdopen(handle, "wb") as file:
                    np.savez(file, allow_pickle=False, **arrays)
                os.replace(unfinished, folder / f"{name}.npz")
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(unfinished)
                raise


def measure(
    path: Path,
    meters: Sequence[Meter],
    *,
    fps: float,
    finder: FaceFinder | None,
    where: str,
    cache: Cache,
) -> dict[str, Arrays]:
    """Each meter's arrays of a video, which is decoded once, and not at all where all is known.

    Args:
      path: the video.
      meters: what to measure.
      fps: frames per second at which it is read; 0 for its own.
      finder: of faces; None takes every picture for a portrait.
      where: tells finders apart, for the cache.
      cache: where arrays are kept.

    Raises:
      BrokenVideo: it cannot be read.
    """
    try:
        content = sha256(path)
    except OSError as error:
        raise BrokenVideo(f"it cannot be read ({error.strerror})") from error
    names = {m.name: _name(content, m.key, f"{fps:g}", where) for m in meters}
    found = {m.name: cache.read(names[m.name]) for m in meters}
    missing = [m for m in meters if found[m.name] is None]
    if missing:
        for name, arrays in _measured(path, missing, fps, finder).items():
            cache.write(names[name], arrays)
            found[name] = arrays
    return {name: arrays for name, arrays in found.items() if arrays is not None}


def _measured(
    path: Path, meters: Sequence[Meter], fps: float, finder: FaceFinder | None
) -> dict[str, Arrays]:
    with opened(path, fps) as video:
        try:
            sound = sound_of(video) if any(m.hears for m in meters) else None
            rate = float(video.rate)
            readings = {m.name: m.start(sound if m.hears else None, rate) for m in meters}
            seen = 0
            for chunk in chunks(video, finder):
                seen += len(chunk.frames)
                for reading in readings.values():
                    reading.add(chunk)
        except (Reject, UserError) as error:
            raise BrokenVideo(str(error)) from error
        if video.truncated:  # its end would be missing from every figure
            raise BrokenVideo(f"it ends after {seen / rate:.1f} s, before the length it states")
        return {name: reading.finish() for name, reading in readings.items()}


def _name(*parts: str) -> str:
    return hashlib.sha256("\0".join((str(VERSION), *parts)).encode()).hexdigest()[:40]
