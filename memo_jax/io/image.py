"""Pictures: read any common image file upright and opaque, resize, and change number range."""

from __future__ import annotations

import os
import warnings

import numpy as np
from PIL import Image, ImageOps

from memo_jax.errors import UserError
from memo_jax.io.paths import existing_file, fail

MIN_SIDE = 32
"""Pixels. Below this nothing of a face is left."""

MAX_PIXELS = 178_000_000
"""Larger pictures are refused before they are decoded. Just under Pillow's own limit."""

# What stands behind a cut-out: white, as picture viewers and web pages show it.
BACKGROUND = (255, 255, 255)

# Named, because some of Pillow's other formats start programs (EPS runs Ghostscript).
FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "WEBP",
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "TIFF",
    "JPEG2000",
    "PPM",
    "TGA",
    "ICO",
)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """A picture file as uint8 [H, W, 3] RGB.

    EXIF rotation is applied; transparent parts are composited on white; grey, palette, CMYK
    and 16-bit pictures become 8-bit RGB; of an animation the first frame is taken.

    Raises UserError for a file that is missing, is no picture, is cut short, is smaller than
    32 pixels on a side or larger than 178 megapixels.
    """
    file = existing_file(path, "picture")
    name = repr(str(path))
    try:
        with warnings.catch_warnings(), file.open("rb") as stream:
            warnings.simplefilter("ignore")  # Pillow warns of large pictures and odd EXIF
            with Image.open(stream, formats=_formats()) as image:
                _check_size(image.size, name)
                pixels = _to_rgb(_upright(image))
    except Image.DecompressionBombError as error:
        raise fail(
            f"picture {name} is too large; expected at most {MAX_PIXELS // 10**6} "
            "megapixels: scale it down first"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise fail(
            f"picture {name} is not an image that can be read; expected png, jpeg, webp, "
            "avif, gif, bmp or tiff: save it as one of these"
        ) from error
    except UserError:
        raise
    # Pillow's decoders raise whatever their parsing trips over: struct.error, SyntaxError, ...
    except Exception as error:
        raise fail(
            f"picture {name} is damaged or cut short; save or download it again", error
        ) from error
    return pixels


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [height, width, 3]; size is (height, width).

    Pillow's antialiased BILINEAR, which is what the released model's portraits go through;
    the aspect ratio is the caller's care. Pillow rounds to 8 bits between its two passes and
    its versions differ in which comes first: here the cheaper one does, in every version.
    """
    height, width = size
    rows_first = height * image.shape[1] < image.shape[0] * width
    middle = (image.shape[1], height) if rows_first else (width, image.shape[0])
    scaled = Image.fromarray(image).resize(middle, Image.Resampling.BILINEAR)
    return np.array(scaled.resize((width, height), Image.Resampling.BILINEAR))


def to_unit(image: np.ndarray) -> np.ndarray:
    """uint8 of any shape -> float32 in [-1, 1]."""
    scaled = image.astype(np.float32) / np.float32(255)
    return (scaled - np.float32(0.5)) / np.float32(0.5)


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """float in [0, 1], of any shape -> uint8, by truncation of 255 x as the released code does."""
    return np.clip(np.asarray(frames) * 255, 0, 255).astype(np.uint8)


def _formats() -> list[str]:
    """Those of FORMATS that this build of Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if min(width, height) < MIN_SIDE:
        raise fail(
            f"picture {name} is {width}x{height} pixels; expected at least "
            f"{MIN_SIDE}x{MIN_SIDE}: use a larger picture"
        )
    if width * height > MAX_PIXELS:
        raise fail(
            f"picture {name} is {width}x{height} pixels; expected at most "
            f"{MAX_PIXELS // 10**6} megapixels: scale it down first"
        )


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says. Unreadable EXIF counts as none."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF raises anything; the pixels are sound by now
        return image


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of a Pillow image of any mode."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey = _grey8(np.asarray(image), image.mode)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        cutout = image.convert("RGBA")
        canvas = Image.new("RGBA", cutout.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(canvas, cutout)
    return np.array(image.convert("RGB"))


def _grey8(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values of 16 or more bits, or float, as uint8 of the same shape.

    Modes "I" and "F" do not say their range: integers above 255 are taken as 16 bits, floats
    within [0, 1] as a fraction.
    """
    values = np.nan_to_num(values.astype(np.float64))
    if mode == "F" and values.max() <= 1:
        values = values * 255
    elif mode.startswith("I;16") or values.max() > 255:
        values = values / 257
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)
