"""The picture's side: which face, which square around it, and who it is."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from memo_jax.errors import UserError
from memo_jax.io.crop import AUTO, Crop, crop_around, cut, parse_crop
from memo_jax.io.face import ArcFace, Face, FaceFinder, HaarFinder, OnnxFinder, choose_face
from memo_jax.io.image import MIN_SIDE, read_image, resize, to_unit


@dataclass(frozen=True)
class Scene:
    """A picture made ready.

    `image` is the crop at the model's size, `identity` the face's embedding (zeros where nothing
    could tell it), `notes` what the user should know of how it was made.
    """

    picture: UInt8[np.ndarray, "H W 3"]
    crop: Crop
    image: UInt8[np.ndarray, "s s 3"]
    identity: Float[np.ndarray, " e"]
    notes: tuple[str, ...] = ()


class FaceModels:
    """The face models of a run: the release's ONNX files where they are, else OpenCV's finder."""

    def __init__(self, folder: Path | None):
        found = {} if folder is None else {p.stem: p for p in sorted(folder.rglob("*.onnx"))}
        detector = next((p for stem, p in found.items() if stem.startswith("scrfd")), None)
        embedder = next(
            (p for stem, p in found.items() if stem in ("glintr100", "w600k_r50")), None
        )
        self.finder: FaceFinder = OnnxFinder(detector) if detector else HaarFinder()
        self.embedder = ArcFace(embedder) if embedder and detector else None


def make_scene(
    image: str | os.PathLike[str] | UInt8[np.ndarray, "H W 3"],
    *,
    size: int,
    identity: str,
    identity_dim: int,
    models: FaceModels,
    crop: str = AUTO,
    face: str = "auto",
) -> Scene:
    """The scene of a picture file or of RGB pixels.

    Raises:
      UserError: the picture cannot be read, or the face is not found or not clear.
    """
    if isinstance(image, np.ndarray):
        picture, name = _checked(image), ""
    else:
        picture, name = read_image(image), str(image)
    box = parse_crop(crop, picture.shape)
    faces: list[Face] = []
    chosen: Face | None
    if box == AUTO or identity == "arcface":
        faces = models.finder.find(picture)
    if box == AUTO:
        chosen = choose_face(faces, face, name)
        box = crop_around(chosen, picture.shape)
    else:
        chosen = next((found for found in faces if _centre_in(found, box)), None)
    square = cut(picture, box, size)
    if identity == "pixels":
        return Scene(picture, box, square, pixel_identity(square, identity_dim))
    embedding, notes = np.zeros(identity_dim, np.float32), []
    if models.embedder is None:
        notes.append(
            "no face recognition model (glintr100.onnx beside scrfd_*.onnx): "
            "the face tokens are those of no face"
        )
    elif chosen is None:
        notes.append("no face in the crop: the face tokens are those of no face")
    else:
        embedding = models.embedder.embed(picture, chosen)
    return Scene(picture, box, square, embedding, tuple(notes))


def pixel_identity(image: UInt8[np.ndarray, "s s 3"], dim: int) -> Float[np.ndarray, " dim"]:
    """A thumbnail of the crop as an embedding, for models trained without face recognition.

    `dim` must be 3 times a square.
    """
    side = math.isqrt(dim // 3)
    if 3 * side * side != dim:
        raise UserError(f"identity 'pixels' needs 3 n^2 numbers, the model has {dim}")
    return to_unit(resize(image, (side, side))).reshape(-1)


def _centre_in(face: Face, crop: Crop) -> bool:
    x, y, w, h = face.box
    return 0 <= x + w / 2 - crop.x < crop.width and 0 <= y + h / 2 - crop.y < crop.height


def _checked(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"image array has shape {image.shape} and dtype {image.dtype}; "
            "expected uint8 [H, W, 3] in RGB"
        )
    if min(image.shape[:2]) < MIN_SIDE:
        raise UserError(f"image is {image.shape[1]}x{image.shape[0]}, smaller than {MIN_SIDE}")
    return image
