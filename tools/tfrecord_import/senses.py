"""What a model makes of a clip: `memo_jax.prepare.embed`, for threads that share one model."""

import threading
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int8, UInt8

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.io.face import Face
from memo_jax.prepare.embed import Embedder
from memo_jax.weights.sources import model_folder
from memo_jax.weights.spec import read_spec


class Senses:
    """A model's ear and eye.

    Attributes:
      spec: the model's.
      notes: what the user should know of how it hears and sees.
    """

    def __init__(self, model: str, face_models: Path | None = None, vocals: Path | None = None):
        """`model` is a preset, a model folder or a hub id.

        The ONNX files of faces and of the vocal separator are those of the model's folder unless
        others are given, as where a video is made.

        Raises:
          UserError: there is no such model, or it has no ear.
        """
        folder = model_folder(model)
        self.spec = read_spec(folder, whole=False)
        own = folder / "face_analysis"
        face_models = face_models or (own if own.is_dir() else None)
        found = sorted((folder / "vocal_separator").glob("*.onnx"))
        vocals = vocals or (found[0] if found else None)
        self._embedder = Embedder(
            model,
            "" if face_models is None else str(face_models),
            "" if vocals is None else str(vocals),
        )
        self.notes = self._embedder.notes
        self._looking = threading.Lock()  # OpenCV's cascades serve one at a time

    def audio(
        self, samples: Float[np.ndarray, " n"], frames: int, fps: float
    ) -> Float[np.ndarray, "frames layers d"]:
        """Features of each frame, in bfloat16, of a sound at 16 kHz as long as the frames."""
        voice = self._embedder.voice(samples, SAMPLE_RATE)[: len(samples)]
        voice = np.pad(voice, (0, len(samples) - len(voice)))  # resampling rounds lengths
        return self._embedder.hear(voice, frames, fps)

    def emotion(
        self, samples: Float[np.ndarray, " n"], frames: int, fps: float, label: str
    ) -> Int8[np.ndarray, " frames"]:
        """The class of each frame: as it is heard, else the label's, else unknown."""
        return self._embedder.feel(samples, frames, fps, label, ())

    def face(self, square: UInt8[np.ndarray, "s s 3"]) -> Float[np.ndarray, " d"]:
        """The face embedding of a cropped picture; zeros where nothing can tell it."""
        whole = Face((0.0, 0.0, float(len(square)), float(len(square))), 0.0)
        found = self.find(square) if self.spec.identity == "arcface" else []
        return self._embedder.face(square, square, found[0] if found else whole)

    def find(self, pixels: UInt8[np.ndarray, "H W 3"]) -> list[Face]:
        """The faces in a picture, the largest first."""
        with self._looking:
            return self._embedder.finder.find(pixels)
