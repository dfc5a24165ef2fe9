"""Opening and decoding media with PyAV, the same way for whoever reads sound or video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

from memo_jax.io.paths import fail

# What PyAV raises on damaged media: its own errors, and the built-in ones of its wrappers.
MEDIA_ERRORS = (
    av.error.FFmpegError,
    OSError,
    ValueError,
    RuntimeError,
    ArithmeticError,
    LookupError,
    AssertionError,
    NotImplementedError,  # what a decoder raises at a format that it does not know
    MemoryError,
)

# A codec's padding after the last sample is at most a few of its frames. A container whose
# stated length is shorter than the sound by more than this is wrong, and is not believed.
PADDING_SECONDS = 0.25


@contextmanager
def opened(path: Path, what: str) -> Iterator[Any]:
    """The av container of an existing file; raises UserError where FFmpeg knows no format."""
    try:
        # The whitelist keeps a playlist from pulling in other files or the network.
        container = av.open(
            f"file:{path}", metadata_errors="replace", options={"protocol_whitelist": "file"}
        )
    except MEDIA_ERRORS as error:
        raise fail(
            f"{what} {str(path)!r} is not media that can be read; expected for example "
            "wav, mp3, m4a, flac, ogg or mp4",
            error,
        ) from error
    try:
        yield container
    finally:
        container.close()


def first_stream(container: Any, kind: str, what: str, path: object) -> Any:
    """The first "audio" or "video" stream of a container.

    Raises UserError, naming the file `what` and `path`, where there is none or FFmpeg has no
    decoder for it.
    """
    streams = getattr(container.streams, kind)
    if not streams:
        missing, wanted = {
            "audio": ("has no sound", "an audio file, or a video with an audio stream"),
            "video": ("has no pictures", "a video such as mp4"),
        }[kind]
        raise fail(f"{what} {str(path)!r} {missing}; expected {wanted}")
    if streams[0].codec_context is None:
        raise fail(
            f"{what} {str(path)!r} is coded in a way that FFmpeg cannot decode; convert it to "
            "wav or mp4"
        )
    return streams[0]


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames of one stream in order. Damaged packets are left out, as players do."""
    packets = iter(container.demux(stream))
    while True:
        try:
            packet = next(packets)
        except (StopIteration, *MEDIA_ERRORS):
            # A file cut short ends where its last whole packet ends.
            return
        try:
            yield from packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            continue


def sound_chunks(container: Any, stream: Any) -> Iterator[tuple[np.ndarray, int, str]]:
    """An audio stream as (float32 [channels, n] in [-1, 1], rate in Hz, layout name).

    Rate and layout may change from chunk to chunk, as some streams do. FFmpeg drops an
    encoder's priming at the start but hands out the padding that fills the last AAC frame;
    mp4 and mov state the true length, and the excess is cut there.
    """
    limit = None
    if "mp4" in container.format.name and stream.duration:
        limit = float(stream.duration * stream.time_base)
    seconds, held = 0.0, []
    for frame in decoded(container, stream):
        if frame.sample_rate <= 0 or frame.samples <= 0:
            continue
        chunk, rate, layout = _as_float(frame), frame.sample_rate, frame.layout.name
        keep = chunk.shape[1]
        if limit is not None:
            keep = min(keep, max(0, round((limit - seconds) * rate)))
        seconds += chunk.shape[1] / rate
        if keep:
            yield chunk[:, :keep], rate, layout
        if keep < chunk.shape[1]:
            held.append((chunk[:, keep:], rate, layout))
        if limit is not None and seconds > limit + PADDING_SECONDS:
            limit = None
            yield from held
            held.clear()


def _as_float(frame: Any) -> np.ndarray:
    """Samples of one audio frame, float32 [channels, n] in [-1, 1]."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if np.issubdtype(array.dtype, np.integer):
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    return array.astype(np.float32)
