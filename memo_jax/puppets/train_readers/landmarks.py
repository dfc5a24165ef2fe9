"""Places of a drawn face that the readers' maps are taught to find."""

import numpy as np
from jaxtyping import Float

from memo_jax.puppets.emotion import expression
from memo_jax.puppets.features import mouth_opening
from memo_jax.puppets.identity import Identity
from memo_jax.puppets.truth import Truth
from memo_jax.puppets.world import CENTRE, UNIT

LANDMARKS = (
    *("left eye", "right eye", "nose", "left corner", "right corner", "upper lip", "lower lip"),
    *("chin", "left side", "right side", "middle", "crown"),
    *("left temple", "right temple", "forehead"),
    *("left shoulder", "right shoulder", "left of the neck", "right of the neck", "collar"),
)
"""Left and right as seen."""


def landmarks(who: Identity, truth: Truth, frame: int) -> Float[np.ndarray, "l 2"]:
    """Where a frame's `LANDMARKS` are, x and y as shares of the picture; a few of them may be
    hidden or lie outside it."""
    at = {name: float(getattr(truth, name)[frame]) for name in _USED}
    face = expression(int(truth.emotion[frame]), float(truth.intensity[frame]))
    gap = mouth_opening(who, at["opening"])
    # As in `memo_jax.puppets.features.draw_mouth`.
    half = who.mouth_width * (1 + face.stretch)
    half *= (1 + 0.4 * (at["width"] - 0.5)) * (1 - 0.42 * at["rounding"])
    lift = face.corner * (1 - 0.3 * at["rounding"])
    middle = who.mouth_height + 0.25 * gap
    share = float(np.clip(0.42 - 1.2 * lift, 0.2, 0.62))
    head = np.array(
        [
            (-who.eye_spacing, who.eye_height),
            (who.eye_spacing, who.eye_height),
            (0, who.eye_height + 0.32),
            (-half, middle - 0.55 * lift),
            (half, middle - 0.55 * lift - face.corner_skew),
            (0, middle + 0.45 * lift - share * gap),
            (0, middle + 0.45 * lift + (1 - share) * gap),
            (0, who.chin + 0.1 * at["opening"]),
            (-who.head_width, 0),
            (who.head_width, 0),
            (0, 0),
            (0, -1),
            (-0.8 * who.head_width, -0.55),
            (0.8 * who.head_width, -0.55),
            (0, -0.55),
        ]
    )
    c, s = np.cos(np.radians(at["roll"])), np.sin(np.radians(at["roll"]))
    moved = np.array((at["x"], at["y"]))
    head = UNIT * at["scale"] * head @ np.array([[c, s], [-s, c]]) + CENTRE + moved
    body = np.array([(-1.1, 1.22), (1.1, 1.22), (-0.8, 1.13), (0.8, 1.13), (0, 1.2)])
    body = UNIT * (1 + 0.5 * (at["scale"] - 1)) * body + CENTRE + 0.5 * moved
    return np.concatenate([head, body])


_USED = ("opening", "width", "rounding", "x", "y", "roll", "scale")
