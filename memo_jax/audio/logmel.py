"""Log-mel features at the video's frame rate: a small ear that needs no weights.

They take the place of wav2vec2's hidden states in small models, with moments within the frame in
the place of layers. A frame hears its own time and 12.5 ms on both sides, no more, and loudness
stays: there are no statistics of the recording.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.config import Config
from memo_jax.errors import UserError

WINDOW = 400  # 25 ms
FFT = 512
FRAMES_AT_ONCE = 1024


@dataclass(frozen=True)
class LogMelConfig(Config):
    """`moments` per video frame, each of `bands` between `low` and `high` Hz.

    Power in dB of a full-scale tone becomes (dB - centre) / scale, and nothing lies below `floor`;
    with the defaults silence is -1.2 and the loudest tone about 3.6.
    """

    moments: int = 4
    bands: int = 32
    low: float = 60.0
    high: float = 7600.0
    floor: float = -80.0
    centre: float = -60.0
    scale: float = 17.0

    @property
    def text(self) -> str:
        """All of it in one line, which another config does not have."""
        return (
            f"log-mel: {self.moments} moments of {self.bands} bands, {self.low:g} to "
            f"{self.high:g} Hz, (dB - {self.centre:g}) / {self.scale:g} from {self.floor:g} dB"
        )

    def __post_init__(self) -> None:
        if self.moments < 1 or self.bands < 1 or self.scale <= 0:
            raise UserError("log-mel config: moments, bands and scale must be above 0")
        if not 0 <= self.low < self.high <= SAMPLE_RATE / 2:
            raise UserError(
                f"log-mel config: {self.low:g} to {self.high:g} Hz, expected rising between 0 and "
                f"{SAMPLE_RATE // 2}"
            )


def log_mel(
    samples: Float[np.ndarray, "n"], frames: int, fps: float, config: LogMelConfig | None = None
) -> Float[np.ndarray, "f l d"]:
    """Features of a recording at 16 kHz in [-1, 1]; beyond its ends it is silent.

    Returns:
      [frames, moments, bands], float32, as `memo_jax.audio.timing.windows` takes hidden states.
    """
    config = config or LogMelConfig()
    filters = mel_filters(config)
    # Periodic Hann, scaled so that a full-scale tone has power 1.
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    window = (window / (window.sum() / 2)).astype(np.float32)
    x = np.asarray(samples, np.float32)
    out = np.empty((frames, config.moments, config.bands), np.float32)
    for start in range(0, frames, FRAMES_AT_ONCE):
        stop = min(start + FRAMES_AT_ONCE, frames)
        moments = (np.arange(config.moments) + 0.5) / config.moments
        times = (np.arange(start, stop)[:, None] + moments[None]) / fps
        first = np.rint(times * SAMPLE_RATE).astype(np.int64) - WINDOW // 2
        at = first[..., None] + np.arange(WINDOW)
        heard = np.where((at >= 0) & (at < len(x)), _take(x, at), 0.0).astype(np.float32)
        power = np.abs(np.fft.rfft(heard * window, FFT)) ** 2
        mel = power.astype(np.float32) @ filters
        decibels = 10.0 * np.log10(np.maximum(mel, 10.0 ** (config.floor / 10.0)))
        decibels = np.maximum(decibels, config.floor)  # a logarithm's last bit is the machine's own
        out[start:stop] = (decibels - config.centre) / config.scale
    return out


def _take(x: np.ndarray, at: np.ndarray) -> np.ndarray:
    return x[np.clip(at, 0, len(x) - 1)] if len(x) else np.zeros(at.shape, np.float32)


def mel_filters(config: LogMelConfig) -> Float[np.ndarray, "bins bands"]:
    """Triangles of height 1, evenly spaced in mel (2595 log10(1 + Hz / 700)), over FFT bins."""
    low, high = (2595.0 * np.log10(1.0 + f / 700.0) for f in (config.low, config.high))
    corners = 700.0 * (10.0 ** (np.linspace(low, high, config.bands + 2) / 2595.0) - 1.0)
    bins = np.arange(FFT // 2 + 1) * (SAMPLE_RATE / FFT)
    rise = (bins[:, None] - corners[None, :-2]) / (corners[1:-1] - corners[:-2])[None]
    fall = (corners[None, 2:] - bins[:, None]) / (corners[2:] - corners[1:-1])[None]
    return np.maximum(0.0, np.minimum(rise, fall)).astype(np.float32)
