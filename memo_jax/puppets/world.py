"""Pictures of a puppet: an identity and a truth become frames."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

from memo_jax.errors import UserError
from memo_jax.puppets.canvas import Canvas, Drawing, Frame, Sketch, oversampling
from memo_jax.puppets.emotion import expression
from memo_jax.puppets.features import draw_brow, draw_eye, draw_mouth, draw_nose
from memo_jax.puppets.head import (
    draw_background,
    draw_beard,
    draw_body,
    draw_glasses,
    draw_hair,
    draw_hair_behind,
    draw_head,
)
from memo_jax.puppets.identity import Identity, identity
from memo_jax.puppets.truth import Truth

CENTRE = (0.5, 0.51)
"""Where a head rests, as a share of the picture."""

UNIT = 0.37
"""Half a head's height, as a share of the picture."""


def render(truth: Truth, size: int) -> UInt8[np.ndarray, "n s s 3"]:
    """All frames of a truth, RGB, `size` pixels square.

    The same truth gives the same bytes, whatever was drawn before.

    Raises:
      UserError: a size below 32.
    """
    if size < 32:
        raise UserError(f"size {size}, expected 32 pixels at least")
    who = identity(truth.seed)
    return np.stack([draw(who, truth, i, size) for i in range(len(truth))])


def draw(who: Identity, truth: Truth, frame: int, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """One frame, `size` pixels square."""
    factor = oversampling(size)
    large = size * factor
    at = {name: float(getattr(truth, name)[frame]) for name in _DRAWN}
    face = expression(int(truth.emotion[frame]), float(truth.intensity[frame]))
    unit = UNIT * large * at["scale"]
    centre = (CENTRE[0] + at["x"]) * large, (CENTRE[1] + at["y"]) * large
    head = Frame.of(unit, centre, at["roll"])
    # The body follows the head by half and stays upright.
    body = Frame.of(
        UNIT * large * (1 + 0.5 * (at["scale"] - 1)),
        ((CENTRE[0] + 0.5 * at["x"]) * large, (CENTRE[1] + 0.5 * at["y"]) * large),
    )
    canvas = Canvas(_background(who, large).copy(), head)
    canvas.draw(_sketch(draw_hair_behind, who))
    canvas.frame = body
    canvas.draw(_sketch(draw_body, who))
    canvas.frame = head
    draw_head(canvas, who, at["opening"], face.flush, face.pallor)
    draw_beard(canvas, who, at["opening"])
    draw_nose(canvas, who, face)
    draw_mouth(canvas, who, face, at["opening"], at["width"], at["rounding"])
    for side in (-1, 1):
        draw_eye(canvas, who, face, side, at["blink"], (at["gaze_x"], at["gaze_y"]))
    canvas.draw(_sketch(draw_hair, who))
    for side in (-1, 1):
        draw_brow(canvas, who, face, side)
    canvas.draw(_sketch(draw_glasses, who))
    return canvas.finished(factor)


_DRAWN = (
    *("opening", "width", "rounding", "x", "y", "roll", "scale", "blink", "gaze_x", "gaze_y"),
)


@lru_cache(maxsize=256)
def _sketch(draw: Callable[[Drawing, Identity], None], who: Identity) -> Sketch:
    """What looks the same in every frame."""
    sketch = Sketch()
    draw(sketch, who)
    return sketch


@lru_cache(maxsize=64)
def _background(who: Identity, large: int) -> np.ndarray:
    canvas = Canvas(np.empty((large, large, 3), np.uint8), Frame.of(large, (0.0, 0.0)))
    draw_background(canvas, who)
    return canvas.pixels
