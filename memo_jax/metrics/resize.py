"""Bilinear resizing by the two rules that published judges of pictures were used with.

Neither smooths before it shrinks, which image libraries do: a distance is comparable only under
the rule that it was published with.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

Rule = Literal["half-pixel", "corner"]


def bilinear(
    frames: UInt8[np.ndarray, "n h w 3"], side: int, rule: Rule = "half-pixel"
) -> Float[np.ndarray, "n side side 3"]:
    """Frames squeezed to a square, float32, from 0 to 255 as they come.

    Args:
      frames: RGB.
      side: pixels.
      rule: "half-pixel" puts pixels' middles at halves (PyTorch's align_corners=False);
        "corner" puts them at whole numbers (TensorFlow 1's resize_bilinear).
    """
    rows, more_rows, down = _places(frames.shape[1], side, rule)
    columns, more_columns, across = _places(frames.shape[2], side, rule)
    down, across = down[:, None, None], across[:, None]
    out = np.empty((len(frames), side, side, 3), np.float32)
    for i, frame in enumerate(frames):
        x = frame[rows] * (1 - down) + frame[more_rows] * down
        out[i] = x[:, columns] * (1 - across) + x[:, more_columns] * across
    return out


def _places(length: int, side: int, rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new pixel the two old ones it lies between, and the share of the second."""
    shift = 0.5 if rule == "half-pixel" else 0.0
    at = np.maximum((np.arange(side) + shift) * (length / side) - shift, 0.0)
    first = np.minimum(at.astype(np.int64), length - 1)
    return first, np.minimum(first + 1, length - 1), (at - first).astype(np.float32)
