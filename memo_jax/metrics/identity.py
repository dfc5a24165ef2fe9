"""Whether it stays the same person: cosines of face embeddings with a reference, by second."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from memo_jax.errors import UserError
from memo_jax.io.boxes import Face
from memo_jax.io.crop import crop_around, cut
from memo_jax.io.face import ArcFace
from memo_jax.metrics.meters import Arrays
from memo_jax.metrics.videos import Chunk, portrait_face
from memo_jax.prepare.media import Sound

PIXELS = 16  # of a side of the thumbnail that stands for a head without a network


class Identity:
    """`embeddings` float32 [k, d] of length 1, and the `seconds` [k] at which they are.

    With ArcFace they are of faces, as papers have it. Without it they are thumbnails of the head,
    their mean taken off: a `pixel identity`, which tells people apart who look different, but
    also sees a turn of the head or another light.
    """

    name = "identity"
    hears = False

    def __init__(self, embedder: ArcFace | None, weights: str = ""):
        """`weights` is the hash of the embedder's file."""
        self._embedder = embedder
        self.key = f"identity {weights or f'pixels {PIXELS}'}"
        self.published = embedder is not None

    def start(self, sound: Sound | None, fps: float) -> "_Identity":
        return _Identity(self, fps)

    def embed(self, picture: UInt8[np.ndarray, "h w 3"], face: Face | None) -> np.ndarray | None:
        """A face's embedding, of length 1; None where there is none to embed."""
        if self._embedder is None:
            return _pixels(picture, face)
        if face is None or face.landmarks is None:
            return None
        found = self._embedder.embed(picture, face).astype(np.float64)
        length = np.linalg.norm(found)
        return (found / length).astype(np.float32) if length > 0 else None


class _Identity:
    def __init__(self, meter: Identity, fps: float):
        self._meter, self._fps = meter, fps
        self._found: list[tuple[float, np.ndarray]] = []

    def add(self, chunk: Chunk) -> None:
        for i in chunk.sampled:
            found = self._meter.embed(chunk.frames[i], chunk.faces.get(i))
            if found is not None:
                self._found.append(((chunk.first + i) / self._fps, found))

    def finish(self) -> Arrays:
        if not self._found:
            return {"embeddings": np.zeros((0, 1), np.float32), "seconds": np.zeros(0)}
        return {
            "embeddings": np.stack([embedding for _, embedding in self._found]),
            "seconds": np.array([second for second, _ in self._found]),
        }


def cosines(
    embeddings: Float[np.ndarray, "k d"], reference: Float[np.ndarray, " other"]
) -> Float[np.ndarray, " k"]:
    """With a reference of any length but 0.

    Raises:
      UserError: embeddings of another network.
    """
    if embeddings.shape[1] != len(reference):
        raise UserError(
            f"embeddings of {embeddings.shape[1]} numbers against a reference of "
            f"{len(reference)}; expected those of one network"
        )
    return embeddings @ (reference / np.linalg.norm(reference))


def drift(
    values: Float[np.ndarray, " k"], seconds: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " s"]:
    """Means of each second from the first to the last; nan where there is nothing."""
    if not len(values):
        return np.zeros(0)
    second = np.floor(np.asarray(seconds) + 1e-6).astype(int)
    count = np.bincount(second)
    total = np.bincount(second, weights=values)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _pixels(picture: UInt8[np.ndarray, "h w 3"], face: Face | None) -> np.ndarray | None:
    face = face or portrait_face(picture.shape)
    small = cut(picture, crop_around(face, picture.shape), 4 * PIXELS)
    tiny = cv2.resize(small, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA).astype(np.float64)
    tiny -= tiny.mean()
    length = np.linalg.norm(tiny)
    return (tiny / length).astype(np.float32).ravel() if length > 0 else None
