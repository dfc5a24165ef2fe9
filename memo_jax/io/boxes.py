"""A found face, and the arithmetic of overlapping boxes that every finder needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture.

    box: (x, y, width, height) in picture pixels.
    score: in [0, 1]; comparable only between faces of one finder.
    landmarks: float32 [5, 2] as (x, y): the eye on the left of the picture, the other eye,
    nose, the mouth's left and right corner; None where the finder has none.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray | None = None

    @property
    def area(self) -> float:
        """Square pixels."""
        return self.box[2] * self.box[3]


class FaceFinder(Protocol):
    """Whatever finds faces."""

    def find(self, image: np.ndarray) -> list[Face]:
        """Faces in a picture uint8 [H, W, 3] RGB, the largest first."""


def suppress(faces: Iterable[Face], overlap: float, nested: float = 1.0) -> list[Face]:
    """Of faces that are the same face, the one with the best score; best first.

    overlap: two boxes are the same face above this intersection over union.
    nested: ... or above this intersection over the smaller box.
    """
    kept: list[Face] = []
    for face in sorted(faces, key=lambda f: -f.score):
        for other in kept:
            common = _intersection(face, other)
            if common > overlap * (face.area + other.area - common):
                break
            if common > nested * min(face.area, other.area):
                break
        else:
            kept.append(face)
    return kept


def largest_first(faces: Iterable[Face]) -> list[Face]:
    """Faces by falling area."""
    return sorted(faces, key=lambda f: -f.area)


def _intersection(a: Face, b: Face) -> float:
    """Square pixels that two boxes share."""
    across = min(a.box[0] + a.box[2], b.box[0] + b.box[2]) - max(a.box[0], b.box[0])
    down = min(a.box[1] + a.box[3], b.box[1] + b.box[3]) - max(a.box[1], b.box[1])
    return max(across, 0.0) * max(down, 0.0)
