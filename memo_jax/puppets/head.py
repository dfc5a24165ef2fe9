"""The parts of a puppet that keep their shape: head, hair, beard, glasses, clothes, background."""

import numpy as np

from memo_jax.puppets.canvas import Canvas, Drawing, Points, between, curve, ellipse
from memo_jax.puppets.identity import Colour, Identity, blend, shade

_DROP = 0.10  # how far the chin falls when the mouth is wide open
_PALE = (176, 200, 170)


def outline(who: Identity, grow: float = 0.0, drop: float = 0.0) -> Points:
    """The head's outline, `grow` larger, its chin lower by `drop`; from the right ear over the
    chin to the left ear and over the crown."""
    t = np.linspace(0, np.pi, 25)
    e, c = 2.0 / who.jaw, np.cos(t)
    low_x = np.sign(c) * np.abs(c) ** e * who.head_width
    low_y = np.sin(t) ** e * (who.chin + drop)
    high = np.linspace(np.pi, 2 * np.pi, 25)[1:-1]
    c, s = np.cos(high), np.sin(high)
    e = 2.0 / 2.25
    high_x = np.sign(c) * np.abs(c) ** e * who.head_width
    high_y = -(np.abs(s) ** e)
    points = np.stack([np.concatenate([low_x, high_x]), np.concatenate([low_y, high_y])], axis=1)
    return points * (1 + grow)


def _crown(who: Identity, grow: float, height: float) -> Points:
    """The head's upper half from the left ear over the crown to the right ear."""
    high = np.linspace(np.pi, 2 * np.pi, 25)
    c, s = np.cos(high), np.sin(high)
    e = 2.0 / 2.25
    x = np.sign(c) * np.abs(c) ** e * (who.head_width + grow)
    return np.stack([x, -(np.abs(s) ** e) * (1 + height)], axis=1)


def draw_background(canvas: Canvas, who: Identity) -> None:
    """All of the picture, in units of its size with the origin in its corner."""
    a, b = who.background_colours
    canvas.pixels[:] = a
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float64)
    if who.background == "halves":
        canvas.fill(np.array([(0.42, 0), (1, 0), (1, 1), (0.58, 1)], np.float64), b)
    elif who.background == "horizon":
        canvas.fill(square * (1, 0.45) + (0, 0.55), b)
    elif who.background == "disc":
        canvas.ellipse(0.5, 0.46, 0.45, 0.45, b)
    elif who.background == "stripes":
        for k in range(4):
            canvas.fill(square * (0.125, 1) + (0.0625 + 0.25 * k, 0), b)
    elif who.background == "window":
        canvas.fill(square * (0.28, 0.42) + (0.68, 0.08), shade(a, 1.5))
        canvas.fill(square * (0.28, 0.03) + (0.68, 0.28), b)


def draw_body(canvas: Drawing, who: Identity) -> None:
    """Neck and clothes, in the head's units, upright."""
    neck = 0.36 * who.head_width / 0.8
    skin = shade(who.skin, 0.82)
    main, trim = who.clothes_colour, who.trim_colour
    right = curve((neck, 0.95), (neck + 0.3, 1.1), (1.1, 1.22), (1.4, 1.6), (1.45, 2.4), steps=6)
    shoulders = np.concatenate([right, right[::-1] * (-1, 1)])
    if who.clothes == "hood":
        canvas.ellipse(0, 0.86, 0.86, 0.4, shade(main, 0.8))
    canvas.fill(shoulders, main)
    if who.clothes == "stripes":
        for y in (1.3, 1.56, 1.82):
            half = np.interp(y, right[:, 1], right[:, 0])
            line = np.array([(-half, y), (half, y)])
            canvas.stroke(line, 0.11, trim)
    canvas.fill(np.array([(-neck, 0.5), (neck, 0.5), (neck, 1.1), (-neck, 1.1)]), skin)
    if who.clothes == "turtleneck":
        low, high = neck + 0.1, neck + 0.06
        canvas.fill(np.array([(-high, 0.95), (high, 0.95), (low, 1.25), (-low, 1.25)]), trim)
    elif who.clothes == "vee":
        canvas.fill(np.array([(-neck - 0.02, 1.02), (neck + 0.02, 1.02), (0, 1.42)]), skin)
    elif who.clothes == "collar":
        canvas.fill(np.array([(-neck, 1.0), (neck, 1.0), (0, 1.3)]), skin)
        for side in (-1, 1):
            flap = [(side * (neck + 0.06), 0.95), (0, 1.28), (side * 0.2, 1.5)]
            canvas.fill(np.array([*flap, (side * (neck + 0.2), 1.14)]), trim)
    else:
        canvas.ellipse(0, 1.05, neck + 0.02, 0.16, skin)
    if who.clothes == "hood":
        for side in (-1, 1):
            canvas.stroke(np.array([(side * 0.16, 1.2), (side * 0.18, 1.7)]), 0.05, trim)


