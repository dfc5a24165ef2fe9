"""A drawn portrait: flat shapes with soft light, in 512 x 512 units, painted four times larger.

Nobody in particular is shown. Shapes are closed curves through a few points; light and shade are
blurred shapes. Everything is a function of the constants below and one seed.
"""

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIZE = 512
SCALE = 4
SEED = 11

BACKGROUND = (206, 214, 216)
SKIN = (240, 197, 168)
SKIN_SHADE = (190, 124, 96)
SKIN_LIGHT = (255, 228, 205)
BLUSH = (228, 128, 112)
HAIR = (76, 47, 34)
HAIR_SHADE = (42, 25, 19)
HAIR_LIGHT = (150, 100, 68)
SWEATER = (46, 104, 112)
SWEATER_SHADE = (24, 62, 72)
SWEATER_LIGHT = (84, 148, 152)
EYE_WHITE = (248, 245, 240)
IRIS = (92, 112, 74)
IRIS_RIM = (44, 54, 38)
LINE = (58, 34, 28)
LIP = (196, 92, 88)
LIP_SHADE = (140, 58, 58)

Points = list[tuple[float, float]]


def curve(points: Points, closed: bool = True, steps: int = 24) -> Points:
    """A smooth line through `points` (Catmull-Rom)."""
    p = np.asarray(points, np.float64)
    ring = (
        np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:], p[-1:]])
    )
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    out = []
    for a, b, c, d in zip(ring, ring[1:], ring[2:], ring[3:], strict=False):
        out.append(
            b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        )
    line = np.concatenate(out)
    if not closed:
        line = np.concatenate([line[: (len(p) - 1) * steps], p[-1:]])
    return [(float(x), float(y)) for x, y in line]


def mirrored(points: Points, axis: float = 256) -> Points:
    """`points` reflected at the vertical line x = `axis`."""
    return [(2 * axis - x, y) for x, y in points]


def softened(mask: Image.Image, blur: float) -> Image.Image:
    """`mask` blurred by a Gaussian of `blur` units, where it is not empty."""
    box = mask.getbbox()
    if not blur or box is None:
        return mask
    reach = int(4 * blur * SCALE)
    left, top = max(box[0] - reach, 0), max(box[1] - reach, 0)
    part = (left, top, min(box[2] + reach, mask.width), min(box[3] + reach, mask.height))
    mask.paste(mask.crop(part).filter(ImageFilter.GaussianBlur(blur * SCALE)), part)
    return mask


class Canvas:
    """An RGB picture painted in layers through masks; all lengths are in 512 x 512 units."""

    def __init__(self, colour: tuple[int, int, int]):
        side = SIZE * SCALE
        self.picture = Image.new("RGB", (side, side), colour)

    def mask(self, points: Points, blur: float = 0) -> Image.Image:
        """The inside of a polygon, blurred by a Gaussian of `blur` units."""
        mask = Image.new("L", self.picture.size, 0)
        ImageDraw.Draw(mask).polygon([(x * SCALE, y * SCALE) for x, y in points], fill=255)
        return softened(mask, blur)

    def stroke(
        self, line: Points, widths: tuple[float, float, float], blur: float = 0
    ) -> Image.Image:
        """A brush stroke along `line`, as wide as `widths` at its start, middle and end."""
        mask = Image.new("L", self.picture.size, 0)
        draw = ImageDraw.Draw(mask)
        fine = np.asarray(curve(line, closed=False, steps=40)) * SCALE
        radii = np.interp(np.linspace(0, 2, len(fine)), [0, 1, 2], widths) * SCALE / 2
        for (x, y), r in zip(fine, radii, strict=True):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        return softened(mask, blur)

    def paint(
        self,
        mask: Image.Image,
        colour: tuple[int, int, int],
        strength: float = 1.0,
        inside: Image.Image | None = None,
    ) -> None:
        """Lays `colour` over the picture where `mask` is, and only `inside` another mask."""
        box = mask.getbbox()  # most masks cover little of the picture
        if box is None:
            return
        mask = mask.crop(box)
        if inside is not None:
            mask = ImageChops.multiply(mask, inside.crop(box))
        if strength != 1.0:
            mask = mask.point([round(v * strength) for v in range(256)])
        self.picture.paste(colour, box, mask)

    def strands(
        self,
        lines: list[tuple[Points, float]],
        colour: tuple[int, int, int],
        strength: float,
        inside: Image.Image,
    ) -> None:
        """Hair: thin lines of given widths, laid over the picture as one layer."""
        layer = Image.new("L", self.picture.size, 0)
        draw = ImageDraw.Draw(layer)
        for points, width in lines:
            fine = [(x * SCALE, y * SCALE) for x, y in curve(points, closed=False, steps=14)]
            draw.line(fine, fill=255, width=max(1, round(width * SCALE)), joint="curve")
        self.paint(softened(layer, 0.4), colour, strength, inside)

    def finished(self) -> np.ndarray:
        """The picture at its final size, uint8 [512, 512, 3]."""
        return np.asarray(self.picture.resize((SIZE, SIZE), Image.Resampling.BOX))


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0) -> Points:
    """An ellipse around (x, y), turned clockwise by `turn` degrees."""
    angle, t = np.deg2rad(turn), np.linspace(0, 2 * np.pi, 96, endpoint=False)
    u, v = rx * np.cos(t), ry * np.sin(t)
    xs, ys = x + u * np.cos(angle) - v * np.sin(angle), y + u * np.sin(angle) + v * np.cos(angle)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


