"""The sound of a written video: a recording encoded to AAC, as long as the pictures are."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from memo_jax.io.media import MEDIA_ERRORS, first_stream, opened, sound_chunks
from memo_jax.io.paths import existing_file, fail

BIT_RATE = 192_000
"""Bits per second."""

# Matroska does not store where the padding of the last AAC frame begins; at this rate (Hz)
# and above a whole frame of it is shorter than a picture.
LEAST_RATE_WITHOUT_TRIM = 44100

# Samples fed past the end of the sound: the encoder looks ahead this far, and distorts the
# last tens of milliseconds when it sees them end. What comes out for them is dropped.
LOOKAHEAD = 2048


def check_sound(path: str | Path) -> Path:
    """`path`, as a file with an audio stream. Raises UserError where it is not."""
    file = existing_file(path, "recording")
    with opened(file, "recording") as container:
        first_stream(container, "audio", "recording", path)
    return file


class Soundtrack:
    """Encodes the first audio stream of a file into an output container.

    Channels up to stereo are kept (more are mixed down), and so is the sample rate where AAC
    has it. `advance` keeps up with the pictures, `finish` makes the length exact: too long a
    sound is cut, too short a one is continued with silence.
    """

    def __init__(self, path: Path, output: Any, trims: bool) -> None:
        """trims: whether the output format can state the sound's exact length."""
        self._path = path
        self._inputs = ExitStack()
        try:
            container = self._inputs.enter_context(opened(path, "recording"))
            stream = first_stream(container, "audio", "recording", path)
            self._chunks = sound_chunks(container, stream)
            # What a container says of its sound can be wrong; what is decoded cannot.
            self._first = self._next_chunk()
        except BaseException:
            self.close()
            raise
        if self._first is None:
            self.close()
            raise fail(f"recording {str(path)!r} holds no sound samples; export it again")
        samples, rate, _ = self._first
        self.rate = _aac_rate(rate, 0 if trims else LEAST_RATE_WITHOUT_TRIM)
        self._layout = "mono" if len(samples) == 1 else "stereo"
        self._resampler: Any = None
        self._resamples: tuple[int, str] | None = None
        self._channels = 1 if self._layout == "mono" else 2
        self._ready = np.zeros((self._channels, 0), np.float32)
        self._fed = 0
        self._output = output
        self._stream = output.add_stream("aac", rate=self.rate, layout=self._layout)
        self._stream.codec_context.bit_rate = BIT_RATE
        self._stream.codec_context.format = "fltp"
        self._stream.codec_context.open(strict=False)

    def advance(self, seconds: Fraction) -> None:
        """Encode up to `seconds` of sound, in whole frames of the encoder."""
        self._feed(int(seconds * self.rate), self._output.mux)

    def finish(self, seconds: Fraction) -> None:
        """Encode the rest, so that the sound is `seconds` long to the sample."""
        total = round(seconds * self.rate)

        def keep(packet: Any) -> None:
            left = total - packet.pts
            if left <= 0:
                return
            packet.duration = min(packet.duration or left, left)
            self._output.mux(packet)

        size = self._stream.codec_context.frame_size
        self._feed(-(-(total + LOOKAHEAD) // size) * size, keep)
        for packet in self._stream.encode(None):
            keep(packet)

    def close(self) -> None:
        self._inputs.close()

    def _feed(self, end: int, mux: Any) -> None:
        """Encode whole frames as long as they end at or before sample `end`."""
        size = self._stream.codec_context.frame_size
        while self._fed + size <= end:
            samples = self._take(size)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self._layout)
            frame.sample_rate = self.rate
            frame.time_base = Fraction(1, self.rate)
            frame.pts = self._fed
            self._fed += size
            for packet in self._stream.encode(frame):
                mux(packet)

    def _take(self, count: int) -> np.ndarray:
        """The next samples, float32 [channels, count]; silence after the sound's end."""
        parts = [self._ready]
        have = self._ready.shape[1]
        while have < count:
            chunk, self._first = self._first or self._next_chunk(), None
            part = self._drain() if chunk is None else self._at_rate(*chunk)
            if chunk is None and not part.shape[1]:
                part = np.zeros((self._channels, count - have), np.float32)
            parts.append(part)
            have += part.shape[1]
        samples = np.concatenate(parts, axis=1)
        self._ready = samples[:, count:]
        return np.ascontiguousarray(samples[:, :count])

    def _next_chunk(self) -> tuple[np.ndarray, int, str] | None:
        try:
            return next(self._chunks, None)
        except MEDIA_ERRORS as error:
            raise fail(
                f"recording {str(self._path)!r} cannot be decoded; convert it to wav", error
            ) from error

    def _at_rate(self, chunk: np.ndarray, rate: int, layout: str) -> np.ndarray:
        """A decoded chunk at the output's rate and layout, float32 [channels, n]."""
        chunk, layout = _mixable(np.nan_to_num(chunk), layout)
        before = np.zeros((self._channels, 0), np.float32)
        if (rate, layout) != self._resamples:
            before = self._drain()
            self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=self.rate)
            self._resamples = (rate, layout)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(chunk), format="fltp", layout=layout
        )
        frame.sample_rate = rate
        frames = self._resampler.resample(frame)
        return np.concatenate([before, *(f.to_ndarray() for f in frames)], axis=1)

    def _drain(self) -> np.ndarray:
        """What the resampler still holds, float32 [channels, n]; it is done after this."""
        frames = self._resampler.resample(None) if self._resampler else []
        self._resampler = self._resamples = None
        nothing = np.zeros((self._channels, 0), np.float32)
        return np.concatenate([nothing, *(f.to_ndarray() for f in frames)], axis=1)


def _aac_rate(rate: int, least: int) -> int:
    """The sample rate (Hz) AAC has for a source's: the same, or the next higher, or its top."""
    known = av.codec.Codec("aac", "w").audio_rates or [48000]
    rates = [r for r in sorted(known) if r >= least]
    return next((r for r in rates if r >= rate), rates[-1])


def _mixable(chunk: np.ndarray, layout: str) -> tuple[np.ndarray, str]:
    """Samples [channels, n] with a layout that FFmpeg can mix down."""
    channels = len(chunk)
    if channels <= 2:
        return chunk, ("mono", "stereo")[channels - 1]
    try:
        if av.AudioLayout(layout).nb_channels == channels:
            return chunk, layout
    except ValueError:
        pass
    # Channels without a place, as from a field recorder: all of them, in the middle.
    return chunk.mean(axis=0, keepdims=True), "mono"
