"""What a model hears and sees of a clip: audio features, emotions by frame, a face embedding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import soxr
from flax import nnx
from jaxtyping import Float, Int8, UInt8

from memo_jax.audio.emotion import EmotionDetector, expand_labels
from memo_jax.audio.lengths import padded
from memo_jax.audio.logmel import log_mel
from memo_jax.audio.timing import SAMPLE_RATE, normalise
from memo_jax.audio.vocals import SAMPLE_RATE as VOCALS_RATE
from memo_jax.audio.vocals import VocalSeparator
from memo_jax.audio.wav2vec2 import Real
from memo_jax.data.clip import BFLOAT16
from memo_jax.errors import UserError
from memo_jax.io.boxes import Face
from memo_jax.pipeline.scene import FaceModels, pixel_identity
from memo_jax.weights.folder import read_component
from memo_jax.weights.sources import model_folder
from memo_jax.weights.spec import read_spec

UNKNOWN = "unknown"
FACES = "face_analysis"  # a model's folder of face models


@dataclass(frozen=True)
class Span:
    """A corpus's label of a part of a video, in seconds from its start."""

    start: float
    end: float
    emotion: str


class Embedder:
    """A model's ear and eye, without the networks that make pictures.

    Attributes:
      emotions: the names of its classes.
      audio_features: what it hears in, in words (`ModelSpec.audio_features`).
      notes: what the user should know of how it hears and sees.
    """

    def __init__(self, model: str, face_models: str = "", vocals: str = ""):
        """Loads what is needed of a model.

        Args:
          model: as elsewhere: a preset, a folder, a hub id.
          face_models: a folder with the release's ONNX face models; "" takes those in the model's
            folder, if there are any.
          vocals: the vocal separator's ONNX file; "" takes that of the model, "off" none.

        Raises:
          UserError: there is no such model, or it can neither hear nor label.
        """
        folder = model_folder(model)
        self._spec = read_spec(folder, whole=False)
        spec = self._spec
        self.emotions = spec.emotions
        self.audio_features = spec.audio_features
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        load = partial(read_component, folder, spec, dtype=dtype)
        self._encode: Callable[[np.ndarray, int], np.ndarray] | None = None
        if spec.log_mel is None:
            if "wav2vec2" not in spec.parts:
                raise UserError(f"model {spec.name!r} has neither wav2vec2 nor log_mel")
            self._encode = _encoder(load(name="wav2vec2"))
        self._detector = None
        if {"emotion2vec", "emotion_classifier"} <= set(spec.parts):
            self._detector = EmotionDetector(
                load(name="emotion2vec"),
                load(name="emotion_classifier"),
                shortest=spec.parts["emotion2vec"].config.shortest,
            )
        elif UNKNOWN not in spec.emotions:
            raise UserError(
                f"model {spec.name!r} has no emotion detector and no class {UNKNOWN!r}; give one "
                "that has"
            )
        if not vocals:
            own = _beside(folder, "vocal_separator")
            found = sorted(own.rglob("*.onnx")) if own else []
            vocals = str(found[0]) if found else "off"
        self._separator = None if vocals == "off" else VocalSeparator(vocals)
        self._faces = FaceModels(Path(face_models) if face_models else _beside(folder, FACES))
        self.finder = self._faces.finder
        self._dim = spec.parts["image_proj"].config.embedding_dim
        self.notes = self._notes()

    def hear(
        self, samples: Float[np.ndarray, " n"], frames: int, fps: float
    ) -> Float[np.ndarray, "f l d"]:
        """Audio features of every frame, bfloat16; the samples, at 16 kHz, last for the frames."""
        if self._encode is None:
            return log_mel(samples, frames, fps, self._spec.log_mel).astype(BFLOAT16)
        return self._encode(normalise(samples), frames).astype(BFLOAT16)

    def voice(self, wide: Float[np.ndarray, " n"], rate: int) -> Float[np.ndarray, " m"]:
        """Sound at `rate` as 16 kHz, the voice alone where there is a separator."""
        if self._separator is None:
            return self.plain(wide, rate)
        stereo = np.stack([_resampled(wide, rate, VOCALS_RATE)] * 2)
        return _resampled(self._separator(stereo).mean(axis=0), VOCALS_RATE, SAMPLE_RATE)

    def plain(self, wide: Float[np.ndarray, " n"], rate: int) -> Float[np.ndarray, " m"]:
        """Sound at `rate` as 16 kHz."""
        return _resampled(wide, rate, SAMPLE_RATE)

    @property
    def sound_rate(self) -> int:
        """Hz at which sound should be read: the separator's where there is one."""
        return SAMPLE_RATE if self._separator is None else VOCALS_RATE

    def feel(
        self,
        samples: Float[np.ndarray, " n"],
        frames: int,
        fps: float,
        label: str,
        spans: Sequence[Span],
    ) -> Int8[np.ndarray, " f"]:
        """The emotion of every frame: the detector's, else the corpus's label, else unknown.

        Args:
          samples: the recording at 16 kHz, music and all.
          frames: of video.
          fps: frames per second.
          label: of the whole clip, one of `emotions` or "".
          spans: of parts of it, in seconds from its start, in the place of `label`.
        """
        if self._detector is not None:
            labels = self._detector(samples)
            spread = expand_labels(labels, len(samples), frames, fps=fps, emotion_times="exact")
            return spread.astype(np.int8)
        found = np.full(frames, self._number(label), np.int8)
        middles = (np.arange(frames) + 0.5) / fps
        for span in spans:
            found[(middles >= span.start) & (middles < span.end)] = self._number(span.emotion)
        return found

    def face(
        self,
        crop: UInt8[np.ndarray, "s s 3"],
        picture: UInt8[np.ndarray, "h w 3"],
        face: Face,
    ) -> Float[np.ndarray, " d"]:
        """Who it is: of the crop's pixels, or by ArcFace of the picture; zeros where neither.

        ArcFace goes by landmarks. A face that was found without them is looked for once more.
        """
        if self._spec.identity == "pixels":
            return pixel_identity(crop, self._dim)
        if self._faces.embedder is None:
            return np.zeros(self._dim, np.float32)
        marked = face if face.landmarks is not None else _within(face, self.finder.find(picture))
        if marked is None:
            return np.zeros(self._dim, np.float32)
        return self._faces.embedder.embed(picture, marked)

    def _number(self, emotion: str) -> int:
        name = emotion if emotion in self.emotions else UNKNOWN
        return self.emotions.index(name) if name in self.emotions else -1

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self._spec.identity == "arcface" and self._faces.embedder is None:
            notes.append(
                "no face recognition model: face embeddings are zeros; give --face-models FOLDER"
            )
        if self._detector is None:
            notes.append(
                "the model has no emotion detector: frames have the corpus's label, or 'unknown'"
            )
        if self._separator is None and self._spec.log_mel is None:
            notes.append("no vocal separator: sound is heard as it is; give --vocals FILE")
        return tuple(notes)


