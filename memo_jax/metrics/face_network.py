"""A network of the user's own that looks at a cut-out face, as ONNX."""

import os
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from memo_jax.io.boxes import Face
from memo_jax.io.crop import crop_around, cut
from memo_jax.io.paths import existing_file, fail

MARGIN = 1.4  # side of the crop over the face's box
PIXELS = 256  # of a crop, before it is brought to a network's side


class FaceNetwork:
    """One input float32 [1, 3, s, s], RGB in [0, 1]; its first output is what it says.

    What else a network wants done to pixels, such as another mean, belongs into its file.
    """

    def __init__(self, path: str | os.PathLike[str], what: str):
        """`what` is how messages name it.

        Raises:
          UserError: no such file, no such model, or onnxruntime is not installed.
        """
        file = existing_file(path, what)
        self.name = f"{what} {str(path)!r}"
        try:
            import onnxruntime
        except ImportError as error:
            raise fail(
                f"{self.name} needs onnxruntime, which is not installed; run "
                "pip install memo_jax[onnx]"
            ) from error
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no base class
            raise fail(f"{self.name} is not an ONNX model that can be read", error) from error
        shape = self._session.get_inputs()[0].shape
        self._side = shape[-1] if isinstance(shape[-1], int) else 224
        # Told by a picture without a face: what the file states about its output may be symbols.
        self.width = len(self(np.zeros((self._side, self._side, 3), np.uint8)))

    def __call__(self, face: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
        """Its output for a cut-out face, float32 [width]; raises UserError where it takes none."""
        square = cv2.resize(face, (self._side, self._side), interpolation=cv2.INTER_AREA)
        pixels = square.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(255)
        feed: dict[str, Any] = {self._session.get_inputs()[0].name: pixels}
        try:
            return np.asarray(self._session.run(None, feed)[0], np.float32).ravel()
        except Exception as error:  # its errors share no base class
            raise fail(
                f"{self.name} does not take a picture [1, 3, {self._side}, {self._side}]", error
            ) from error


def cut_face(frame: UInt8[np.ndarray, "h w 3"], face: Face) -> UInt8[np.ndarray, "256 256 3"]:
    """A face by its box times 1.4."""
    return cut(frame, crop_around(face, frame.shape, MARGIN), PIXELS)