def draw_hair_behind(canvas: Drawing, who: Identity) -> None:
    """What of the hair the head hides."""
    w, h = who.head_width, who.hair_height
    dark = shade(who.hair_colour, 0.8)
    if who.hair == "long":
        side = curve((0, -1 - h), (w + 0.1, -0.6), (w + 0.22, 0.3), (w + 0.2, 1.25), steps=6)
        canvas.fill(np.concatenate([side, side[::-1] * (-1, 1)]), dark)
    elif who.hair == "bob":
        side = curve((0, -1 - h), (w + 0.12, -0.5), (w + 0.24, 0.35), (w + 0.02, 0.62), steps=6)
        canvas.fill(np.concatenate([side, side[::-1] * (-1, 1)]), dark)
    elif who.hair == "afro":
        canvas.ellipse(0, -0.38, w + 0.32, 0.92, dark)
    elif who.hair == "bun":
        canvas.ellipse(0, -1.1 - h, 0.3, 0.26, dark)
    elif who.hair == "pigtails":
        for sign in (-1, 1):
            canvas.ellipse(sign * (w + 0.22), 0.05, 0.2, 0.42, dark, -sign * 0.25)
    elif who.hair == "scarf":
        canvas.fill(outline(who, 0.17, 0.1), shade(who.trim_colour, 0.75))


def draw_head(canvas: Canvas, who: Identity, opening: float, flush: float, pallor: float) -> None:
    """Ears and head with cheeks."""
    w = who.head_width
    skin = blend(who.skin, _PALE, 0.22 * pallor)
    if who.hair not in ("long", "bob", "scarf", "afro"):
        for side in (-1, 1):
            x, y = side * (w + 0.05), who.eye_height + 0.12
            canvas.ellipse(x, y, who.ear * 0.8, who.ear * 1.15, skin)
            canvas.ellipse(x, y, who.ear * 0.4, who.ear * 0.65, shade(who.skin, 0.78))
    canvas.fill(outline(who, 0.0, _DROP * opening), skin)
    red = min(1.0, who.cheeks + flush)
    if red > 0.05:
        warm = blend(skin, (222, 70, 70), 0.34 * red)
        for side in (-1, 1):
            at = side * (who.eye_spacing + 0.14)
            canvas.ellipse(at, who.eye_height + 0.4, 0.17, 0.115, warm)
    if who.freckles:
        for x in (-0.4, -0.28, 0.28, 0.4):
            for dx, dy in ((0, 0), (0.06, 0.05), (-0.04, 0.07)):
                canvas.ellipse(
                    x + dx, who.eye_height + 0.33 + dy, 0.018, 0.018, shade(who.skin, 0.68)
                )


def draw_beard(canvas: Canvas, who: Identity, opening: float) -> None:
    """The beard, before the mouth is drawn."""
    if who.beard == "none":
        return
    colour, y = shade(who.hair_colour, 0.88), who.mouth_height
    if who.beard == "full":
        rim = outline(who, 0.035, _DROP * opening)[:25]
        rim = rim[2:-2]
        inner = curve(
            (rim[-1][0] + 0.1, rim[-1][1]),
            (-who.mouth_width - 0.1, y - 0.12),
            (0, y - 0.17),
            (who.mouth_width + 0.1, y - 0.12),
            (rim[0][0] - 0.1, rim[0][1]),
            steps=5,
        )
        canvas.fill(np.concatenate([rim, inner]), colour)
    elif who.beard == "goatee":
        drop = _DROP * opening
        canvas.fill(
            curve(
                (-0.2, y + 0.12),
                (-0.24, who.chin + drop - 0.1),
                (0, who.chin + drop + 0.1),
                (0.24, who.chin + drop - 0.1),
                (0.2, y + 0.12),
                steps=5,
            ),
            colour,
        )
    if who.beard in ("moustache", "goatee"):
        x = np.linspace(-1, 1, 15)
        top = y - 0.2 + 0.1 * x**2
        canvas.fill(between(0.3 * x, top, top + 0.1 * (1 - x**2) ** 0.5), colour)