# Outlines, left half first where they are symmetric (left and right as seen).
HALF_FACE = [(256, 128), (205, 138), (170, 182), (164, 236), (170, 288), (188, 336), (218, 372)]
FACE = [*HALF_FACE, (256, 386), *mirrored(HALF_FACE[:0:-1])]
HALF_BACK_HAIR = [(256, 70), (190, 82), (140, 128), (122, 200), (124, 280), (116, 350), (134, 398)]
BACK_HAIR = [*HALF_BACK_HAIR, (190, 404), (322, 404), *mirrored(HALF_BACK_HAIR[:0:-1])]
NECK = [(208, 330), (208, 400), (196, 424), (256, 462), (316, 424), (304, 400), (304, 330)]
SHOULDERS = [
    *[(-20, 540), (10, 482), (70, 446), (150, 424), (196, 408), (222, 436), (256, 446)],
    *[(290, 436), (316, 408), (362, 424), (442, 446), (502, 482), (532, 540)],
]
# The front hair is parted on the right as seen, and falls to both sides of the face: each side
# lies between an inner line along the face and an outer one, from the parting to the tips.
LEFT_OUTER = [(294, 84), (240, 72), (178, 94), (137, 150), (125, 222), (129, 300), (146, 354)]
LEFT_INNER = [(290, 114), (264, 143), (222, 168), (186, 190), (167, 228), (160, 290), (152, 350)]
RIGHT_OUTER = [(286, 83), (340, 90), (376, 142), (388, 206), (388, 260), (382, 310), (364, 354)]
RIGHT_INNER = [(290, 114), (312, 150), (335, 188), (347, 226), (352, 268), (353, 310), (358, 350)]


def draw() -> np.ndarray:
    """The portrait as uint8 [512, 512, 3]."""
    canvas = Canvas(BACKGROUND)
    rng = np.random.default_rng(SEED)
    backdrop(canvas)
    hair_behind(canvas, rng)
    body(canvas)
    face = canvas.mask(curve(FACE))
    skin(canvas, face)
    for side in (-1, 1):
        eye(canvas, face, side)
        brow(canvas, face, side, rng)
    nose(canvas, face)
    mouth(canvas, face)
    hair_in_front(canvas, face, rng)
    return canvas.finished()


def backdrop(canvas: Canvas) -> None:
    """A plain wall, lighter behind the head."""
    canvas.paint(canvas.mask(ellipse(226, 210, 190, 200), 90), (236, 240, 239), 0.9)
    canvas.paint(
        canvas.mask([(0, 470), (512, 400), (512, 512), (0, 512)], 70), (160, 174, 180), 0.7
    )


def hair_behind(canvas: Canvas, rng: np.random.Generator) -> None:
    """The hair behind head and neck."""
    hair = canvas.mask(curve(BACK_HAIR))
    canvas.paint(canvas.mask(curve(BACK_HAIR), 8), HAIR_SHADE, 0.25)
    canvas.paint(hair, HAIR)
    canvas.paint(canvas.mask(ellipse(256, 330, 92, 110), 16), HAIR_SHADE, 0.95, hair)
    for colour, strength, count in ((HAIR_SHADE, 0.5, 70), (HAIR_LIGHT, 0.3, 50)):
        lines = []
        for _ in range(count):
            side, out = rng.choice([-1, 1]), rng.uniform(0, 1)
            x = 256 + side * (92 + 44 * out)
            bend = side * rng.uniform(-3, 5)
            lines.append(
                (
                    [(x - side * 6, 200), (x + bend, 280), (x + bend - side * 4, 350), (x, 402)],
                    rng.uniform(0.5, 1.4),
                )
            )
        canvas.strands(lines, colour, strength, hair)


