"""Anti-aliased polygons: drawn several times too large, then averaged."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from memo_jax.puppets.identity import Colour

Points = Float[np.ndarray, "n 2"]

_SHIFT = 6  # fractional bits of a coordinate


def oversampling(size: int) -> int:
    """Drawn pixels for each pixel, along one axis."""
    return 4 if size <= 96 else 3 if size <= 192 else 2


@dataclass(frozen=True)
class Frame:
    """Where drawn things lie: a point p of theirs is at `matrix @ p + offset`, in drawn pixels."""

    matrix: Float[np.ndarray, "2 2"]
    offset: Float[np.ndarray, "2"]

    @classmethod
    def of(cls, unit: float, centre: tuple[float, float], roll: float = 0.0) -> "Frame":
        """`unit` pixels for a length of 1, the origin at `centre`, turned by `roll` degrees."""
        c, s = np.cos(np.radians(roll)), np.sin(np.radians(roll))
        return cls(unit * np.array([[c, -s], [s, c]]), np.array(centre))

    @cached_property
    def fixed(self) -> tuple[Float[np.ndarray, "2 2"], Float[np.ndarray, "2"]]:
        """The same for rows of points, in OpenCV's numbers: a pixel's centre is a whole one."""
        steps = 1 << _SHIFT
        return steps * self.matrix.T, steps * (self.offset - 0.5)


class Drawing(ABC):
    """What takes shapes, the later ones over the earlier."""

    @abstractmethod
    def fill(self, points: Points, colour: Colour) -> None:
        """A filled polygon."""

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0.0
    ) -> None:
        """A filled ellipse, turned by `turn` radians."""
        self.fill(ellipse(x, y, rx, ry, turn), colour)

    def stroke(self, points: Points, widths: float | np.ndarray, colour: Colour) -> None:
        """A line with its width at every point."""
        self.fill(ribbon(points, widths), colour)


class Sketch(Drawing):
    """Shapes that a canvas draws as often as wanted."""

    def __init__(self) -> None:
        self.shapes: list[tuple[Points, Colour]] = []

    def fill(self, points: Points, colour: Colour) -> None:
        """A filled polygon, kept."""
        self.shapes.append((points, colour))


class Canvas(Drawing):
    """A picture being drawn; `frame` may be set anew between shapes."""

    def __init__(self, pixels: UInt8[np.ndarray, "S S 3"], frame: Frame):
        self.pixels = pixels
        self.frame = frame

    def fill(self, points: Points, colour: Colour) -> None:
        """A filled polygon, drawn."""
        matrix, offset = self.frame.fixed
        at = np.rint(points @ matrix + offset).astype(np.int32)
        cv2.fillPoly(self.pixels, [at], colour, cv2.LINE_8, _SHIFT)

    def draw(self, sketch: Sketch) -> None:
        """All shapes of a sketch."""
        for points, colour in sketch.shapes:
            self.fill(points, colour)

    def finished(self, factor: int) -> UInt8[np.ndarray, "s s 3"]:
        """The picture at its own size."""
        size = len(self.pixels) // factor
        return cv2.resize(self.pixels, (size, size), interpolation=cv2.INTER_AREA)


_ANGLES = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Points:
    """An ellipse's outline, turned by `turn` radians."""
    points = _CIRCLE * (rx, ry)
    if turn:
        c, s = np.cos(turn), np.sin(turn)
        points = points @ np.array([[c, s], [-s, c]])
    return np.add(points, (x, y))


def ribbon(points: Points, widths: float | np.ndarray) -> Points:
    """The outline of a line of some width."""
    along = np.empty_like(points)
    along[1:-1] = points[2:] - points[:-2]
    along[0], along[-1] = points[1] - points[0], points[-1] - points[-2]
    along /= np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
    across = along[:, ::-1] * (-1, 1) * (np.asarray(widths) / 2)[..., None]
    return np.concatenate([points + across, (points - across)[::-1]])


def between(x: Float[np.ndarray, " n"], top: np.ndarray, bottom: np.ndarray) -> Points:
    """The area under `top` and over `bottom` (y grows downwards); nothing where they cross."""
    n = len(x)
    points = np.empty((2 * n, 2))
    points[:n, 0], points[:n, 1] = x, top
    points[n:, 0], points[n:, 1] = x[::-1], np.maximum(top, bottom)[::-1]
    return points


def curve(*points: tuple[float, float], steps: int = 12) -> Points:
    """A smooth line through points (Catmull-Rom), `steps` from each to the next."""
    p = np.array(points, np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    around = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1)  # [segments, 4, 2]
    return np.concatenate([(_weights(steps) @ around).reshape(-1, 2), p[-2:-1]])


@cache
def _weights(steps: int) -> Float[np.ndarray, "s 4"]:
    t = np.arange(steps)[:, None] / steps
    weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
    return 0.5 * np.concatenate(weights, axis=1)
