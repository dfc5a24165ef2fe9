"""Video files: read them whole, measure them, and (from video_write) write them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from memo_jax.io.media import MEDIA_ERRORS, decoded, first_stream, opened, sound_chunks
from memo_jax.io.paths import existing_file, fail
from memo_jax.io.video_write import VideoWriter, check_output

__all__ = ["VideoInfo", "VideoWriter", "check_output", "probe", "read_video"]


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    frames: their number. fps: frames a second. width, height: pixels. video_seconds,
    audio_seconds: how long each plays, None without sound. Codecs by FFmpeg's names.
    """

    frames: int
    fps: Fraction
    width: int
    height: int
    video_seconds: float
    audio_seconds: float | None
    audio_codec: str | None
    video_codec: str


def read_video(path: str | os.PathLike[str]) -> tuple[np.ndarray, Fraction]:
    """All frames of a video, uint8 [n, H, W, 3] RGB upright, and its frames a second.

    Memory holds the whole video. Raises UserError for a file that is missing, is no media,
    or has no picture that can be decoded.
    """
    file = existing_file(path, "video")
    with opened(file, "video") as container:
        stream = first_stream(container, "video", "video", path)
        try:
            frames = [_upright(frame) for frame in decoded(container, stream)]
            frames = [frame for frame in frames if frame.shape == frames[0].shape]
            if frames:
                return np.stack(frames), _rate(stream)
        except MEDIA_ERRORS as error:
            raise fail(
                f"video {str(path)!r} cannot be decoded; convert it to mp4", error
            ) from error
    raise fail(f"video {str(path)!r} holds no frame; it is damaged: export it again")


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Count and measure a video without decoding its pictures. Raises UserError as above."""
    file = existing_file(path, "video")
    try:
        with opened(file, "video") as container:
            stream = first_stream(container, "video", "video", path)
            packets = [p for p in container.demux(stream) if p.size]
            rate = _rate(stream)
            # Only mp4 and mov state the length of every stream; elsewhere FFmpeg guesses.
            stated = stream.duration if "mp4" in container.format.name else None
            seconds = stated * stream.time_base if stated else len(packets) / rate
            sound = _sound(file) if container.streams.audio else None
            return VideoInfo(
                frames=len(packets),
                fps=rate,
                width=stream.width,
                height=stream.height,
                video_seconds=float(seconds),
                audio_seconds=sound[0] if sound else None,
                audio_codec=sound[1] if sound else None,
                video_codec=stream.codec_context.name,
            )
    except MEDIA_ERRORS as error:
        raise fail(f"video {str(path)!r} cannot be decoded; convert it to mp4", error) from error


def _sound(file: Path) -> tuple[float, str]:
    """Seconds of sound, counted (what containers state includes padding), and its codec."""
    with opened(file, "video") as container:
        stream = first_stream(container, "audio", "video", file)
        seconds = sum(chunk.shape[1] / rate for chunk, rate, _ in sound_chunks(container, stream))
        return seconds, stream.codec_context.name


def _rate(stream: Any) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise ValueError("it states no frame rate")
    return Fraction(rate)


def _upright(frame: Any) -> np.ndarray:
    """A frame's pixels, uint8 [H, W, 3], turned as the recording camera noted."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, frame.rotation // 90) if frame.rotation % 360 else pixels
