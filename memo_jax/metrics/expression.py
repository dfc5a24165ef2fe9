"""Expression coefficients of faces by a 3DMM regressor that the user has, for E-FID.

There is no default. Five landmarks, which is what the published face finder gives, say more of
the head's pose than of its expression, and pixels of a mouth say who it belongs to: a distance of
either would not be one of expressions.
"""

import os

import numpy as np
from jaxtyping import UInt8

from memo_jax.io.paths import fail
from memo_jax.metrics.face_network import FaceNetwork, cut_face
from memo_jax.metrics.meters import Arrays
from memo_jax.metrics.videos import Chunk
from memo_jax.prepare.media import Sound

# Where expression stands among the 257 numbers of Deep3DFaceRecon (arXiv:1903.08527): after 80 of
# identity.
DEEP3D, DEEP3D_EXPRESSION = 257, slice(80, 144)


class Regressor:
    """A 3DMM regressor as ONNX (`FaceNetwork`); its output holds the coefficients.

    Faces are cut by their box with a margin of 1.4, without the alignment by 68 landmarks that
    Deep3DFaceRecon was trained on: figures compare with each other, and not with a paper's that
    aligned.
    """

    def __init__(self, path: str | os.PathLike[str], columns: slice | None = None):
        """`columns` of the output are expression; of 257 they are known.

        Raises:
          UserError: no such file, no such model, or columns that it does not have.
        """
        self._network = FaceNetwork(path, "3DMM regressor")
        name, width = self._network.name, self._network.width
        if columns is None and width != DEEP3D:
            raise fail(
                f"{name} gives {width} numbers, expected {DEEP3D}; say which are expression, such "
                "as 80:144"
            )
        self.columns = columns or DEEP3D_EXPRESSION
        self.width = len(range(width)[self.columns])
        if self.width < 2:
            raise fail(
                f"{name} gives {width} numbers, of which {self.columns.start}:{self.columns.stop} "
                f"are {self.width}; expected two at least"
            )

    def __call__(self, face: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
        """Expression coefficients of a cut-out face, float32 [width]."""
        return self._network(face)[self.columns]


class Expression:
    """`coefficients` float32 [k, c] of the face in every sampled frame."""

    name = "expression"
    hears = False

    def __init__(self, regressor: Regressor, weights: str):
        """`weights` is the hash of the regressor's file."""
        self._regressor = regressor
        self.width = regressor.width
        self.key = f"expression {weights} {regressor.columns}"

    def start(self, sound: Sound | None, fps: float) -> "_Expression":
        return _Expression(self._regressor)


class _Expression:
    def __init__(self, regressor: Regressor):
        self._regressor = regressor
        self._found = [np.empty((0, regressor.width), np.float32)]

    def add(self, chunk: Chunk) -> None:
        for i, face in chunk.faces.items():
            self._found.append(self._regressor(cut_face(chunk.frames[i], face))[None])

    def finish(self) -> Arrays:
        return {"coefficients": np.concatenate(self._found)}
