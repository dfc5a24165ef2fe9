"""The square of the picture that is animated: chosen, cut out, shown, and pasted back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np

from memo_jax.errors import UserError
from memo_jax.io.face import Face
from memo_jax.io.image import MIN_SIDE, resize
from memo_jax.io.paths import fail

AUTO: Final = "auto"

HEAD_MARGIN = 2.2
"""Side of the automatic crop over the longer side of the face box: a detector's box runs from
forehead to chin, and hair, ears and neck take about half its size on every side."""

# The crop's centre lies above the box's by this share of the box: hair needs more than a neck.
HEAD_RISE = 0.05

# A head that fills the picture may be cropped down to this before the crop crosses the border.
MIN_MARGIN = 1.3

# Width of the blend at a pasted crop's border, over the crop's shorter side.
FEATHER = 0.1


@dataclass(frozen=True)
class Crop:
    """A box in picture pixels; (x, y) is its upper left corner.

    It may reach over the picture's border: what lies outside is filled with the nearest
    border pixel when cut, and dropped when pasted back.
    """

    x: int
    y: int
    width: int
    height: int

    def inside(self, image_shape: tuple[int, ...]) -> tuple[slice, slice]:
        """The (rows, columns) of the picture that the crop covers."""
        height, width = image_shape[:2]
        return (
            slice(max(self.y, 0), min(self.y + self.height, height)),
            slice(max(self.x, 0), min(self.x + self.width, width)),
        )


def whole(image_shape: tuple[int, ...]) -> Crop:
    """The whole picture of shape (H, W, ...)."""
    return Crop(0, 0, image_shape[1], image_shape[0])


def crop_around(face: Face, image_shape: tuple[int, ...], margin: float = HEAD_MARGIN) -> Crop:
    """The square around a face with the head whole, for a picture of shape (H, W, ...).

    margin: side over the longer side of the face box. The square is moved, then shrunk, to
    stay inside the picture; it crosses the border only where the head itself would not fit.
    """
    x, y, w, h = face.box
    height, width = image_shape[:2]
    longest = max(w, h)
    side = margin * longest
    if side > min(height, width):
        side = max(min(height, width), min(margin, MIN_MARGIN) * longest)
    side = max(int(side), 1)

    def start(centre: float, length: int) -> int:
        if side > length:
            return (length - side) // 2
        return min(max(round(centre - side / 2), 0), length - side)

    return Crop(start(x + w / 2, width), start(y + (0.5 - HEAD_RISE) * h, height), side, side)


def parse_crop(text: str, image_shape: tuple[int, ...]) -> Crop | Literal["auto"]:
    """The value of --crop for a picture of shape (H, W, ...).

    "auto" is returned as it is, for the caller to find the face; "none" is the whole picture;
    "x,y,w,h" are pixels. Raises UserError for anything else, and for a box that is smaller
    than 32 pixels, covers less than that of the picture, or is over twice its size.
    """
    height, width = image_shape[:2]
    word = text.strip().lower()
    if word == AUTO:
        return AUTO
    if word == "none":
        return whole(image_shape)
    try:
        x, y, w, h = (int(part) for part in word.split(","))
    except ValueError:
        raise _bad_crop(text, "is not understood", image_shape) from None
    crop = Crop(x, y, w, h)
    if min(w, h) < MIN_SIDE:
        raise _bad_crop(text, f"is smaller than {MIN_SIDE}x{MIN_SIDE}", image_shape)
    rows, columns = crop.inside(image_shape)
    if min(rows.stop - rows.start, columns.stop - columns.start) < min(MIN_SIDE, width, height):
        raise _bad_crop(text, "lies outside the picture", image_shape)
    if w > 2 * width or h > 2 * height:
        raise _bad_crop(text, "is more than twice the picture", image_shape)
    return crop


def _bad_crop(text: str, fault: str, image_shape: tuple[int, ...]) -> UserError:
    return fail(
        f"crop {text!r} {fault}; expected auto, none, or x,y,w,h in pixels of the "
        f"{image_shape[1]}x{image_shape[0]} picture, such as 0,0,256,256"
    )


def cut(image: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [size, size, 3]; a crop that is not square is squeezed."""
    rows = np.clip(np.arange(crop.y, crop.y + crop.height), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(crop.x, crop.x + crop.width), 0, image.shape[1] - 1)
    return resize(image[rows][:, columns], (size, size))


