"""What an emotion does to a face: brows, lids, mouth corners."""

from dataclasses import dataclass, fields

from memo_jax.audio.emotion import EMOTIONS

SHOWN = tuple(name for name in EMOTIONS if name != "unknown")
"""The emotions that puppets show. Their numbers are those of `EMOTIONS`."""


@dataclass(frozen=True)
class Expression:
    """How far a face is from rest, 0 everywhere; in halves of a head's height unless said.

    Attributes:
      brow_inner: how much higher the brows' inner ends are.
      brow_outer: their outer ends.
      brow_skew: the right brow higher than the left.
      upper_lid: the eye's opening upwards, as a share of it.
      lid_slant: the upper lid cuts the inner corner (above 0) or the outer one (below).
      lower_lid: how far it has risen, as a share of the eye.
      corner: how much higher the mouth's corners are.
      corner_skew: the right corner higher than the left.
      stretch: the mouth's width, as a share of it.
      pucker: how much thicker the lips are, as a share.
      lip_raise: the upper lip's middle.
      wave: of the line between the lips.
      wrinkle: of the nose, 0 to 1.
      iris: its size, as a share.
      flush: redness of the cheeks, 0 to 1.
      pallor: greyness of the face, 0 to 1.
    """

    brow_inner: float = 0.0
    brow_outer: float = 0.0
    brow_skew: float = 0.0
    upper_lid: float = 0.0
    lid_slant: float = 0.0
    lower_lid: float = 0.0
    corner: float = 0.0
    corner_skew: float = 0.0
    stretch: float = 0.0
    pucker: float = 0.0
    lip_raise: float = 0.0
    wave: float = 0.0
    wrinkle: float = 0.0
    iris: float = 0.0
    flush: float = 0.0
    pallor: float = 0.0

    def scaled(self, intensity: float) -> "Expression":
        """The expression at a strength from 0 to 1."""
        return Expression(*(intensity * getattr(self, field.name) for field in fields(self)))


EXPRESSIONS = {
    "angry": Expression(
        brow_inner=-0.17,
        brow_outer=0.09,
        upper_lid=-0.1,
        lid_slant=0.75,
        lower_lid=0.25,
        corner=-0.075,
        stretch=-0.12,
        iris=-0.1,
        flush=0.9,
    ),
    "disgusted": Expression(
        brow_inner=-0.09,
        brow_outer=-0.03,
        upper_lid=-0.38,
        lower_lid=0.5,
        corner=-0.03,
        corner_skew=0.09,
        lip_raise=0.07,
        wrinkle=1.0,
        pallor=0.55,
    ),
    "fearful": Expression(
        brow_inner=0.19,
        brow_outer=-0.10,
        upper_lid=0.22,
        lower_lid=-0.2,
        corner=-0.06,
        stretch=0.22,
        wave=0.045,
        iris=-0.42,
        pallor=1.0,
    ),
    "happy": Expression(
        brow_inner=0.05,
        brow_outer=0.06,
        upper_lid=-0.05,
        lower_lid=0.62,
        corner=0.14,
        stretch=0.2,
        flush=0.45,
    ),
    "neutral": Expression(),
    "other": Expression(
        brow_inner=0.0,
        brow_skew=0.20,
        upper_lid=-0.38,
        corner=0.02,
        corner_skew=0.15,
        stretch=-0.05,
    ),
    "sad": Expression(
        brow_inner=0.15,
        brow_outer=-0.13,
        upper_lid=-0.3,
        lid_slant=-0.75,
        corner=-0.13,
        stretch=-0.1,
    ),
    "surprised": Expression(
        brow_inner=0.24,
        brow_outer=0.24,
        upper_lid=0.5,
        lower_lid=-0.3,
        stretch=-0.42,
        pucker=1.0,
    ),
}
"""Each emotion at full strength. None opens the mouth: that is the sound's."""


def expression(emotion: int, intensity: float) -> Expression:
    """The expression of a class of `EMOTIONS` at a strength from 0 to 1."""
    return EXPRESSIONS[EMOTIONS[emotion]].scaled(intensity)


def number(name: str) -> int:
    """An emotion's class."""
    return EMOTIONS.index(name)
