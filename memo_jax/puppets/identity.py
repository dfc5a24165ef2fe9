"""Who a puppet is: everything of a face that no movement changes, drawn from a seed."""

import colorsys
import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from memo_jax.errors import UserError

Colour = tuple[int, int, int]

HAIR = (
    *("bald", "buzz", "short", "parted", "fringe", "spiky", "curly", "afro"),
    *("long", "bob", "bun", "mohawk", "receding", "scarf", "beanie", "pigtails"),
)
NOSES = ("button", "long", "wide", "hook")
GLASSES = ("none", "round", "square", "half")
BEARDS = ("none", "full", "goatee", "moustache")
CLOTHES = ("round", "vee", "collar", "turtleneck", "stripes", "hood")
BACKGROUNDS = ("plain", "halves", "horizon", "disc", "stripes", "window")

HELD_OUT = 1_000_000
"""Seeds from here on are of people whom no training set shows; below it are those it may show."""

_SKINS = np.array(
    [
        (255, 224, 203),
        (247, 206, 176),
        (236, 188, 152),
        (219, 163, 120),
        (191, 132, 91),
        (156, 102, 67),
        (118, 75, 50),
        (84, 54, 39),
    ],
    np.float64,
)
_HAIR_COLOURS: tuple[Colour, ...] = (
    *((28, 24, 26), (58, 38, 28), (98, 62, 36), (140, 74, 34), (176, 60, 28), (214, 168, 84)),
    *((240, 214, 142), (150, 150, 154), (226, 226, 224), (60, 88, 170), (196, 70, 138)),
    *((58, 140, 112), (118, 72, 160)),
)
_EYE_COLOURS: tuple[Colour, ...] = (
    *((70, 42, 24), (118, 72, 30), (52, 112, 60), (50, 112, 176), (96, 112, 124), (38, 30, 30)),
)


@dataclass(frozen=True)
class Identity:
    """A face. Lengths are in halves of a head's height, colours RGB from 0 to 255."""

    seed: int
    head_width: float
    jaw: float
    chin: float
    ear: float
    skin: Colour
    hair: str
    hair_colour: Colour
    hair_height: float
    eye_size: float
    eye_shape: float
    eye_spacing: float
    eye_height: float
    eye_colour: Colour
    brow_thickness: float
    brow_arch: float
    brow_length: float
    nose: str
    nose_size: float
    mouth_width: float
    mouth_height: float
    lip_thickness: float
    lip_colour: Colour
    cheeks: float
    freckles: float
    glasses: str
    glasses_colour: Colour
    beard: str
    clothes: str
    clothes_colour: Colour
    trim_colour: Colour
    background: str
    background_colours: tuple[Colour, Colour]

    def vector(self) -> Float[np.ndarray, " d"]:
        """The identity as numbers, float32: lengths and colours about -1 to 1, styles one-hot."""
        parts: list[float] = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in RANGES:
                low, high = RANGES[field.name]
                parts.append(2.0 * (value - low) / (high - low) - 1.0)
            elif field.name in STYLES:
                parts.extend(float(value == style) for style in STYLES[field.name])
            elif field.name != "seed":
                parts.extend(np.ravel(value) / 127.5 - 1.0)
        return np.array(parts, np.float32)


RANGES: dict[str, tuple[float, float]] = {
    "head_width": (0.70, 0.92),
    "jaw": (1.7, 3.0),
    "chin": (0.92, 1.06),
    "ear": (0.13, 0.23),
    "hair_height": (0.05, 0.16),
    "eye_size": (0.15, 0.205),
    "eye_shape": (0.82, 1.12),
    "eye_spacing": (0.29, 0.38),
    "eye_height": (-0.10, 0.02),
    "brow_thickness": (0.055, 0.12),
    "brow_arch": (0.0, 0.07),
    "brow_length": (0.17, 0.25),
    "nose_size": (0.8, 1.3),
    "mouth_width": (0.32, 0.42),
    "mouth_height": (0.50, 0.56),
    "lip_thickness": (0.03, 0.075),
    "cheeks": (0.0, 0.5),
}
"""Every length, and between what it lies."""

STYLES = {
    "hair": HAIR,
    "nose": NOSES,
    "glasses": GLASSES,
    "beard": BEARDS,
    "clothes": CLOTHES,
    "background": BACKGROUNDS,
}


def identity(seed: int) -> Identity:
    """The person of a seed, always the same one.

    Raises:
      UserError: a seed below 0.
    """
    if seed < 0:
        raise UserError(f"identity seed {seed}, expected 0 or more")
    rng = np.random.default_rng([seed, 0xFACE])
    lengths = {name: float(rng.uniform(low, high)) for name, (low, high) in RANGES.items()}
    tone = rng.uniform(0, len(_SKINS) - 1)
    at = np.arange(len(_SKINS))
    base = np.array([np.interp(tone, at, _SKINS[:, c]) for c in range(3)])
    skin = rgb(base * rng.uniform(0.96, 1.04, 3))
    hair_colour = rgb(np.array(_HAIR_COLOURS[rng.integers(13)]) * rng.uniform(0.85, 1.15))
    red = rng.uniform(0.25, 0.75)
    lip = rgb((1 - red) * np.array(skin) * 0.78 + red * np.array((186, 50, 62)))
    clothes, trim = _vivid(rng, (0.35, 0.9), (0.35, 0.9)), _vivid(rng, (0.1, 0.7), (0.5, 1.0))
    behind = _vivid(rng, (0.1, 0.5), (0.55, 0.95))
    return Identity(
        seed=seed,
        **lengths,
        skin=skin,
        hair=str(rng.choice(HAIR)),
        hair_colour=hair_colour,
        eye_colour=_EYE_COLOURS[rng.integers(len(_EYE_COLOURS))],
        nose=str(rng.choice(NOSES)),
        lip_colour=lip,
        freckles=float(rng.uniform() < 0.15),
        glasses=str(rng.choice(GLASSES, p=(0.7, 0.12, 0.12, 0.06))),
        glasses_colour=_vivid(rng, (0.2, 0.9), (0.1, 0.5)),
        beard=str(rng.choice(BEARDS, p=(0.7, 0.1, 0.1, 0.1))),
        clothes=str(rng.choice(CLOTHES)),
        clothes_colour=clothes,
        trim_colour=trim,
        background=str(rng.choice(BACKGROUNDS)),
        background_colours=(behind, rgb(np.array(behind) * rng.uniform(0.72, 0.88))),
    )


def rgb(values: np.ndarray) -> Colour:
    """Numbers as a colour."""
    r, g, b = (int(v) for v in np.clip(np.rint(values), 0, 255))
    return r, g, b


@lru_cache(maxsize=4096)
def shade(colour: Colour, by: float) -> Colour:
    """A colour made darker (`by` below 1) or lighter (above 1, towards white)."""
    values = np.array(colour, np.float64)
    return rgb(values * by if by <= 1 else values + (255 - values) * (by - 1))


@lru_cache(maxsize=4096)
def blend(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b in a."""
    return rgb((1 - share) * np.array(a) + share * np.array(b))


def _vivid(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> Colour:
    hsv = (rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))
    return rgb(255 * np.array(colorsys.hsv_to_rgb(*hsv)))
