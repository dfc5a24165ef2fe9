"""A video read once: upright pictures at a constant rate, and its sound on the same clock."""

import itertools
import math
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
import soxr
from jaxtyping import Float, UInt8

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.errors import UserError
from memo_jax.io.media import MEDIA_ERRORS, decoded, opened
from memo_jax.io.paths import existing_file, reason
from memo_jax.prepare.reasons import Reject

STANDARD = tuple(
    Fraction(*rate)
    for rate in (
        *((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (48, 1), (50, 1)),
        *((60000, 1001), (60, 1)),
    )
)
# A stated rate this near a standard one is that one: containers round times to milliseconds.
NEAR = 0.002
# A picture counts as shown this part of a frame before its time, for the same reason.
EARLY = Fraction(1, 4)
# Sound whose stated time differs by more from where it would follow is moved there, in seconds.
JUMP = 0.04
# Missing at the end for a file to count as cut short, in seconds.
CUT_SHORT = 0.5
# The sound may end this much before the clip, in seconds: codecs drop their last block.
UNCOVERED = 0.25


@dataclass(frozen=True)
class MediaConfig:
    """How videos are read.

    Attributes:
      fps: frames per second of the clips; 0 keeps each video's own, a variable one rounded to the
        nearest standard rate.
      least_fps: below this a video is not used.
      longest_side: pixels; larger pictures are scaled down as they are decoded, which bounds what
        a clip needs in memory.
    """

    fps: float = 0.0
    least_fps: float = 15.0
    longest_side: int = 1920

    def __post_init__(self) -> None:
        if not (self.fps == 0 or 1 <= self.fps <= 120) or self.longest_side < 64:
            raise UserError(
                f"fps {self.fps:g} and longest side {self.longest_side}, expected 0 or 1 to 120, "
                "and 64 pixels at least"
            )


@dataclass(frozen=True, eq=False)
class Picture:
    """One frame of the constant-rate video, still as the codec gave it.

    Attributes:
      index: frame k is shown at k / rate seconds.
      gap: seconds for which no new picture had come before this one.
    """

    index: int
    gap: float
    frame: Any
    turns: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Width and height before it is turned, and by how many quarters it is."""
        return self.frame.width, self.frame.height, self.turns

    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """Its pixels, upright."""
        pixels = self.frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(pixels, self.turns)) if self.turns else pixels

    def small(self, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """The picture squeezed to a size, not turned."""
        return self.frame.reformat(width=width, height=height, format="rgb24").to_ndarray()


@dataclass(frozen=True, eq=False)
class Sound:
    """Mono samples, the first of them heard `start` seconds after the first picture is seen."""

    samples: Float[np.ndarray, " n"]
    rate: int
    start: float

    def cut(self, start: float, seconds: float) -> Float[np.ndarray, " m"]:
        """What is heard from `start` on, to the sample; silence before and after the sound."""
        first = round((start - self.start) * self.rate)
        count = round(seconds * self.rate)
        out = np.zeros(count, np.float32)
        low, high = max(first, 0), min(first + count, len(self.samples))
        if low < high:
            out[low - first : high - first] = self.samples[low:high]
        return out

    def check(self, start: float, end: float) -> None:
        """Raises Reject unless the sound lasts from `start` to `end` seconds, or nearly."""
        last = self.start + len(self.samples) / self.rate
        if self.start > start + UNCOVERED or last < end - UNCOVERED:
            raise Reject("no-sound", f"there is sound from {self.start:.2f} to {last:.2f} s alone")


class Video:
    """An open file. Its pictures and its sound are each decoded once, the sound first.

        with Video(path, MediaConfig()) as video:
            sound = video.sound()
            for picture in video.pictures(): ...

    Attributes:
      rate: frames per second of `pictures`.
      frames: after the last picture: how many there were; 0 before.
      truncated: after the last picture: whether the file ends before it says it does.
    """

    def __init__(self, path: str | Path, config: MediaConfig, sound_path: str | Path | None = None):
        """`sound_path` is read where the video itself has no sound.

        Raises:
          Reject: the file is missing, no video, or has a frame rate out of range.
        """
        self._path = _existing(Path(path))
        self._config, self._sound_path = config, sound_path
        self.frames, self.truncated = 0, False
        self._open = ExitStack()
        try:
            self._container = self._open.enter_context(opened(self._path, "video"))
            # Covers of music files are video streams too, of one picture.
            streams = [s for s in self._container.streams.video if s.codec_context is not None]
            if not streams:
                raise Reject("no-pictures", "there is no video stream")
            self._stream = streams[0]
            self._stream.thread_type = "AUTO"
            self.rate = self._chosen_rate()
            self._frames = decoded(self._container, self._stream)
            self._first = next(self._frames, None)
            if self._first is None:
                raise Reject("unreadable", "no picture can be decoded")
        except UserError as error:
            told = str(error).replace(str(self._path), self._path.name)
            raise Reject("unreadable", told) from error
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def sound(self, rate: int = SAMPLE_RATE) -> Sound:
        """All of the sound at a rate in Hz; raises Reject where there is none."""
        path = self._path
        if not self._container.streams.audio:
            if self._sound_path is None:
                raise Reject("no-sound", "there is no audio stream")
            path = _existing(Path(self._sound_path))
        start, samples = _sound(path, rate)
        # A file of its own starts with the pictures.
        zero = float(_time(self._first) or 0) if path == self._path else start
        return Sound(samples, rate, start - zero)

    def pictures(self) -> Iterator[Picture]:
        """All frames at `rate`: at each one's time, the last picture shown by then."""
        held: Any = None
        index, shown, gap, zero = 0, Fraction(0), 0.0, None
        for frame in itertools.chain([self._first], self._frames):
            time = _time(frame)
            if time is None:
                time = shown + 1 / self.rate if held is not None else Fraction(0)
            zero = time if zero is None else zero
            time -= zero
            if held is not None and time <= shown:
                continue  # out of order: of damaged files
            while held is not None and index / self.rate + EARLY / self.rate < time:
                yield self._picture(index, gap, held)
                index, gap = index + 1, 0.0
            gap = max(gap, float(time - shown))
            held, shown = self._fitted(frame), time
        # How long the last picture is shown nobody says: as long as others, and a variable rate
        # has pauses that make its mean too long.
        end = shown + 1 / max(self.rate, Fraction(self._stated_rate()))
        # Known before the last picture is given out.
        stated = _stated(self._stream)
        self.truncated = stated is not None and float(end) < stated - CUT_SHORT
        self.frames = max(index, math.ceil(end * self.rate - EARLY))
        while index < self.frames:
            yield self._picture(index, gap, held)
            index, gap = index + 1, 0.0

    def _picture(self, index: int, gap: float, frame: Any) -> Picture:
        return Picture(index, gap, frame, frame.rotation % 360 // 90)

    def _fitted(self, frame: Any) -> Any:
        """The frame with square pixels, and none too large."""
        ratio = self._stream.sample_aspect_ratio or 1
        width, height = frame.width * max(ratio, 1), frame.height / min(ratio, 1)
        scale = min(1, Fraction(self._config.longest_side) / Fraction(max(width, height)))
        size = [max(2, round(side * scale) // 2 * 2) for side in (width, height)]
        if scale == 1 and ratio == 1:
            return frame
        rotation = frame.rotation
        small = frame.reformat(width=size[0], height=size[1])
        # Side data does not survive scaling.
        return small if small.rotation == rotation else _Turned(small, rotation)

    def _stated_rate(self) -> Any:
        return self._stream.average_rate or self._stream.guessed_rate

    def _chosen_rate(self) -> Fraction:
        stated = self._stated_rate()
        if not stated or stated < self._config.least_fps:
            raise Reject(
                "rate",
                f"{float(stated or 0):.3g} frames per second, "
                f"expected {self._config.least_fps:g} at least",
            )
        if self._config.fps:
            return Fraction(self._config.fps).limit_denominator(1001)
        return min(STANDARD, key=lambda rate: abs(float(rate) - float(stated)))


@dataclass(frozen=True, eq=False)
class _Turned:
    """A scaled frame that remembers how it must be turned."""

    frame: Any
    rotation: int

    @property
    def width(self) -> int:
        return self.frame.width

    @property
    def height(self) -> int:
        return self.frame.height

    def to_ndarray(self, format: str) -> np.ndarray:
        return self.frame.to_ndarray(format=format)

    def reformat(self, **how: Any) -> Any:
        return self.frame.reformat(**how)


def _existing(path: Path) -> Path:
    """The path of a file with something in it; raises Reject otherwise."""
    try:
        if path.is_file() and not path.stat().st_size:
            raise Reject("empty", "0 bytes")
        return existing_file(path, "video")
    except (UserError, OSError) as error:
        raise Reject("missing", str(error)) from error


def _time(frame: Any) -> Fraction | None:
    stamp = frame.pts if frame.pts is not None else frame.dts
    return None if stamp is None else stamp * frame.time_base


def _stated(stream: Any) -> float | None:
    """Seconds that the video stream says it lasts; Matroska has a tag for that."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if not found:
        return None
    hours, minutes, seconds = map(float, found.groups())
    return 3600 * hours + 60 * minutes + seconds


def _sound(path: Path, rate: int) -> tuple[float, np.ndarray]:
    """The container's time of the first sample in seconds, and all samples at `rate`.

    Where the stream's own times leave a gap there is silence, so that what follows stays in time.
    """
    out: list[np.ndarray] = []
    start: float | None = None
    came, source, resampler = 0.0, 0, None  # seconds that have come, and how they come

    def drain() -> None:
        if resampler is not None:
            out.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))

    try:
        with opened(path, "video") as container:
            for frame in decoded(container, container.streams.audio[0]):
                chunk = _mono(frame)
                time = _time(frame)
                if start is None:
                    start = float(time or 0)
                if frame.sample_rate != source:
                    drain()
                    source = frame.sample_rate
                    resampler = soxr.ResampleStream(source, rate, 1, "float32", "HQ")
                assert resampler is not None
                late = 0.0 if time is None else float(time) - start - came
                if late > JUMP:
                    chunk = np.concatenate([np.zeros(round(late * source), np.float32), chunk])
                elif late < -JUMP:
                    chunk = chunk[round(-late * source) :]
                came += len(chunk) / source
                out.append(resampler.resample_chunk(chunk))
    except (UserError, *MEDIA_ERRORS) as error:
        raise Reject("unreadable", f"the sound cannot be decoded ({reason(error)})") from error
    drain()
    samples = np.concatenate(out) if out else np.zeros(0, np.float32)
    if not len(samples) or not np.isfinite(samples).all():
        raise Reject("no-sound", "the audio stream holds no samples that are numbers")
    return start or 0.0, samples


def _mono(frame: Any) -> Float[np.ndarray, " n"]:
    """The mean over channels in [-1, 1], as recordings are heard elsewhere."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    if array.dtype == np.uint8:
        array = (array.astype(np.float32) - 128) / 128
    elif array.dtype.kind == "i":
        array = array / -float(np.iinfo(array.dtype).min)
    return array.mean(axis=0).astype(np.float32)
