"""Takes the voice out of music with an MDX network in an ONNX file that the user has.

The network sees complex spectra of ten seconds or so, real and imaginary parts of both channels
as four images, and returns those of the voice.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from memo_jax.errors import UserError, one_line

SAMPLE_RATE = 44100


@dataclass(frozen=True)
class VocalsConfig:
    """What an MDX file does not say about itself; defaults are those of Kim_Vocal_2.

    `cut_bins` lowest frequencies are silenced before the network. `overlap` is the part of a chunk
    that the next one repeats.
    """

    fft: int = 7680
    hop: int = 1024
    cut_bins: int = 3
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.hop <= self.fft // 2 or self.fft % 2 or self.cut_bins < 0:
            raise UserError(f"vocals config: fft {self.fft}, hop {self.hop}, cut {self.cut_bins}")
        if not 0.0 < self.overlap < 1.0:
            raise UserError(f"vocals config: overlap {self.overlap}, expected between 0 and 1")


class VocalSeparator:
    """A loaded network. It works through sound of any length in chunks of one size."""

    def __init__(self, path: Path | str, config: VocalsConfig | None = None):
        """Loads the file; with an NVIDIA build of onnxruntime it runs there.

        Raises:
          UserError: onnxruntime is not installed, or the file is no MDX network that fits.
        """
        self.config = config or VocalsConfig()
        self._session = _session(Path(path))
        self._input = self._session.get_inputs()[0].name
        shape = list(self._session.get_inputs()[0].shape)
        sizes = shape[2:]
        if len(shape) != 4 or shape[1] != 4 or not all(isinstance(n, int) for n in sizes):
            raise UserError(
                f"{path} takes {shape}, expected [batch, 4, frequencies, times]; "
                "give an MDX vocal model such as Kim_Vocal_2.onnx"
            )
        self.frequencies, self.times = sizes
        bins = self.config.fft // 2 + 1
        self.chunk = self.config.hop * (self.times - 1)
        if self.frequencies > bins or self.chunk <= self.config.fft:
            raise UserError(
                f"{path} takes {self.frequencies} frequencies and {self.times} times; an fft of "
                f"{self.config.fft} has {bins} and needs more times; give the model's own fft size"
            )
        i = np.arange(self.config.fft)
        self._window = (0.5 - 0.5 * np.cos(2 * np.pi * i / self.config.fft)).astype(np.float32)

    def __call__(self, samples: Float[np.ndarray, "2 n"]) -> Float[np.ndarray, "2 n"]:
        """The voice in stereo sound at 44.1 kHz."""
        parts = list(self.stream([samples]))
        return np.concatenate([np.zeros((2, 0), np.float32), *parts], axis=1)

    def stream(
        self, blocks: Iterable[Float[np.ndarray, "2 n"]]
    ) -> Iterator[Float[np.ndarray, "2 m"]]:
        """The same, from blocks of any lengths to blocks of other lengths, as long in all.

        A chunk and a block are held at a time. Chunks fade into each other.
        """
        step = self.chunk - int(self.chunk * self.config.overlap)
        # Chunks know nothing at their very edges, so the first one starts before the sound.
        lead = self.config.fft // 2
        fade = np.hanning(self.chunk).astype(np.float32)
        waiting = np.zeros((2, lead), np.float32)  # heard, not yet gone through in full
        total = np.zeros((2, self.chunk), np.float32)
        weight = np.zeros(self.chunk, np.float32)
        skip, owed = lead, 0  # output to leave out at the start; input not yet given back

        def advance() -> np.ndarray:
            nonlocal waiting, skip, owed
            total[:] += self._chunk(waiting[:, : self.chunk]) * fade
            weight[:] += fade
            done = total[:, :step] / np.maximum(weight[:step], 1e-8)
            for kept in (total, weight):
                kept[..., :-step] = kept[..., step:].copy()
                kept[..., -step:] = 0.0
            waiting = waiting[:, step:]
            done, skip = done[:, skip:], max(0, skip - step)
            done = done[:, :owed]
            owed -= done.shape[1]
            return done

        for block in blocks:
            block = _stereo(block)
            owed += block.shape[1]
            waiting = np.concatenate([waiting, block], axis=1)
            # One chunk stays behind, so that the end can be told from the middle.
            while waiting.shape[1] > self.chunk:
                yield advance()
        while owed:
            missing = self.chunk - waiting.shape[1]
            waiting = np.pad(waiting, ((0, 0), (0, max(0, missing))))
            yield advance()

    def _chunk(self, sound: Float[np.ndarray, "2 n"]) -> Float[np.ndarray, "2 n"]:
        spectrum = self._analyse(sound)[:, : self.frequencies]
        spectrum[:, : self.config.cut_bins] = 0.0
        # Channels of the network: left real, left imaginary, right real, right imaginary.
        images = np.stack([spectrum.real, spectrum.imag], axis=1).astype(np.float32)
        images = images.reshape(1, 4, self.frequencies, self.times)
        (answer,) = self._session.run(None, {self._input: images})[:1]
        parts = np.asarray(answer, np.float32).reshape(2, 2, self.frequencies, self.times)
        voice = np.zeros((2, self.config.fft // 2 + 1, self.times), np.complex64)
        voice[:, : self.frequencies] = parts[:, 0] + 1j * parts[:, 1]
        return self._synthesise(voice)

    def _analyse(self, sound: Float[np.ndarray, "2 n"]) -> np.ndarray:
        """Spectra [2, bins, times] around every multiple of the hop; the ends are mirrored."""
        half = self.config.fft // 2
        padded = np.pad(sound, ((0, 0), (half, half)), mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.config.fft, axis=1)
        spectra = np.fft.rfft(frames[:, :: self.config.hop] * self._window, axis=-1)
        return np.swapaxes(spectra, 1, 2).astype(np.complex64)

    def _synthesise(self, spectra: np.ndarray) -> Float[np.ndarray, "2 n"]:
        """The inverse of `_analyse`."""
        fft, hop = self.config.fft, self.config.hop
        frames = np.fft.irfft(np.swapaxes(spectra, 1, 2), fft, axis=-1) * self._window
        length = fft + hop * (self.times - 1)
        sound, weight = np.zeros((2, length), np.float32), np.zeros(length, np.float32)
        for i in range(self.times):
            sound[:, i * hop : i * hop + fft] += frames[:, i]
            weight[i * hop : i * hop + fft] += self._window**2
        kept = slice(fft // 2, fft // 2 + self.chunk)
        return sound[:, kept] / weight[kept]


def _stereo(block: np.ndarray) -> np.ndarray:
    block = np.asarray(block, np.float32)
    if block.ndim != 2 or block.shape[0] != 2:
        raise ValueError(f"sound has shape {block.shape}, expected [2, n]")
    return block


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "taking out the voice needs onnxruntime; pip install 'memo_jax[onnx]'"
        ) from None
    if not path.is_file():
        raise UserError(f"no file {path}, expected an MDX vocal model such as Kim_Vocal_2.onnx")
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # onnxruntime's own exception types are not public
        raise UserError(f"{path} is no ONNX model that runs here: {one_line(error)}") from error
