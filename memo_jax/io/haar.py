"""Faces by OpenCV's Haar cascades, which come with OpenCV: no model file, no licence to ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from memo_jax.io.boxes import Face, largest_first, suppress

# The picture is searched at a size between these (pixels of its longer and shorter side):
# cascades see nothing below about 30 pixels and are slow and noisy on large pictures.
LONGEST, SHORTEST = 1000, 240

# Two finds are one face above this intersection over union, or over the smaller box.
SAME_FACE, NESTED = 0.3, 0.6

# A find this much weaker than the best one of the picture is taken for a pattern in the
# background: a true second face keeps most of its score.
WEAK = 0.5

# Neighbouring windows that must agree are counted up to here.
MANY_NEIGHBOURS = 30


@dataclass(frozen=True)
class _Attempt:
    """One setting of the search; later ones are looser and find more that is no face."""

    scale_step: float
    neighbours: int
    equalize: bool = False
    border: float = 0.0  # edge pixels added on every side, over the picture's size


ATTEMPTS = (
    _Attempt(1.1, 6),
    _Attempt(1.05, 4),
    _Attempt(1.05, 3, equalize=True),
    _Attempt(1.05, 3, border=0.3),  # a face that fills the picture needs some room around it
    _Attempt(1.03, 1, equalize=True, border=0.15),
)


class HaarFinder:
    """Finds upright frontal faces. Without landmarks."""

    def __init__(self) -> None:
        self._faces = [
            _cascade("haarcascade_frontalface_default"),
            _cascade("haarcascade_frontalface_alt2"),
        ]
        self._eyes = _cascade("haarcascade_eye_tree_eyeglasses")

    def find(self, image: np.ndarray) -> list[Face]:
        """Faces in a picture uint8 [H, W, 3] RGB, the largest first.

        Looser and looser searches are tried until one finds something. The score counts
        the cascades and neighbouring windows that agree, and eyes found inside.
        """
        grey, scale = _search_size(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        for attempt in ATTEMPTS:
            found = self._search(grey, attempt)
            if found:
                break
        sure = [f for f in found if f.score >= WEAK * found[0].score]
        return largest_first(_scaled(f, 1 / scale, image.shape) for f in sure)

    def _search(self, grey: np.ndarray, attempt: _Attempt) -> list[Face]:
        """Faces in a grey picture uint8 [H, W], best first."""
        pad = round(attempt.border * min(grey.shape))
        view = np.pad(grey, pad, mode="edge") if pad else grey
        if attempt.equalize:
            view = cv2.equalizeHist(view)
        least = max(30, min(view.shape) // 16)
        finds: list[tuple[int, Face, int]] = []
        for number, cascade in enumerate(self._faces):
            boxes, counts = cascade.detectMultiScale2(
                view,
                scaleFactor=attempt.scale_step,
                minNeighbors=attempt.neighbours,
                minSize=(least, least),
            )
            for box, count in zip(boxes, np.ravel(counts), strict=True):
                find = Face((int(box[0]), int(box[1]), int(box[2]), int(box[3])), 0.0)
                finds.append((number, find, int(count)))
        faces = []
        for number, face, count in finds:
            agree = any(
                other != number and len(suppress([face, twin], SAME_FACE)) == 1
                for other, twin, _ in finds
            )
            strength = min(count, MANY_NEIGHBOURS) / MANY_NEIGHBOURS
            score = 0.3 * agree + 0.3 * strength + 0.4 * self._eye_share(view, face)
            x, y, w, h = face.box
            faces.append(Face((x - pad, y - pad, w, h), score))
        return suppress(faces, SAME_FACE, NESTED)

    def _eye_share(self, view: np.ndarray, face: Face) -> float:
        """0, 0.5 or 1: none, one or two eyes seen in the upper part of a face's box."""
        x, y, w, h = (int(v) for v in face.box)
        upper = view[y : y + round(0.6 * h), x : x + w]
        zoom = max(1.0, 120 / w)
        upper = cv2.resize(upper, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
        least = round(0.12 * w * zoom)
        eyes = self._eyes.detectMultiScale(upper, 1.1, 3, minSize=(least, least))
        return min(len(eyes), 2) / 2


def _cascade(name: str) -> cv2.CascadeClassifier:
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / f"{name}.xml"))
    assert not cascade.empty(), f"OpenCV came without its cascade {name}"
    return cascade


def _search_size(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """A grey picture at a size good to search, and its scale over the original."""
    scale = min(1.0, LONGEST / max(grey.shape))
    if min(grey.shape) < SHORTEST:
        scale = min(SHORTEST / min(grey.shape), LONGEST / max(grey.shape))
    if scale == 1.0:
        return grey, scale
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=how), scale


def _scaled(face: Face, scale: float, image_shape: tuple[int, ...]) -> Face:
    """The face in original pixels, its box cut at the picture's border."""
    x, y, w, h = (v * scale for v in face.box)
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, image_shape[1]), min(y + h, image_shape[0])
    return Face((left, top, right - left, bottom - top), face.score)
