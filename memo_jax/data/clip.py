"""A clip in memory: its fields, what they must be, and the short codes of all that may be wrong."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from memo_jax.errors import UserError, one_line

REASONS = {
    "unreadable": "the shard does not give the record",
    "truncated": "the record ends before its header says",
    "header": "no clip record, or one whose fields are missing or of the wrong kind",
    "schema": "another version of the schema",
    "shape": "arrays that disagree, or have the wrong type or number of axes",
    "layout": "sizes other than the data set's",
    "short": "fewer frames than a window",
    "no-frames": "neither images nor latents, or not those that are read",
    "no-audio": "no audio features",
    "no-emotion": "no emotion known, in the clip or in the window",
    "no-face": "no face embedding",
    "nan-latents": "latents that are not finite",
    "nan-audio": "audio features that are not finite",
    "nan-face": "a face embedding that is not finite",
    "emotion": "an emotion that is no class",
    "image": "a picture that cannot be decoded, or of another size",
    "no-other-emotion": "no clip of the same person with another emotion",
}
"""Why a record is not used, by the short code it is counted under."""

BFLOAT16 = np.dtype(jnp.bfloat16)
FLOAT16 = np.dtype(np.float16)
EXPONENT = {FLOAT16: np.uint16(0x7C00), BFLOAT16: np.uint16(0x7F80)}  # all set: inf or nan
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")


class BadRecord(UserError):
    """A record that cannot be used; `code` is one of REASONS."""

    def __init__(self, code: str, text: str):
        super().__init__(f"{code}: {one_line(text)}")
        self.code = code
        self.text = one_line(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.text)


@dataclass(frozen=True)
class Layout:
    """What the clips of a data set share, so that windows of any of them make one batch.

    Attributes:
      size: pixels of the square.
      images: whether there are pictures.
      latents: (h, w, c), or None where there are none.
      audio: (layers, channels).
      face: values of a face embedding.
      emotions: the names of the classes, in order.
      audio_features: what the audio's numbers are (`ModelSpec.audio_features`); "" unknown. It is
        not compared, for records did not always tell.
    """

    size: int
    images: bool
    latents: tuple[int, ...] | None
    audio: tuple[int, ...]
    face: int
    emotions: tuple[str, ...]
    audio_features: str = field(default="", compare=False)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Layout":
        """A layout from what `dataclasses.asdict` gave, through JSON or not."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        return cls(**values)


@dataclass(frozen=True)
class Source:
    """Where a clip was cut from: a file, and seconds from its start."""

    file: str = ""
    start: float = 0.0
    end: float = 0.0