def _beside(folder: Path, name: str) -> Path | None:
    """A model's folder of ONNX files, natively beside model.json or, published, in misc/."""
    return next((p for p in (folder / name, folder / "misc" / name) if p.is_dir()), None)


def _within(face: Face, found: Sequence[Face]) -> Face | None:
    """The largest find with landmarks whose centre lies in a face's, or a head's, box."""
    x, y, w, h = face.box
    for other in found:
        left, top, wide, high = other.box
        inside = 0 <= left + wide / 2 - x < w and 0 <= top + high / 2 - y < h
        if inside and other.landmarks is not None:
            return other
    return None


def _encoder(module: nnx.Module) -> Callable[[np.ndarray, int], np.ndarray]:
    """wav2vec2 over a clip: normalised [n] -> float32 [frames, layers, d].

    Clips of all lengths go through a handful of programs.
    """
    graphdef, state = nnx.split(module)
    params = nnx.to_pure_dict(state)

    @partial(jax.jit, static_argnums=3)
    def encode(params: dict[str, Any], samples: jax.Array, real: Real, frames: int) -> jax.Array:
        net: Any = nnx.merge(graphdef, params)
        hidden = net(samples[None], frames, real)
        return jnp.swapaxes(hidden[0], 0, 1).astype(jnp.float32)

    def heard(samples: np.ndarray, frames: int) -> np.ndarray:
        n, room = padded(len(samples), frames)
        wide = np.pad(samples, (0, n - len(samples)))
        real = Real(*(jnp.asarray([count], jnp.int32) for count in (len(samples), frames)))
        return np.asarray(encode(params, wide, real, room))[:frames]

    return heard


def _resampled(samples: np.ndarray, source: int, target: int) -> np.ndarray:
    return samples if source == target else soxr.resample(samples, source, target)