def draw_hair(canvas: Drawing, who: Identity) -> None:
    """The hair, or what is worn, before the head."""
    w, h, colour = who.head_width, who.hair_height, who.hair_colour
    style = who.hair
    if style == "bald":
        return
    if style == "mohawk":
        ridge = curve((-0.16, -0.7), (-0.2, -1.15 - h), (0, -1.32 - h), (0.2, -1.15 - h))
        canvas.fill(np.concatenate([ridge, [(0.16, -0.7)]]), colour)
        return
    if style == "scarf":
        cloth = outline(who, 0.12, 0.06)
        inner = ellipse(0, 0.06, 0.83 * w, 0.82)
        _ring(canvas, cloth, inner, who.trim_colour)
        return
    if style == "beanie":
        cap = _crown(who, 0.07, 0.14)
        brim = curve((w + 0.07, -0.42), (0, -0.56), (-w - 0.07, -0.42))
        canvas.fill(np.concatenate([cap[4:-4], brim]), who.trim_colour)
        band = curve((-w - 0.05, -0.4), (0, -0.55), (w + 0.05, -0.4))
        canvas.stroke(band, 0.17, shade(who.trim_colour, 0.78))
        canvas.ellipse(0, -1.2, 0.14, 0.14, shade(who.trim_colour, 1.3))
        return
    lines = {
        "buzz": (0.03, 0.03, ((w, -0.15), (0.75 * w, -0.55), (0, -0.66), (-0.75 * w, -0.55))),
        "receding": (0.05, 0.05, ((w, 0.1), (0.9 * w, -0.5), (0.5 * w, -0.88), (0.1, -0.72))),
        "short": (0.06, h, ((w, 0.0), (0.8 * w, -0.52), (0, -0.6), (-0.8 * w, -0.52))),
        "parted": (0.08, h, ((w, 0.0), (0.85 * w, -0.35), (0.2, -0.5), (-0.45, -0.82))),
        "fringe": (0.09, h, ((w, 0.2), (0.85 * w, -0.36), (0, -0.42), (-0.85 * w, -0.36))),
        "spiky": (0.05, 0.02, ((w, 0.0), (0.8 * w, -0.5), (0, -0.62), (-0.8 * w, -0.5))),
        "curly": (0.06, 0.03, ((w, 0.1), (0.8 * w, -0.5), (0, -0.58), (-0.8 * w, -0.5))),
        "afro": (0.16, 0.16, ((w, -0.1), (0.8 * w, -0.5), (0, -0.6), (-0.8 * w, -0.5))),
        "long": (0.1, h, ((w, 0.5), (0.86 * w, -0.2), (0.1, -0.85), (-0.86 * w, -0.2))),
        "bob": (0.12, h, ((w, 0.45), (0.87 * w, -0.34), (0, -0.4), (-0.87 * w, -0.34))),
        "bun": (0.05, 0.05, ((w, 0.0), (0.82 * w, -0.48), (0, -0.74), (-0.82 * w, -0.48))),
        "pigtails": (0.06, h, ((w, 0.1), (0.85 * w, -0.42), (0, -0.8), (-0.85 * w, -0.42))),
    }
    grow, height, line = lines[style]
    ends = (-w - grow, line[0][1])
    front = curve((w + grow, line[0][1]), *line, (-w, line[0][1]), ends, steps=6)
    canvas.fill(np.concatenate([_crown(who, grow, height), front]), colour)
    if style == "spiky":
        rim = _crown(who, 0.05, 0.02)[3:-3]
        for a, b in zip(rim[:-2:3], rim[2::3], strict=False):
            tip = (a + b) / 2 * (1.22 + h)
            canvas.fill(np.array([a * 0.95, tip, b * 0.95]), colour)
    elif style == "curly":
        for x, y in _crown(who, 0.04, 0.04)[2:-2:3]:
            canvas.ellipse(x, y, 0.17, 0.17, colour)
        for x in (-0.5, -0.17, 0.17, 0.5):
            canvas.ellipse(x * w / 0.8, -0.62, 0.17, 0.14, colour)
    elif style in ("short", "parted", "fringe", "bob", "long", "pigtails"):
        shine = curve((-0.5 * w, -0.8 - 0.5 * h), (-0.1, -0.92 - 0.5 * h), (0.2, -0.9 - 0.5 * h))
        taper = np.sin(np.linspace(0.1, np.pi - 0.1, len(shine)))
        canvas.stroke(shine, 0.07 * taper, shade(colour, 1.22))


def _ring(canvas: Drawing, outer: Points, inner: Points, colour: Colour) -> None:
    """The area between two outlines that both go round once the same way."""
    canvas.fill(np.concatenate([outer, outer[:1], inner[:1], inner[::-1]]), colour)


def draw_glasses(canvas: Drawing, who: Identity) -> None:
    """Glasses, above all else."""
    if who.glasses == "none":
        return
    y, r = who.eye_height + 0.02, who.eye_size * 1.32
    for side in (-1, 1):
        x = side * who.eye_spacing
        around = np.linspace(0, np.pi if who.glasses == "half" else 2 * np.pi, 33)
        c, s = np.cos(around), np.sin(around)
        corner = 0.5 if who.glasses == "square" else 1.0
        rim = np.stack([np.sign(c) * np.abs(c) ** corner, np.sign(s) * np.abs(s) ** corner], 1)
        canvas.stroke(np.add(r * rim, (x, y)), 0.05, who.glasses_colour)
        arm = np.array([(x + side * r, y - 0.03), (side * (who.head_width + 0.02), y - 0.06)])
        canvas.stroke(arm, 0.045, who.glasses_colour)
    gap = who.eye_spacing - r
    bridge = curve((-gap, y), (0, y - 0.05), (gap, y), steps=4)
    canvas.stroke(bridge, 0.045, who.glasses_colour)
