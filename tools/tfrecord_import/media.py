"""A record's pictures and sound, from whatever form it holds them in."""

import contextlib
import io
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
from jaxtyping import Float
from PIL import Image

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.data.clip import IMAGE_FORMATS
from memo_jax.errors import UserError
from memo_jax.io.image import MAX_PIXELS
from memo_jax.io.media import MEDIA_ERRORS, decoded, first_stream, opened
from memo_jax.io.sound import read_recording
from tools.tfrecord_import.mapping import RecordMap
from tools.tfrecord_import.reasons import Unusable
from tools.tfrecord_import.wire import Feature

# Timestamps that ask for this many times the frames that there are come of damage.
MAX_STRETCH = 20

# Samples beyond this are of another scale than they are said to be.
LOUDEST = 4.0

Store = Callable[[np.ndarray, bytes | None], bytes]
"""Makes a stored picture of pixels [H, W, 3]; beside them the encoded picture they are from."""


class Pictures(NamedTuple):
    """Stored pictures, frames per second, and when the first one is shown (s)."""

    images: list[bytes]
    fps: float
    start: float


def read_pictures(images: Sequence[bytes], fps: float, store: Store) -> Pictures:
    """A list of encoded pictures.

    Raises:
      Unusable: one cannot be decoded.
    """
    return Pictures([store(_pixels(data, i), data) for i, data in enumerate(images)], fps, 0.0)