# The fields that are no arrays: what each must be.
META: dict[str, type | tuple[type, ...]] = {
    "size": int,
    "fps": (float, int),
    "emotions": tuple,
    "identity": str,
    "clip_emotion": str,
    "corpus": str,
    "source": Source,
    "licence": str,
    "scores": Mapping,
    "sound_rate": int,
    "audio_features": str,
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Clip:
    """A stored clip; the arrays' shapes are in the module's docstring.

    Attributes:
      images: one encoded picture for each frame, or none.
      latents_mean: the VAE's posterior, with `latents_std`, or None.
      latents_std: its standard deviation.
      size: pixels of the square.
      fps: frames per second.
      audio: hidden states, at `fps`.
      emotion: class of each frame.
      emotions: the names of the classes, in order.
      face: face embedding.
      identity: who it is, unique within the corpus; "" unknown.
      clip_emotion: the corpus's own label of the whole clip; "" unknown.
      corpus: the name of the corpus; "" none.
      source: where it was cut from.
      licence: a note on what may be done with it.
      scores: what the filters measured.
      sound: an encoded sound file, or None.
      sound_rate: Hz of `sound`; 0 without.
      audio_features: what `audio`'s numbers are (`ModelSpec.audio_features`); "" unknown.
    """

    images: tuple[bytes | memoryview, ...] = ()
    latents_mean: np.ndarray | None = None
    latents_std: np.ndarray | None = None
    size: int
    fps: float
    audio: np.ndarray
    emotion: np.ndarray
    emotions: tuple[str, ...]
    face: np.ndarray
    identity: str = ""
    clip_emotion: str = ""
    corpus: str = ""
    source: Source = Source()
    licence: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    sound: bytes | memoryview | None = None
    sound_rate: int = 0
    audio_features: str = ""

    @property
    def frames(self) -> int:
        """The number of frames."""
        return len(self.emotion)

    @property
    def layout(self) -> Layout:
        """The sizes that all clips of a data set share."""
        latents = None if self.latents_mean is None else self.latents_mean.shape[1:]
        audio, face = self.audio.shape[1:], len(self.face)
        return Layout(
            self.size,
            bool(self.images),
            latents,
            audio,
            face,
            self.emotions,
            self.audio_features,
        )


def check(clip: Clip) -> None:
    """Raises BadRecord unless the clip is all that the schema says; pictures stay encoded."""
    _array("emotion", clip.emotion, (np.dtype(np.int8),), (None,))
    n = clip.frames
    if n < 1:
        raise BadRecord("short", "the clip has no frames")
    if not clip.images and clip.latents_mean is None:
        raise BadRecord("no-frames", "neither images nor latents, expected at least one")
    if (clip.latents_mean is None) != (clip.latents_std is None):
        raise BadRecord("no-frames", "latents_mean and latents_std, expected both or neither")
    if clip.images and len(clip.images) != n:
        raise BadRecord("shape", f"{len(clip.images)} images, expected {n} as emotions")
    _array("audio", clip.audio, (BFLOAT16,), (n, None, None))
    _array("face", clip.face, (np.dtype(np.float32),), (None,))
    if clip.latents_mean is not None and clip.latents_std is not None:
        _array("latents_mean", clip.latents_mean, tuple(EXPONENT), (n, None, None, None))
        _array("latents_std", clip.latents_std, tuple(EXPONENT), clip.latents_mean.shape)
        if not (_finite(clip.latents_mean) and _finite(clip.latents_std)):
            raise BadRecord("nan-latents", "latents are not finite")
    if not clip.audio.size:
        raise BadRecord("no-audio", f"audio is {clip.audio.shape}")
    if not clip.face.size:
        raise BadRecord("no-face", "the face embedding has no values")
    for name in ("audio", "face"):
        if not _finite(getattr(clip, name)):
            raise BadRecord(f"nan-{name}", f"{name} is not finite")
    low, high = int(clip.emotion.min()), int(clip.emotion.max())
    if low < -1 or high >= len(clip.emotions):
        raise BadRecord(
            "emotion", f"classes {low} to {high}, expected -1 to {len(clip.emotions) - 1}"
        )
    if high < 0:
        raise BadRecord("no-emotion", "no frame's emotion is known")
    if (clip.sound is None) != (clip.sound_rate == 0):
        raise BadRecord("header", f"sound_rate {clip.sound_rate}, expected it with sound alone")
    check_fields({name: getattr(clip, name) for name in META})


def read_frame(clip: Clip, index: int) -> UInt8[np.ndarray, "s s 3"]:
    """One picture of a clip, decoded.

    Raises:
      BadRecord: the clip has no pictures, or this one is damaged or of another size.
    """
    if not clip.images:
        raise BadRecord("no-frames", "the clip has latents alone, expected images")
    try:
        with Image.open(io.BytesIO(clip.images[index]), formats=IMAGE_FORMATS) as image:
            size = image.size
            # Looked at before it is decoded: a wrong one may be huge.
            pixels = np.array(image.convert("RGB")) if size == (clip.size,) * 2 else None
    except Image.UnidentifiedImageError as error:  # whose text names an address in memory
        raise BadRecord("image", f"frame {index} is no {', '.join(IMAGE_FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise whatever their parsing trips over
        raise BadRecord("image", f"frame {index} cannot be decoded ({error})") from error
    if pixels is None:
        raise BadRecord("image", f"frame {index} is {size}, expected {clip.size} squared")
    return pixels


def check_fields(fields: Mapping[str, Any]) -> None:
    """Raises BadRecord unless every field of META is of its kind and in its range."""
    for name, kinds in META.items():
        if not isinstance(fields[name], kinds) or isinstance(fields[name], bool):
            raise BadRecord("header", f"{name} is {fields[name]!r}, another kind is expected")
    source = fields["source"]
    numbers = [*fields["scores"].values(), fields["fps"], source.start, source.end]
    good = (
        all(isinstance(x, int | float | np.floating) for x in numbers)
        and fields["size"] > 0
        and fields["sound_rate"] >= 0
        and 0 < fields["fps"] < math.inf
        and isinstance(source.file, str)
        and fields["emotions"]
        and all(isinstance(name, str) for name in (*fields["emotions"], *fields["scores"]))
    )
    if not good:
        raise BadRecord(
            "header", "a field is out of range; expected size and fps above 0, numbers as scores"
        )


def _array(
    name: str, array: np.ndarray, dtypes: tuple[np.dtype, ...], shape: tuple[int | None, ...]
) -> None:
    """Raises BadRecord for another dtype or shape; None stands for any number."""
    wanted = " or ".join(str(dtype) for dtype in dtypes)
    if array.dtype not in dtypes:
        raise BadRecord("shape", f"{name} is {array.dtype}, expected {wanted}")
    fits = len(array.shape) == len(shape) and all(
        want in (None, have) for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        written = str(shape).replace("None", "any")
        raise BadRecord("shape", f"{name} is {array.shape}, expected {written}")


def _finite(array: np.ndarray) -> bool:
    """Whether no value is infinite or no number. Bits, because bfloat16's own test is slow."""
    mask = EXPONENT.get(array.dtype)
    if mask is None:
        return bool(np.isfinite(array).all())
    bits = array.view(np.uint16)
    return not bool(((bits & mask) == mask).any())