def body(canvas: Canvas) -> None:
    """Neck and sweater."""
    neck = canvas.mask(curve(NECK))
    canvas.paint(neck, SKIN)
    canvas.paint(canvas.mask(ellipse(262, 372, 66, 40), 9), SKIN_SHADE, 0.75, neck)
    canvas.paint(
        canvas.mask([(290, 330), (320, 330), (320, 450), (286, 450)], 8), SKIN_SHADE, 0.5, neck
    )
    for x, tilt in ((242, 6), (272, -6)):
        line = [(x - 2 * tilt, 404), (x - tilt, 424), (x, 440)]
        canvas.paint(canvas.stroke(line, (0.5, 2, 1), 1.6), SKIN_SHADE, 0.35, neck)
    sweater = canvas.mask(curve(SHOULDERS))
    canvas.paint(sweater, SWEATER)
    canvas.paint(canvas.mask(ellipse(120, 462, 90, 26, -14), 18), SWEATER_LIGHT, 0.6, sweater)
    canvas.paint(canvas.mask(ellipse(420, 510, 120, 50, 16), 24), SWEATER_SHADE, 0.8, sweater)
    canvas.paint(canvas.mask(ellipse(256, 520, 60, 40), 22), SWEATER_SHADE, 0.45, sweater)
    for points in ([(96, 452), (84, 480), (88, 520)], [(416, 452), (428, 480), (424, 520)]):
        canvas.paint(canvas.stroke(points, (1, 5, 3), 2.5), SWEATER_SHADE, 0.55, sweater)
    collar = [(194, 406), (220, 438), (256, 449), (292, 438), (318, 406)]
    canvas.paint(canvas.stroke([(x, y + 9) for x, y in collar], (6, 9, 6), 3), SWEATER_SHADE, 0.6)
    canvas.paint(canvas.stroke(collar, (9, 12, 9)), (58, 122, 129))
    canvas.paint(canvas.stroke([(x, y - 3) for x, y in collar], (2, 3, 2), 1), SWEATER_LIGHT, 0.7)


def skin(canvas: Canvas, face: Image.Image) -> None:
    """The face without features: light from the upper left."""
    canvas.paint(face, SKIN)
    rim = ImageChops.invert(canvas.mask(curve(FACE), 11))
    canvas.paint(rim, SKIN_SHADE, 0.85, face)
    canvas.paint(canvas.mask(ellipse(352, 270, 34, 130, 6), 20), SKIN_SHADE, 0.5, face)
    canvas.paint(canvas.mask(ellipse(236, 184, 48, 26, -8), 18), SKIN_LIGHT, 0.85, face)
    canvas.paint(canvas.mask(ellipse(256, 362, 16, 9), 7), SKIN_LIGHT, 0.6, face)
    for side in (-1, 1):
        x = 256 + side * 50
        canvas.paint(canvas.mask(ellipse(x - 3, 287, 21, 13), 9), SKIN_LIGHT, 0.75, face)
        canvas.paint(canvas.mask(ellipse(x + side * 10, 301, 22, 14), 11), BLUSH, 0.34, face)
        canvas.paint(canvas.mask(ellipse(256 + side * 42, 230, 29, 16), 9), SKIN_SHADE, 0.5, face)


