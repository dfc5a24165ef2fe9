"""Writing video: frames encoded behind the caller's back, with the original sound."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import secrets
import threading
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

from memo_jax.errors import UserError, one_line
from memo_jax.io.paths import fail
from memo_jax.io.soundtrack import Soundtrack, check_sound

# FFmpeg's name of the format by extension; and whether it states the sound's exact length.
FORMATS = {".mp4": ("mp4", True), ".mov": ("mov", True), ".mkv": ("matroska", False)}

# Units per second in which mp4 states lengths: FFmpeg's own 1000 is coarser than a sample.
MOVIE_TIMESCALE = 48000

MACROBLOCK = 16  # pixels, the side of the blocks that h264 codes

# Chunks of frames that wait for the encoder before `write` blocks.
WAITING = 2

BT709 = 1  # FFmpeg's number of the matrix, primaries and transfer curve that players assume
LIMITED_RANGE = 1  # FFmpeg's number of 16..235, the only range that all players take


def check_output(path: str | os.PathLike[str]) -> Path:
    """`path`, as one where a video can be written; an existing file may be replaced.

    Raises UserError where the extension is unknown, the folder is missing or cannot be
    written to, or the path is a folder.
    """
    file = Path(path)
    name = repr(one_line(path))
    if file.suffix.lower() not in FORMATS:
        raise fail(
            f"output {name} has the extension {file.suffix!r}; expected one of "
            f"{', '.join(FORMATS)}: rename it"
        )
    try:
        if file.is_dir():
            raise fail(f"output {name} is a folder; give the name of a file in it")
        if not file.parent.is_dir():
            raise fail(
                f"output {name} is in the folder {str(file.parent)!r}, which does not "
                "exist; make it first"
            )
        # Only trying tells: rights, read-only disks and quotas all differ from os.access.
        trial = _beside(file)
        trial.touch(exist_ok=False)
        trial.unlink()
    except (OSError, ValueError) as error:
        raise fail(
            f"output {name} cannot be written to its folder; choose another one, or "
            "change its rights",
            error,
        ) from error
    return file


class VideoWriter:
    """Writes an h264 video that browsers play, with a recording as its sound.

    Checks its arguments when made, writes inside `with`. Frame k is shown at exactly k / fps.
    The sound is cut or continued with silence to the length of the frames written. The file
    appears, whole, when the block ends well, and not at all otherwise.

        with VideoWriter("out.mp4", 512, 512, 30, sound=Path("speech.wav")) as writer:
            writer.write(frames)

    path: .mp4, .mov or .mkv. width, height: pixels; odd ones are made even by repeating the
    last column or row. fps: frames a second. crf: x264's quality, 0 (lossless) to 51.
    metadata: tags of the file.
    Raises UserError where the output or the sound cannot be used, also from `write` and at
    the end of the block, as when the disk is full.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        fps: float | Fraction,
        sound: str | Path | None = None,
        crf: int = 18,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = check_output(path)
        self.fps = _exact_rate(fps)
        if not 0 <= crf <= 51:
            raise fail(f"crf {crf} is out of range; expected 0 (best) to 51 (smallest)")
        self._size = (height, width)
        self._sound = None if sound is None else check_sound(sound)
        self._crf = crf
        self._metadata = dict(metadata or {})
        self._part = _beside(self.path)
        self._queue: queue.Queue[np.ndarray | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="video-writer", daemon=True)
        self._error: BaseException | None = None
        self._abandoned = False
        self._frames = 0
        self._output: Any = None
        self._stream: Any = None
        self._soundtrack: Soundtrack | None = None

    def __enter__(self) -> Self:
        try:
            self._open()
            self._thread.start()
        except (OSError, av.error.FFmpegError) as error:
            self._abandon()
            raise self._refused(error) from error
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self.close()
        except BaseException:
            self._abandon()
            raise

    def write(self, frames: np.ndarray) -> None:
        """Append frames uint8 [n, height, width, 3] RGB; returns before they are encoded."""
        frames = np.array(frames)  # the caller may fill the same buffer again
        if frames.dtype != np.uint8 or frames.shape[1:] != (*self._size, 3):
            raise ValueError(
                f"expected uint8 frames [n, {self._size[0]}, {self._size[1]}, 3], "
                f"got {frames.dtype} {list(frames.shape)}"
            )
        if not self._thread.is_alive():
            raise RuntimeError("write() works inside the with block of a VideoWriter")
        self._queue.put(frames)
        self._raise_error()

    def close(self) -> None:
        """Encode what waits, complete the file and put it in its place."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._raise_error()
        if self._part.exists():
            try:
                os.replace(self._part, self.path)
            except OSError as error:
                raise self._refused(error) from error

    def _open(self) -> None:
        kind, trims = FORMATS[self.path.suffix.lower()]
        options = {}
        if kind != "matroska":
            options = {"movflags": "+faststart", "movie_timescale": str(MOVIE_TIMESCALE)}
            if self._metadata:  # else mp4 keeps only a few tags that it knows
                options["movflags"] += "+use_metadata_tags"
        self._output = av.open(f"file:{self._part}", "w", format=kind, options=options)
        self._output.metadata.update(self._metadata)
        height, width = (side + side % 2 for side in self._size)
        stream = self._output.add_stream("libx264", rate=self.fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(self._crf), "preset": "medium"}
        if -(-width // MACROBLOCK) % 8:
            # x264's macroblock tree works in steps of 8 and reads what lies behind a shorter row:
            # the same frames would give another file each time.
            stream.options |= {"x264-params": "mbtree=0"}
        context = stream.codec_context
        context.time_base = 1 / self.fps
        # PyAV's choice, threads by slices, gives one of two files for the same frames, by chance.
        context.thread_type = "FRAME"
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        self._stream = stream
        if self._sound is not None:
            self._soundtrack = Soundtrack(self._sound, self._output, trims)

    def _work(self) -> None:
        """The thread: encodes until the end mark, and after an error only empties the queue."""
        ended = False
        try:
            while (frames := self._queue.get()) is not None:
                if not self._abandoned:
                    self._encode(frames)
            ended = True
            if not self._abandoned:
                self._finish()
        except BaseException as error:
            self._error = error
            while not ended and self._queue.get() is not None:
                pass

    def _encode(self, frames: np.ndarray) -> None:
        height, width = self._size
        if height % 2 or width % 2:
            frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
        for array in frames:
            if self._abandoned:
                return
            picture = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            picture.pts, picture.time_base, picture.duration = self._frames, 1 / self.fps, 1
            self._frames += 1
            self._output.mux(self._stream.encode(picture))
        if self._soundtrack is not None:
            self._soundtrack.advance(self._frames / self.fps)

    def _finish(self) -> None:
        if not self._frames:
            raise fail(f"output {str(self.path)!r} got no frame; there is nothing to save")
        self._output.mux(self._stream.encode(None))
        if self._soundtrack is not None:
            self._soundtrack.finish(self._frames / self.fps)
            self._soundtrack.close()
        self._output.close()

    def _abandon(self) -> None:
        """Stop the thread and remove what was written."""
        self._abandoned = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        if self._soundtrack is not None:
            self._soundtrack.close()
        if self._output is not None:
            with contextlib.suppress(Exception):  # a file that is not wanted need not be whole
                self._output.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _raise_error(self) -> None:
        """Raise what went wrong in the thread, if anything did."""
        if isinstance(self._error, (OSError, av.error.FFmpegError)):
            raise self._refused(self._error) from self._error
        if self._error is not None:
            raise self._error

    def _refused(self, error: BaseException) -> UserError:
        """The system's refusal to write, in one line."""
        return fail(
            f"output {str(self.path)!r} cannot be written; check the disk's free space and rights",
            error,
        )


def _beside(path: Path) -> Path:
    """A new hidden name in the same folder, so that renaming to `path` is one step."""
    return path.parent / f".{secrets.token_hex(6)}.part"


def _exact_rate(fps: float | Fraction) -> Fraction:
    """Frames a second as a fraction: 29.97 is 2997/100, 30000/1001 is itself."""
    try:
        rate = Fraction(fps).limit_denominator(1001)
    except (ValueError, OverflowError, TypeError) as error:
        raise fail(f"fps {fps!r} is no frame rate; expected a number such as 25") from error
    if not (math.isfinite(rate) and 1 <= rate <= 240):
        raise fail(f"fps {fps} is out of range; expected 1 to 240")
    return rate
