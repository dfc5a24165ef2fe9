"""The recording's side: features for every frame, and an emotion for every clip."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import soxr
from flax import nnx
from jaxtyping import Float, Int

from memo_jax.audio.emotion import EmotionDetector, clip_labels, expand_labels
from memo_jax.audio.logmel import log_mel
from memo_jax.audio.schedule import parse_emotion
from memo_jax.audio.timing import SAMPLE_RATE, padding, prepare, windows
from memo_jax.audio.vocals import VocalSeparator
from memo_jax.config import SamplerConfig
from memo_jax.errors import UserError
from memo_jax.io.sound import Recording, read_recording
from memo_jax.weights.folder import Model

# The published separator works on stereo at this rate.
VOCALS_RATE = 44100


@dataclass(frozen=True)
class Hearing:
    """A recording made ready.

    `frames` video frames last as long as the recording; `hidden` covers whole clips, which may be
    more. `notes` say what the user should know of how it was made.
    """

    duration: float
    frames: int
    hidden: Float[np.ndarray, "padded layers d"]
    emotions: Int[np.ndarray, " clips"]
    clip_frames: int
    notes: tuple[str, ...] = ()

    @property
    def clips(self) -> int:
        """Clips that must be generated."""
        return len(self.emotions)

    def windows(self, clip: int, size: int) -> Float[np.ndarray, "f window layers d"]:
        """The features around each frame of a clip."""
        start = clip * self.clip_frames
        stop = start + self.clip_frames
        return np.asarray(windows(self.hidden, size, start=start, stop=stop))


class Ear:
    """A model's way of hearing: its front end, and its emotion detector if it has one."""

    def __init__(self, model: Model, separator: Path | None):
        self.spec, self._separator = model.spec, separator
        self._encode: Callable[[np.ndarray, int], np.ndarray] | None = None
        if model.spec.log_mel is None:
            if "wav2vec2" not in model.modules:
                raise UserError(f"model {model.spec.name!r} has neither wav2vec2 nor log_mel")
            self._encode = _encoder(model.modules["wav2vec2"])
        self._detector = None
        if "emotion2vec" in model.modules and "emotion_classifier" in model.modules:
            self._detector = EmotionDetector(
                model.modules["emotion2vec"],
                model.modules["emotion_classifier"],
                shortest=model.spec.parts["emotion2vec"].config.shortest,
            )

    def __call__(
        self,
        audio: str | os.PathLike[str] | tuple[np.ndarray, int],
        sampler: SamplerConfig,
        *,
        emotion: str | None = None,
        vocals: str = "auto",
    ) -> Hearing:
        """Hear a file, or (mono samples, their rate in Hz).

        Raises:
          UserError: the recording cannot be read, the emotion is none, or `vocals` is "on" and
            there is no separator.
        """
        recording = _recording(audio)
        samples, notes = recording.samples, []
        # In whole numbers: a recording that ends with a frame must not count one more.
        frames = -(-len(samples) * sampler.fps // SAMPLE_RATE)
        spoken = samples
        if vocals == "on" and self._separator is None:
            raise UserError(
                "--vocals on needs the separator's ONNX file in the model's vocal_separator/; "
                "put it there or use --vocals off"
            )
        if vocals != "off" and self._separator is not None:
            spoken = _vocals(recording, audio, self._separator)
        elif vocals == "auto" and self.spec.log_mel is None:
            notes.append("no vocal separator: the recording is heard as it is")
        padded, hidden = self._hidden(spoken, sampler)
        labels, note = self._labels(samples, padded, sampler, emotion, recording.duration)
        clips = -(-frames // sampler.clip_frames)
        return Hearing(
            duration=recording.duration,
            frames=frames,
            hidden=hidden,
            # Rounding can pad by a clip more than the recording needs: that one is not made.
            emotions=clip_labels(labels, sampler.clip_frames)[:clips],
            clip_frames=sampler.clip_frames,
            notes=tuple(notes + note),
        )

    def _hidden(self, samples: np.ndarray, sampler: SamplerConfig) -> tuple[int, np.ndarray]:
        fps, clip_frames, how = sampler.fps, sampler.clip_frames, sampler.audio_padding
        if self._encode is None:
            padded, _ = padding(len(samples), fps, clip_frames, audio_padding=how)
            return padded, log_mel(samples, padded, fps, self.spec.log_mel)
        heard, padded = prepare(samples, fps, clip_frames, audio_padding=how)
        return padded, self._encode(heard, padded)

    def _labels(
        self,
        samples: np.ndarray,
        padded: int,
        sampler: SamplerConfig,
        emotion: str | None,
        duration: float,
    ) -> tuple[np.ndarray, list[str]]:
        schedule = None
        if emotion is not None:
            schedule = parse_emotion(emotion, self.spec.emotions, duration)
            if schedule.complete or self._detector is None:
                return schedule.labels(padded, sampler.fps), []
        if self._detector is None:
            neutral = parse_emotion("neutral", self.spec.emotions, duration)
            note = "this model has no emotion detector: neutral, unless --emotion says otherwise"
            return neutral.labels(padded, sampler.fps), [note]
        heard = expand_labels(
            self._detector(samples),
            len(samples),
            padded,
            fps=sampler.fps,
            emotion_times=sampler.emotion_times,
        )
        return (heard if schedule is None else schedule.labels(padded, sampler.fps, heard)), []


def _recording(audio: str | os.PathLike[str] | tuple[np.ndarray, int]) -> Recording:
    if not isinstance(audio, tuple):
        return read_recording(audio, SAMPLE_RATE)
    samples, rate = audio
    samples = np.asarray(samples)
    if samples.dtype.kind != "f" or samples.ndim != 1 or not samples.size:
        raise UserError(
            f"audio samples have shape {samples.shape} and dtype {samples.dtype}; "
            "expected one row of floats in [-1, 1], not empty"
        )
    samples = samples.astype(np.float32)
    if not np.isfinite(samples).all() or not rate > 0:
        raise UserError(f"audio samples must be finite, and their rate, {rate} Hz, above 0")
    return Recording(soxr.resample(samples, rate, SAMPLE_RATE), SAMPLE_RATE, Path())


def _vocals(
    recording: Recording, audio: str | os.PathLike[str] | tuple[np.ndarray, int], model: Path
) -> np.ndarray:
    """The voice at 16 kHz, as long as the recording."""
    if isinstance(audio, tuple):
        wide = soxr.resample(recording.samples, SAMPLE_RATE, VOCALS_RATE)
    else:
        wide = read_recording(audio, VOCALS_RATE).samples
    separator = VocalSeparator(model)
    second = VOCALS_RATE
    blocks = (np.stack([wide[i : i + second]] * 2) for i in range(0, len(wide), second))
    voice = np.concatenate([part.mean(axis=0) for part in separator.stream(blocks)])
    voice = soxr.resample(voice, VOCALS_RATE, SAMPLE_RATE)[: len(recording.samples)]
    return np.pad(voice, (0, len(recording.samples) - len(voice)))


def _encoder(module: nnx.Module) -> Callable[[np.ndarray, int], np.ndarray]:
    """wav2vec2 over a whole recording: [n] -> [frames, layers, d], in the dtype it runs in."""
    graphdef, state = nnx.split(module)
    params = nnx.to_pure_dict(state)

    def encode(params: dict, samples: jax.Array, frames: int) -> jax.Array:
        hidden = nnx.merge(graphdef, params)(samples[None], frames)
        return jnp.swapaxes(hidden[0], 0, 1)

    compiled = jax.jit(encode, static_argnums=2)
    return lambda samples, frames: np.asarray(compiled(params, jnp.asarray(samples), frames))