def eye(canvas: Canvas, face: Image.Image, side: int) -> None:
    """One open eye looking at the viewer; `side` is -1 at the left of the picture."""

    def at(points: Points) -> Points:
        return [(256 + side * (42 + x), 242 + y) for x, y in points]  # x grows outwards

    upper = [(-20, 4), (-13, -6), (-1, -11), (12, -8), (21, 0)]
    lower = [(21, 0), (12, 8), (0, 10), (-12, 8), (-20, 4)]
    opening = at(curve(upper, closed=False) + curve(lower, closed=False))
    white = canvas.mask(opening)
    canvas.paint(canvas.mask(opening, 4), SKIN_SHADE, 0.6, face)
    canvas.paint(white, EYE_WHITE)
    x, y = 256 + side * 41, 241
    canvas.paint(canvas.mask(ellipse(x, y, 11.2, 11.2), 0.5), IRIS_RIM, 1, white)
    canvas.paint(canvas.mask(ellipse(x, y, 9.4, 9.4), 1.3), IRIS, 1, white)
    canvas.paint(canvas.mask(ellipse(x, y + 4, 6.5, 4.5), 1.8), (158, 160, 96), 0.75, white)
    canvas.paint(canvas.mask(ellipse(x, y, 4.9, 4.9), 0.4), (18, 14, 14), 1, white)
    lid = at(curve(upper, closed=False))
    canvas.paint(canvas.stroke([(u, v + 3) for u, v in lid[::8]], (3, 6, 3), 2), LINE, 0.5, white)
    canvas.paint(canvas.mask(ellipse(x - 4, y - 4.4, 2.7, 2.9), 0.3), (255, 255, 255))
    canvas.paint(canvas.mask(ellipse(x + 4, y + 4.5, 1.4, 1.4), 0.4), (255, 255, 255), 0.7)
    corner = ellipse(256 + side * 23.6, 245.2, 2.6, 2)
    canvas.paint(canvas.mask(corner, 0.6), (222, 150, 138), 0.9, white)
    canvas.paint(canvas.stroke(at([*upper, (25, -3)]), (1.2, 4.2, 1.2), 0.3), LINE)
    canvas.paint(canvas.stroke(at(lower), (1.4, 1.1, 0.6), 0.5), LINE, 0.5)
    crease = [(-18, -6), (-11, -14), (0, -18.5), (13, -15), (23, -6)]
    canvas.paint(canvas.stroke(at(crease), (0.8, 1.8, 0.8), 0.8), SKIN_SHADE, 0.8, face)
    fold = [(-14, 14), (0, 17.5), (14, 14)]
    canvas.paint(canvas.stroke(at(fold), (0.5, 2, 0.5), 1.6), SKIN_SHADE, 0.4, face)
    for u, v, du, dv in ((9, -9.5, 3, -4), (14, -7, 4, -3.8), (19, -3, 5, -3)):
        lash = [(u, v), (u + 0.6 * du, v + 0.45 * dv), (u + du, v + dv)]
        canvas.paint(canvas.stroke(at(lash), (1.6, 1.0, 0.3), 0.3), LINE)


def brow(canvas: Canvas, face: Image.Image, side: int, rng: np.random.Generator) -> None:
    """One eyebrow: a soft shape with short hairs along it."""
    top = [(-22, -27), (-6, -34), (12, -35), (31, -24)]
    bottom = [(31, -24), (13, -29.5), (-4, -27.5), (-21, -20)]
    shape = curve(top, closed=False) + curve(bottom, closed=False)
    outline = [(256 + side * (42 + x), 242 + y) for x, y in shape]
    mask = canvas.mask(outline, 1)
    canvas.paint(mask, HAIR, 0.78, face)
    lines = []
    for t in rng.uniform(0, 1, 44):
        x = -21 + 50 * t
        y = float(np.interp(x, [-22, -5, 12, 31], [-22.5, -29.5, -31, -24])) + rng.uniform(
            -1.5, 2.5
        )
        hair = [(x, y + 2), (x + 2.5, y - 1), (x + 6, y - 2.4 + 4 * t * t)]
        lines.append(([(256 + side * (42 + u), 242 + v) for u, v in hair], 0.7))
    canvas.strands(lines, HAIR_SHADE, 0.7, canvas.mask(outline, 2))


def nose(canvas: Canvas, face: Image.Image) -> None:
    """Bridge, tip and nostrils, mostly by their shadows."""
    canvas.paint(canvas.mask(ellipse(253, 262, 5.5, 40), 4), SKIN_LIGHT, 0.8, face)
    flank = [(271, 238), (267, 262), (274, 288), (278, 300)]
    canvas.paint(canvas.stroke(flank, (4, 7, 8), 4.5), SKIN_SHADE, 0.6, face)
    flank = [(240, 238), (245, 262), (238, 290)]
    canvas.paint(canvas.stroke(flank, (2, 4, 4), 4), SKIN_SHADE, 0.3, face)
    canvas.paint(canvas.mask(ellipse(257, 313, 22, 6), 4), SKIN_SHADE, 0.6, face)
    canvas.paint(canvas.mask(ellipse(253, 296, 8, 7), 4), SKIN_LIGHT, 0.95, face)
    for side in (-1, 1):
        wing = [(256 + side * x, y) for x, y in ((17, 294), (22, 302), (19, 309), (12, 309))]
        canvas.paint(canvas.stroke(wing, (0.6, 2.2, 0.8), 0.9), SKIN_SHADE, 0.95, face)
        hole = ellipse(256 + side * 9.5, 308.6, 5, 2.3, side * -14)
        canvas.paint(canvas.mask(hole, 0.8), (110, 56, 46), 0.9, face)
    base = [(247, 310), (256, 313.5), (265, 310)]
    canvas.paint(canvas.stroke(base, (0.8, 1.6, 0.8), 0.8), SKIN_SHADE, 0.9, face)


