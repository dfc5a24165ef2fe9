"""The parts of a face that move: eyes with brows, and the mouth."""

import numpy as np

from memo_jax.puppets.canvas import Canvas, between, curve
from memo_jax.puppets.emotion import Expression
from memo_jax.puppets.identity import Colour, Identity, blend, shade

INSIDE = (74, 16, 26)
"""The colour of the inner mouth. Nothing else of a face comes close to it."""

TEETH = (250, 248, 242)
TONGUE = (206, 84, 92)

_U = np.linspace(-1, 1, 21)
_DOME = np.sqrt(1 - _U**2)


def mouth_opening(who: Identity, opening: float) -> float:
    """How far the lips are apart in their middle, in halves of a head's height."""
    return opening * who.mouth_width


def draw_mouth(
    canvas: Canvas,
    who: Identity,
    face: Expression,
    opening: float,
    width: float,
    rounding: float,
) -> None:
    """Lips, and between them teeth and tongue."""
    half = who.mouth_width * (1 + face.stretch) * (1 + 0.4 * (width - 0.5)) * (1 - 0.42 * rounding)
    gap = mouth_opening(who, opening)
    middle = who.mouth_height + 0.25 * gap
    lift = face.corner * (1 - 0.3 * rounding)
    # The line where closed lips meet: corners up or down, and what is not symmetric.
    line = (
        middle
        - lift * (_U**2 - 0.45)
        - face.corner_skew * (_U + np.abs(_U) * _U) / 2
        + face.wave * np.sin(2.5 * np.pi * _U) * (1 - _U**2) ** 0.5
    )
    # An ellipse where rounded, else fuller below when smiling and above when not.
    arch = _DOME ** (1.0 + 0.25 * (1 - rounding))
    share = np.clip(0.42 - 1.2 * lift, 0.2, 0.62)
    top = line - share * gap * arch - face.lip_raise * np.maximum(0, 1 - 1.4 * _U**2)
    bottom = line + (1 - share) * gap * arch
    # A raised lip shows teeth, not an open mouth.
    inner_top = line - share * gap * arch
    x = half * _U
    thick = who.lip_thickness * (1 + 0.6 * rounding + face.pucker) * (1 - 0.25 * opening)
    lips = thick * (0.35 + 0.65 * _DOME)
    dip = 1 - 0.35 * np.exp(-((_U / 0.22) ** 2))
    outer = np.concatenate([[x[0] - 0.35 * thick], x, [x[-1] + 0.35 * thick]])
    upper = np.concatenate([[line[0]], np.minimum(top, inner_top) - 0.8 * lips * dip, [line[-1]]])
    lower = np.concatenate([[line[0]], bottom + 1.15 * lips, [line[-1]]])
    canvas.fill(between(outer, upper, lower), who.lip_colour)
    if face.lip_raise > 0.02:
        teeth = between(x[3:-3], top[3:-3] + 0.012, inner_top[3:-3])
        canvas.fill(teeth, TEETH)
    if gap > 0.012:
        canvas.fill(between(x, inner_top, bottom), INSIDE)
        _inside(canvas, x, inner_top, bottom, gap, width, rounding)
    else:
        inner_top = bottom = line
    if gap < 0.05:
        seam = np.stack([x, (inner_top + bottom) / 2], axis=1)
        canvas.stroke(seam, 0.028 + 0.012 * _DOME, shade(who.lip_colour, 0.5))


def _inside(
    canvas: Canvas,
    x: np.ndarray,
    top: np.ndarray,
    bottom: np.ndarray,
    gap: float,
    width: float,
    rounding: float,
) -> None:
    keep = slice(3, -3)
    # Spread lips bare the teeth, rounded ones hide them.
    bare = np.clip(0.75 + 0.8 * (width - 0.5) - 1.1 * rounding, 0.0, 1.0)
    teeth = min(0.075, 0.3 * gap) * bare
    if teeth > 0.008:
        edge = np.minimum(top + teeth, bottom)
        canvas.fill(between(x[keep], top[keep], edge[keep]), TEETH)
    if gap > 0.1:
        rise = 0.42 * (gap - 0.06) * np.clip(1 - (_U / 0.72) ** 2, 0, None)
        canvas.fill(between(x, np.maximum(top, bottom - rise), bottom), TONGUE)