def read_video(data: bytes, fps: float | None, store: Store) -> Pictures:
    """The frames of an encoded video at one rate, its own unless `fps` is given.

    Frames that come as evenly as the rate says are taken as they are. Of others, such as those of
    a variable rate, each moment has the one that a player shows.

    Raises:
      Unusable: it cannot be decoded.
    """
    images: list[bytes] = []
    times: list[float] = []
    with _file(data, "video") as path, opened(path, "video") as container:
        stream = first_stream(container, "video", "video", path)
        stated = [stream.guessed_rate, stream.average_rate] if fps is None else [fps]
        rates = [float(rate) for rate in stated if rate]
        for frame in decoded(container, stream):
            pixels = frame.to_ndarray(format="rgb24")
            images.append(store(np.rot90(pixels, frame.rotation // 90), None))
            times.append(math.nan if frame.time is None else float(frame.time))
        if not images or not rates:
            raise Unusable("video", "it has no frame that can be decoded, or no frame rate")
    return _steady(images, np.array(times), rates)


def _steady(images: list[bytes], times: np.ndarray, rates: list[float]) -> Pictures:
    """Frames at one rate: the first of `rates` that fits all times, or else the last."""
    order = np.arange(len(images))
    if not np.isfinite(times).all():
        return Pictures(images, rates[0], 0.0)
    for rate in rates:
        if np.abs(times - times[0] - order / rate).max() < 0.5 / rate:
            return Pictures(images, rate, float(times[0]))
    rate = rates[-1]
    shown = np.maximum.accumulate(times - times[0])
    count = math.floor(shown[-1] * rate + 0.25) + 1
    if count > MAX_STRETCH * len(images):
        raise Unusable("video", f"{len(images)} frames in {shown[-1]:.0f} s: its times are damaged")
    # A quarter of a frame later, because containers round times.
    at = np.searchsorted(shown, (np.arange(count) + 0.25) / rate, side="right") - 1
    return Pictures([images[i] for i in at], rate, float(times[0]))


def read_sound(
    record_map: RecordMap, found: Mapping[str, Feature], start: float
) -> Float[np.ndarray, " samples"]:
    """The sound from `start` (s, of the video) on: mono at 16 kHz, as it is stored in 16 bits.

    Raises:
      Unusable: there is none, or it cannot be decoded.
    """
    if "audio" not in record_map:
        data = _one(record_map.feature(found, "video"), "video")
        samples, begun = _recording(data)
        samples = _shifted(samples, begun - start)
    elif record_map.form == "file":
        samples, _ = _recording(_one(record_map.feature(found, "audio"), "audio"))
    else:
        samples = _resampled(record_map, found)
    if not len(samples):
        raise Unusable("sound", "it holds no samples")
    return (np.clip(np.rint(samples * 32768), -32768, 32767) / 32768).astype(np.float32)


def _resampled(record_map: RecordMap, found: Mapping[str, Feature]) -> np.ndarray:
    """Samples that stand in the record, as mono at 16 kHz."""
    audio = record_map.feature(found, "audio")
    name = record_map.fields["audio"].feature
    if record_map.form == "tensorflow-io":
        rate: float | None = found[f"{name}@rate"].values.item()
        channels: float | None = found[f"{name}@channels"].values.item()
    else:
        rate = record_map.number(found, "audio_rate")
        channels = record_map.number(found, "audio_channels")
    samples = _samples(audio, record_map.form)
    n = int(channels or 1)
    if len(samples) % n:
        raise Unusable("sound", f"{len(samples)} samples are no whole moments of {n} channels")
    if not np.isfinite(samples).all():
        raise Unusable("sound", "it holds samples that are not finite")
    if np.abs(samples).max() > LOUDEST:
        loudest = float(np.abs(samples).max())
        raise Unusable("sound", f"samples reach {loudest:g}, expected -1 to 1; is its form int16?")
    mono = samples.reshape(-1, n).mean(axis=1)  # as np.float32, of one channel to the bit
    assert rate is not None
    return mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE)


def _samples(audio: Feature, form: str) -> np.ndarray:
    """float32 [n], nominally in [-1, 1]."""
    if form.startswith("bytes-"):
        data = _one(audio, "audio")
        dtype = np.dtype("<i2" if form == "bytes-int16" else "<f4")
        if len(data) % dtype.itemsize:
            raise Unusable("sound", f"{len(data)} bytes are no whole samples of {form}")
        values = np.frombuffer(data, dtype)
    elif audio.kind == "bytes":
        raise Unusable("feature", f"audio is bytes, expected numbers for the form {form!r}")
    else:
        values = audio.values
    scale = 1 / 32768 if form in ("int16", "bytes-int16") else 1
    return (values * scale).astype(np.float32)


def _one(feature: Feature, name: str) -> bytes:
    if feature.kind != "bytes" or len(feature.values) != 1:
        raise Unusable(
            "feature", f"{name} is {len(feature.values)} {feature.kind}, expected one string"
        )
    return feature.values[0]


def _recording(data: bytes) -> tuple[np.ndarray, float]:
    """The sound of a file, and when it begins, in seconds of the file's own clock."""
    with _file(data, "sound") as path:
        samples = read_recording(path, SAMPLE_RATE).samples
        with opened(path, "sound") as container:
            first = next(decoded(container, container.streams.audio[0]), None)
        return samples, 0.0 if first is None or first.time is None else float(first.time)


def _shifted(samples: np.ndarray, later: float) -> np.ndarray:
    """Samples that begin `later` seconds after the pictures, or before them, begun with them."""
    n = round(later * SAMPLE_RATE)
    if n > MAX_STRETCH * max(len(samples), SAMPLE_RATE):
        raise Unusable(
            "sound", f"it begins {later:.0f} s after the pictures: its times are damaged"
        )
    return np.pad(samples, (n, 0)) if n > 0 else samples[-n:]


@contextlib.contextmanager
def _file(data: bytes, what: str) -> Iterator[Path]:
    """Bytes as a file, which FFmpeg reads more kinds of than of streams."""
    with tempfile.TemporaryDirectory(prefix="memo_jax-") as folder:
        path = Path(folder, what)
        path.write_bytes(data)
        try:
            yield path
        except UserError as error:
            raise Unusable(what, str(error).replace(str(path), what)) from error
        except MEDIA_ERRORS as error:
            raise Unusable(what, f"it cannot be decoded ({error})") from error


def _pixels(data: bytes, index: int) -> np.ndarray:
    """uint8 [H, W, 3] of an encoded picture."""
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unusable("image", f"picture {index} has {image.width}x{image.height} pixels")
            return np.array(image.convert("RGB"))
    except Unusable:
        raise
    except Image.UnidentifiedImageError as error:  # whose text names an address in memory
        raise Unusable("image", f"picture {index} is no {', '.join(IMAGE_FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise whatever their parsing trips over
        raise Unusable("image", f"picture {index} cannot be decoded ({error})") from error


def encoded(pixels: np.ndarray, form: str) -> bytes:
    """uint8 [s, s, 3] as PNG, or as JPEG of quality 95 with its colours at full size."""
    buffer = io.BytesIO()
    image: Any = Image.fromarray(pixels)
    if form == "png":
        image.save(buffer, "PNG", compress_level=1)
    else:
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
