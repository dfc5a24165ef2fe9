"""Expression coefficients of faces by a 3DMM regressor that the user has, for E-FID.

There is no default. Five landmarks, which is what the published face finder gives, say more of
the head's pose than of its expression, and pixels of a mouth say who it belongs to: a distance of
either would not be one of expressions.
"""

import os
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from memo_jax.io.crop import crop_around, cut
from memo_jax.io.paths import existing_file, fail
from memo_jax.metrics.meters import Arrays
from memo_jax.metrics.videos import Chunk
from memo_jax.prepare.media import Sound

MARGIN = 1.4  # side of the crop over the face's box
# Where expression stands among the 257 numbers of Deep3DFaceRecon (arXiv:1903.08527): after 80 of
# identity.
DEEP3D, DEEP3D_EXPRESSION = 257, slice(80, 144)


class Regressor:
    """A 3DMM regressor as ONNX: one input float32 [1, 3, s, s], RGB in [0, 1]; its first output
    holds the coefficients.

    Faces are cut by their box with a margin of 1.4, without the alignment by 68 landmarks that
    Deep3DFaceRecon was trained on: figures compare with each other, and not with a paper's that
    aligned.
    """

    def __init__(self, path: str | os.PathLike[str], columns: slice | None = None):
        """`columns` of the output are expression; of 257 they are known.

        Raises:
          UserError: no such file, no such model, or columns that it does not have.
        """
        file = existing_file(path, "3DMM regressor")
        try:
            import onnxruntime
        except ImportError as error:
            raise fail(
                f"3DMM regressor {str(path)!r} needs onnxruntime, which is not installed; run "
                "pip install memo_jax[onnx]"
            ) from error
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no base class
            raise fail(
                f"3DMM regressor {str(path)!r} is not an ONNX model that can be read", error
            ) from error
        self._path, shape = path, self._session.get_inputs()[0].shape
        self._side = shape[-1] if isinstance(shape[-1], int) else 224
        # Told by a picture without a face: what the file states about its output may be symbols.
        width = len(self._run(np.zeros((self._side, self._side, 3), np.uint8)))
        if columns is None and width != DEEP3D:
            raise fail(
                f"3DMM regressor {str(path)!r} gives {width} numbers, expected {DEEP3D}; say which "
                "are expression, such as 80:144"
            )
        self._columns = columns or DEEP3D_EXPRESSION
        self.width = len(range(width)[self._columns])
        if self.width < 2:
            raise fail(
                f"3DMM regressor {str(path)!r} gives {width} numbers, of which "
                f"{self._columns.start}:{self._columns.stop} are {self.width}; expected two at "
                "least"
            )

    def __call__(self, face: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
        """Expression coefficients of a cut-out face, float32 [width]."""
        return self._run(face)[self._columns]

    def _run(self, face: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
        square = cv2.resize(face, (self._side, self._side), interpolation=cv2.INTER_AREA)
        feed: dict[str, Any] = {
            self._session.get_inputs()[0].name: square.astype(np.float32).transpose(2, 0, 1)[None]
            / np.float32(255)
        }
        try:
            return np.asarray(self._session.run(None, feed)[0], np.float32).ravel()
        except Exception as error:  # its errors share no base class
            raise fail(
                f"3DMM regressor {str(self._path)!r} does not take a picture [1, 3, "
                f"{self._side}, {self._side}]",
                error,
            ) from error


class Expression:
    """`coefficients` float32 [k, c] of the face in every sampled frame."""

    name = "expression"
    hears = False

    def __init__(self, regressor: Regressor, weights: str):
        """`weights` is the hash of the regressor's file."""
        self._regressor = regressor
        self.width = regressor.width
        self.key = f"expression {weights} {regressor._columns}"

    def start(self, sound: Sound | None, fps: float) -> "_Expression":
        return _Expression(self._regressor)


class _Expression:
    def __init__(self, regressor: Regressor):
        self._regressor = regressor
        self._found = [np.empty((0, regressor.width), np.float32)]

    def add(self, chunk: Chunk) -> None:
        for i, face in chunk.faces.items():
            frame = chunk.frames[i]
            square = crop_around(face, frame.shape, MARGIN)
            self._found.append(self._regressor(cut(frame, square, 256))[None])

    def finish(self) -> Arrays:
        return {"coefficients": np.concatenate(self._found)}
