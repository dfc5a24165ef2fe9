"""How samples, frames and clips line up."""

import math
from typing import Literal, get_args

import numpy as np
from jaxtyping import Array, Float

from memo_jax.errors import UserError

SAMPLE_RATE = 16000

AudioPadding = Literal["released", "exact"]


def normalise(samples: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Zero mean and unit variance over the whole recording, float32.

    The way wav2vec2 was trained: (x - mean) / sqrt(variance + 1e-7), population variance.
    """
    x = np.asarray(samples, np.float32)
    if not x.size:
        return x
    # Sums of minutes of sound lose digits in float32.
    mean, variance = np.mean(x, dtype=np.float64), np.var(x, dtype=np.float64)
    return ((x - np.float32(mean)) / np.float32(math.sqrt(variance + 1e-7))).astype(np.float32)


def frame_count(n_samples: int, fps: float, sample_rate: int = SAMPLE_RATE) -> int:
    """Video frames that samples last for, a last frame begun counting as one.

    In floating point, as the release computes it: a recording that ends exactly with a frame may
    count one more.
    """
    return math.ceil(n_samples / sample_rate * fps)


def padding(
    n_samples: int,
    fps: float,
    clip_frames: int,
    *,
    sample_rate: int = SAMPLE_RATE,
    audio_padding: AudioPadding = "released",
) -> tuple[int, int]:
    """Frames rounded up to whole clips, and the zeros to append to the samples.

    "released" appends a whole number of samples for every missing frame, nothing where no frame
    is missing; the sound is then stretched over the frames, so that at 30 fps it drifts against
    them by up to half a frame. "exact" appends what makes the samples last as long as the frames.

    Raises:
      UserError: an empty recording, or numbers that are not positive.
    """
    if audio_padding not in get_args(AudioPadding):
        raise ValueError(f"audio_padding {audio_padding!r}")
    if n_samples < 1:
        raise UserError("the recording is empty, expected at least one sample of sound")
    if not (fps > 0 and clip_frames > 0 and sample_rate > 0):
        raise UserError(
            f"fps {fps}, clip_frames {clip_frames}, sample_rate {sample_rate}: expected above 0"
        )
    frames = frame_count(n_samples, fps, sample_rate)
    padded = -(-frames // clip_frames) * clip_frames
    if audio_padding == "exact":
        return padded, max(0, round(padded * sample_rate / fps) - n_samples)
    return padded, (padded - frames) * int(sample_rate // fps)


def prepare(
    samples: Float[np.ndarray, "n"],
    fps: float,
    clip_frames: int,
    *,
    sample_rate: int = SAMPLE_RATE,
    audio_padding: AudioPadding = "released",
) -> tuple[Float[np.ndarray, "padded"], int]:
    """What wav2vec2 takes: the recording normalised, then padded with zeros to whole clips.

    Returns:
      the samples, and the frames they last for.

    Raises:
      UserError: as `padding` does.
    """
    frames, zeros = padding(
        len(samples), fps, clip_frames, sample_rate=sample_rate, audio_padding=audio_padding
    )
    return np.pad(normalise(samples), (0, zeros)), frames


def windows(
    hidden: Float[np.ndarray | Array, "f l d"],
    size: int = 5,
    *,
    start: int = 0,
    stop: int | None = None,
) -> Float[np.ndarray | Array, "g w l d"]:
    """Each frame's features with those around it; beyond both ends the end frame repeats.

    Args:
      hidden: features of the whole recording, in numpy or JAX; the result is of the same kind.
      size: frames in a window, odd.
      start: with `stop`, the frames that get windows; all by default. A clip's windows alone
        take a fraction of the memory.
      stop: one past the last frame that gets a window.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size {size}: expected an odd number")
    centres = np.arange(start, len(hidden) if stop is None else stop)
    around = centres[:, None] + np.arange(-(size // 2), size // 2 + 1)[None]
    return hidden[np.clip(around, 0, len(hidden) - 1)]
