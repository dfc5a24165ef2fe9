"""Recordings: any sound file, or the sound of a video, as mono samples at one rate."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from memo_jax.io.media import MEDIA_ERRORS, first_stream, opened, sound_chunks
from memo_jax.io.paths import existing_file, fail


@dataclass(frozen=True)
class Recording:
    """A decoded recording.

    samples: float32 [n], mono, nominally in [-1, 1].
    sample_rate: Hz.
    path: the file it came from.
    """

    samples: np.ndarray
    sample_rate: int
    path: Path

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.sample_rate


def read_recording(path: str | os.PathLike[str], sample_rate: int = 16000) -> Recording:
    """Decode the first audio stream of a file to mono at `sample_rate` (Hz).

    Mono is the mean over channels. Resampling is soxr's HQ, fed as the file is decoded, so
    that memory holds the result and never the waveform at the source's rate. Silence is a
    recording like any other.

    Raises UserError for a file that is missing, is no media, has no sound, holds no sample,
    or holds samples that are not finite numbers.
    """
    file = existing_file(path, "recording")
    name = repr(str(path))
    output = _Resampler(sample_rate)
    with opened(file, "recording") as container:
        stream = first_stream(container, "audio", "recording", path)
        try:
            for chunk, rate, _ in sound_chunks(container, stream):
                if not np.isfinite(chunk).all():
                    raise fail(
                        f"recording {name} holds samples that are not finite (NaN or "
                        "infinity); export it again, for example as 16-bit wav"
                    )
                output.feed(chunk.mean(axis=0), rate)
        except MEDIA_ERRORS as error:
            raise fail(f"recording {name} cannot be decoded; convert it to wav", error) from error
    samples = output.finish()
    if not len(samples):
        raise fail(
            f"recording {name} holds no sound samples; it is damaged or was not saved "
            "fully: export it again"
        )
    return Recording(samples, sample_rate, file)


class _Resampler:
    """Collects mono chunks of any rate as samples at one rate."""

    def __init__(self, sample_rate: int) -> None:
        self._to = sample_rate
        self._from = sample_rate
        self._stream: soxr.ResampleStream | None = None
        self._out: list[np.ndarray] = []

    def feed(self, mono: np.ndarray, rate: int) -> None:
        if rate != self._from:
            self._flush()
            self._from = rate
            if rate != self._to:
                self._stream = soxr.ResampleStream(rate, self._to, 1, "float32", "HQ")
        self._out.append(mono if self._stream is None else self._stream.resample_chunk(mono))

    def finish(self) -> np.ndarray:
        self._flush()
        return np.concatenate(self._out) if self._out else np.zeros(0, np.float32)

    def _flush(self) -> None:
        if self._stream is not None:
            empty = np.zeros(0, np.float32)
            self._out.append(self._stream.resample_chunk(empty, last=True))
            self._stream = None