def draw_eye(
    canvas: Canvas,
    who: Identity,
    face: Expression,
    side: int,
    blink: float,
    gaze: tuple[float, float],
) -> None:
    """An eye; `side` is -1 for the one on the left of the picture."""
    rx = who.eye_size
    ry = rx * who.eye_shape * 0.95
    cx, cy = side * who.eye_spacing, who.eye_height
    x = cx + rx * _U
    inner = -side * _U  # 1 at the corner beside the nose
    bow = _DOME**0.9
    up = np.clip(0.94 + face.upper_lid, 0.15, 1.6)
    top = cy - ry * up * bow
    # The slanted lid is a line that cuts the opening.
    slant = face.lid_slant
    if slant:
        line = cy - ry * (1.02 - 0.78 * abs(slant)) + ry * slant * 0.62 * inner
        top = np.maximum(top, np.minimum(line, cy + 0.35 * ry))
    raised = np.clip(face.lower_lid, -0.4, 0.9)
    bottom = cy + ry * bow * (1 - max(raised, 0) * 1.25 - min(raised, 0) * 0.5)
    shut = cy + 0.35 * ry * bow
    top = np.minimum(top, bottom)
    closed = 1 - (1 - blink) ** 1.2
    top, bottom = top + (shut - top) * closed, bottom + (shut - bottom) * closed
    skin = shade(who.skin, 0.9)
    canvas.fill(between(x, cy - 1.12 * ry * max(up, 1) * bow, cy + 0.95 * ry * bow), skin)
    if closed < 0.9:
        canvas.fill(between(x, top, bottom), (252, 252, 250))
        iris = rx * 0.62 * (1 + face.iris)
        ix = cx + 0.34 * rx * gaze[0]
        iy = cy + 0.03 * ry + 0.28 * ry * gaze[1]
        for radius, colour in (
            (iris, shade(who.eye_colour, 0.55)),
            (0.84 * iris, who.eye_colour),
            (0.5 * iris, (14, 12, 16)),
        ):
            _disc(canvas, ix, iy, radius, x, top, bottom, colour)
        _disc(canvas, ix + 0.2 * rx, iy - 0.2 * ry, 0.15 * rx, x, top, bottom, (255, 255, 255))
    lash = shade(blend(who.skin, (30, 20, 24), 0.85), 0.8)
    canvas.stroke(np.stack([x, top], 1), 0.03 + 0.028 * bow, lash)
    canvas.stroke(np.stack([x, bottom], 1)[3:-3], 0.02, blend(who.skin, (60, 30, 30), 0.5))


def _disc(
    canvas: Canvas,
    cx: float,
    cy: float,
    radius: float,
    x: np.ndarray,
    top: np.ndarray,
    bottom: np.ndarray,
    colour: Colour,
) -> None:
    """A disc as far as the lids let it show."""
    at = cx + radius * _U
    high = np.maximum(cy - radius * _DOME, np.interp(at, x, top))
    low = np.minimum(cy + radius * _DOME, np.interp(at, x, bottom))
    seen = (high < low) & (at > x[0]) & (at < x[-1])
    if seen.sum() > 2:
        canvas.fill(between(at[seen], high[seen], low[seen]), colour)


def draw_brow(canvas: Canvas, who: Identity, face: Expression, side: int) -> None:
    """A brow; `side` is -1 for the one on the left of the picture."""
    cx = side * (who.eye_spacing + 0.01)
    y = who.eye_height - 1.28 * who.eye_size * who.eye_shape - 0.075
    skew = face.brow_skew * (0.75 if side > 0 else -0.3)
    length = who.brow_length
    points = curve(
        (cx - side * length, y - face.brow_inner - 0.6 * skew),
        (cx, y - who.brow_arch - 0.5 * (face.brow_inner + face.brow_outer) - skew),
        (cx + side * length, y + 0.03 - face.brow_outer - skew),
        steps=10,
    )
    taper = np.concatenate([[0.6], np.linspace(1.0, 0.55, len(points) - 2), [0.3]])
    canvas.stroke(points, who.brow_thickness * taper, brow_colour(who))


def brow_colour(who: Identity) -> Colour:
    """Near the hair's, and always to be told from the skin."""
    colour = blend(who.hair_colour, (24, 16, 20), 0.6)
    if np.abs(np.subtract(colour, who.skin)).mean() < 60:
        colour = blend(colour, (10, 6, 8) if np.mean(who.skin) > 80 else (190, 170, 160), 0.8)
    return colour


def draw_nose(canvas: Canvas, who: Identity, face: Expression) -> None:
    """The nose, wrinkled or not."""
    s, dark = who.nose_size, shade(who.skin, 0.74)
    base = who.eye_height + 0.32
    up = 0.035 * face.wrinkle
    if who.nose == "button":
        canvas.ellipse(0, base - up, 0.075 * s, 0.06 * s, dark)
        canvas.ellipse(0, base - 0.015 - up, 0.07 * s, 0.055 * s, shade(who.skin, 1.12))
    elif who.nose == "long":
        bridge = curve((-0.03, base - 0.26), (-0.06 * s, base - 0.04), (-0.055 * s, base + 0.03))
        canvas.stroke(bridge - (0, up), 0.03, dark)
        tip = curve((-0.06 * s, base + 0.02), (0.0, base + 0.05), (0.06 * s, base + 0.01))
        canvas.stroke(tip - (0, up), 0.035, dark)
    elif who.nose == "wide":
        wings = curve((-0.12 * s, base - 0.02), (0, base + 0.06 * s), (0.12 * s, base - 0.02))
        canvas.stroke(wings - (0, up), np.full(len(wings), 0.04), dark)
        for side in (-1, 1):
            canvas.ellipse(side * 0.06 * s, base + 0.02 - up, 0.022, 0.016, shade(who.skin, 0.55))
    else:
        hook = curve(
            (0.02, base - 0.28), (0.1 * s, base - 0.05), (0.06 * s, base + 0.04), (-0.04, base)
        )
        canvas.stroke(hook - (0, up), 0.034, dark)
    if face.wrinkle > 0.05:
        for side in (-1, 1):
            for k in (0, 1):
                fold = np.array(
                    [
                        (side * 0.035, base - 0.2 - 0.07 * k),
                        (side * (0.035 + 0.08 * face.wrinkle), base - 0.24 - 0.09 * k),
                    ]
                )
                canvas.stroke(fold, 0.026 * face.wrinkle, dark)
            cheek = curve(
                (side * 0.13, base - 0.02),
                (side * 0.2, base + 0.04),
                (side * 0.24, base + 0.15),
                steps=4,
            )
            canvas.stroke(cheek, 0.026 * face.wrinkle, dark)