class Paster:
    """Puts animated crops back into their picture; the mask is made once.

    picture: uint8 [H, W, 3].
    feather: width of the blend at the crop's border, over the crop's shorter side. Borders on
    or over the picture's border are not blended. Outside the crop the picture is untouched.
    """

    def __init__(self, picture: np.ndarray, crop: Crop, feather: float = FEATHER) -> None:
        self._picture = picture
        self._crop = crop
        self._rows, self._columns = crop.inside(picture.shape)
        height, width = picture.shape[:2]
        ramp = max(1, round(feather * min(crop.height, crop.width)))
        down = _ramps(crop.y, crop.height, height, ramp)
        across = _ramps(crop.x, crop.width, width, ramp)
        # 8 bits and 256 for "all frame": integers blend several times faster than floats,
        # and give the picture and the frame back exactly at the two ends.
        weight = np.rint(256 * np.outer(down, across)).astype(np.uint16)
        self._weight = weight[..., None]
        region = picture[self._rows, self._columns].astype(np.uint16)
        self._rest = region * (256 - self._weight) + 128

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 [n, s, s, 3] of the crop -> uint8 [n, H, W, 3] of the picture."""
        out = np.repeat(self._picture[None], len(frames), axis=0)
        crop = self._crop
        top, left = self._rows.start - crop.y, self._columns.start - crop.x
        height = self._rows.stop - self._rows.start
        width = self._columns.stop - self._columns.start
        for k, frame in enumerate(frames):
            scaled = _scale(frame, crop.width, crop.height)
            part = scaled[top : top + height, left : left + width]
            out[k, self._rows, self._columns] = (part * self._weight + self._rest) >> 8
        return out


def paste_back(picture: np.ndarray, crop: Crop, frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [n, s, s, 3] blended into a picture uint8 [H, W, 3] -> uint8 [n, H, W, 3]."""
    return Paster(picture, crop)(frames)


def preview(picture: np.ndarray, crop: Crop) -> np.ndarray:
    """The picture, uint8 [H, W, 3], darkened outside the crop and with the crop outlined."""
    out = picture // 2
    rows, columns = crop.inside(picture.shape)
    out[rows, columns] = picture[rows, columns]
    thick = max(1, round(max(picture.shape[:2]) / 250))
    corner = (columns.stop - 1, rows.stop - 1)
    cv2.rectangle(out, (columns.start, rows.start), corner, (0, 255, 0), thick)
    return out


def _ramps(start: int, length: int, limit: int, ramp: int) -> np.ndarray:
    """float [part of the crop inside the picture]: weight of the frame along one axis.

    Rises smoothly (half a cosine) over `ramp` pixels from each end that lies inside
    [0, limit); 1 elsewhere.
    """
    at = np.arange(length)
    weight = np.ones(length)
    for distance, blended in ((at, start > 0), (at[::-1], start + length < limit)):
        if blended:
            rise = np.clip((distance + 0.5) / ramp, 0, 1)
            weight = weight * (0.5 - 0.5 * np.cos(np.pi * rise))
    return weight[max(-start, 0) : max(-start, 0) + min(start + length, limit) - max(start, 0)]


def _scale(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [s, s, 3] -> uint8 [height, width, 3], without aliasing when it shrinks."""
    if frame.shape[:2] == (height, width):
        return frame
    shrinks = width < frame.shape[1] or height < frame.shape[0]
    return cv2.resize(
        frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