def mouth(canvas: Canvas, face: Image.Image) -> None:
    """A closed, friendly mouth."""
    seam = [(214, 332), (232, 339), (248, 342), (256, 343), (264, 342), (280, 339), (298, 332)]
    top = [(214, 332), (232, 330), (248, 327.5), (256, 330), (264, 327.5), (280, 330), (298, 332)]
    low = [(298, 332), (282, 348), (265, 355.5), (247, 355.5), (230, 348), (214, 332)]
    line = curve(seam, closed=False)
    upper = canvas.mask(curve(top, closed=False) + line[::-1], 0.6)
    lower = canvas.mask(line + curve(low, closed=False), 0.6)
    canvas.paint(canvas.mask(ellipse(256, 362, 24, 5), 4), SKIN_SHADE, 0.55, face)
    for x in (250.5, 261.5):
        groove = [(x, 317), (x, 321), (x, 325)]
        canvas.paint(canvas.stroke(groove, (1, 2, 2), 1.6), SKIN_SHADE, 0.35, face)
    canvas.paint(upper, (176, 78, 76), 0.95)
    canvas.paint(lower, LIP, 0.95)
    canvas.paint(canvas.mask(ellipse(256, 353, 30, 4), 3), LIP_SHADE, 0.5, lower)
    canvas.paint(canvas.mask(ellipse(248, 346.5, 14, 2.6), 1.8), (244, 176, 168), 0.75, lower)
    canvas.paint(canvas.stroke(seam, (1.4, 2.2, 1.4), 0.5), (96, 36, 38), 0.95)
    for side in (-1, 1):
        x = 256 + side * 43
        canvas.paint(canvas.mask(ellipse(x, 331.5, 4, 3), 2), SKIN_SHADE, 0.9, face)
        dimple = [(x + side * 1, 323), (x + side * 6, 329), (x + side * 5, 337)]
        canvas.paint(canvas.stroke(dimple, (0.5, 1.6, 0.5), 1.4), SKIN_SHADE, 0.6, face)
        fold = [(256 + side * 26, 300), (256 + side * 38, 312), (256 + side * 46, 322)]
        canvas.paint(canvas.stroke(fold, (0.6, 2, 0.6), 2.2), SKIN_SHADE, 0.45, face)


def hair_in_front(canvas: Canvas, face: Image.Image, rng: np.random.Generator) -> None:
    """The fringe on both sides of the parting, with its shadow on the face."""
    for outer, inner in ((LEFT_OUTER, LEFT_INNER), (RIGHT_OUTER, RIGHT_INNER)):
        outline = curve(outer, closed=False) + curve(inner, closed=False)[::-1]
        hair = canvas.mask(outline, 0.5)
        canvas.paint(canvas.mask([(x + 4, y + 7) for x, y in outline], 5), SKIN_SHADE, 0.6, face)
        canvas.paint(hair, HAIR)
        canvas.paint(canvas.stroke(inner, (3, 6, 8), 4), HAIR_SHADE, 0.7, hair)
        canvas.paint(canvas.stroke(outer, (3, 8, 8), 5), HAIR_SHADE, 0.7, hair)
        a, b = np.asarray(outer), np.asarray(inner)
        shine = [tuple(0.5 * a[i] + 0.5 * b[i]) for i in (1, 2, 3, 4)]
        canvas.paint(canvas.stroke(shine, (6, 30, 6), 9), HAIR_LIGHT, 0.42, hair)
        for colour, strength, count in ((HAIR_SHADE, 0.5, 80), (HAIR_LIGHT, 0.36, 70)):
            lines = []
            for t in rng.uniform(0.03, 0.97, count):
                drift = np.linspace(0, rng.normal(0, 0.06), len(a))[:, None]
                strand = (a + (b - a) * (t + drift)).tolist()
                lines.append(([(x, y) for x, y in strand], rng.uniform(0.5, 1.6)))
            canvas.strands(lines, colour, strength, hair)
    parting = [(290, 88), (291, 100), (290, 113)]
    canvas.paint(canvas.stroke(parting, (0.6, 2.2, 1.6), 0.8), HAIR_SHADE, 0.9)
