"""The one schema of a stored clip: what preparation writes and training reads.

A record is a safetensors file: named arrays behind a JSON header. Nothing in it is unpickled,
and arrays come out to the bit. With n frames, its entries are

  images, image_ends    uint8 [bytes], int64 [n]: encoded pictures one after the other, and where
                        each ends; JPEG, PNG or WebP, square
  latents_mean, _std    float16 or bfloat16 [n, h, w, c]: the VAE's posterior, unscaled
  audio                 bfloat16 [n, layers, channels]: hidden states at the clip's frame rate;
                        windows are made at reading
  emotion               int8 [n]: class of each frame, -1 unknown
  face                  float32 [d]: face embedding, zeros where no face was found
  sound                 uint8 [bytes]: optional, an encoded sound file (FLAC, Opus, ...)

with images, or latents, or both; the header's metadata holds, under `memo_jax.clip`, the JSON of
all other fields of `Clip`. Entries that this version does not know are passed over, so a later
one may add some; what changes the meaning of one that exists raises `SCHEMA`.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from memo_jax.data.clip import (
    BFLOAT16,
    FLOAT16,
    META,
    BadRecord,
    Clip,
    Layout,
    Source,
    check,
    check_fields,
)

SCHEMA = 1
METADATA = "memo_jax.clip"

DTYPES = {
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I64": np.dtype(np.int64),
    "F16": FLOAT16,
    "BF16": BFLOAT16,
    "F32": np.dtype(np.float32),
}

_Entry = tuple[np.dtype, tuple[int, ...], int, int]


class Summary(NamedTuple):
    """What a record's header alone tells."""

    frames: int
    seconds: float
    corpus: str
    identity: str
    clip_emotion: str
    layout: Layout


def encode(clip: Clip) -> bytes:
    """The record of a clip.

    Raises:
      BadRecord: `decode` would refuse it.
    """
    check(clip)
    arrays = {"audio": clip.audio, "emotion": clip.emotion, "face": clip.face}
    if clip.images:
        arrays["images"] = np.frombuffer(b"".join(clip.images), np.uint8)
        arrays["image_ends"] = np.cumsum([len(image) for image in clip.images], dtype=np.int64)
    if clip.latents_mean is not None and clip.latents_std is not None:
        arrays |= {"latents_mean": clip.latents_mean, "latents_std": clip.latents_std}
    if clip.sound is not None:
        arrays["sound"] = np.frombuffer(clip.sound, np.uint8)
    fields = {name: getattr(clip, name) for name in META} | {
        "schema": SCHEMA,
        "source": dataclasses.asdict(clip.source),
        "scores": {name: float(value) for name, value in clip.scores.items()},
    }
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(contiguous, {METADATA: json.dumps(fields)})


def decode(data: bytes) -> Clip:
    """The clip of a record; its arrays are views of `data`, its pictures stay encoded.

    Raises:
      BadRecord: whatever is wrong with it, as one of REASONS.
    """
    entries, fields, start = _header(data)
    _whole(entries, len(data) - start)

    def array(name: str) -> np.ndarray | None:
        if name not in entries:
            return None
        dtype, shape, begin, _ = entries[name]
        try:
            return np.frombuffer(data, dtype, math.prod(shape), start + begin).reshape(shape)
        except ValueError as error:  # an axis of 0 beside one of astronomic length
            raise BadRecord("shape", f"{name} is {shape}") from error

    def needed(name: str) -> np.ndarray:
        found = array(name)
        if found is None:
            raise BadRecord(f"no-{name}", f"the record has no {name}")
        return found

    images = _split(array("images"), array("image_ends"))
    sound = array("sound")
    clip = Clip(
        images=images,
        latents_mean=array("latents_mean"),
        latents_std=array("latents_std"),
        sound=None if sound is None else sound.tobytes(),
        audio=needed("audio"),
        emotion=needed("emotion"),
        face=needed("face"),
        **fields,
    )
    check(clip)
    return clip


def peek(data: bytes) -> Summary:
    """What the header tells, without a look at the arrays.

    Raises:
      BadRecord: a header that is none, or lacks what every record has.
    """
    entries, fields, start = _header(data)
    _whole(entries, len(data) - start)
    shapes = {name: entry[1] for name, entry in entries.items()}
    for name, axes in (("audio", 3), ("emotion", 1), ("face", 1)):
        if name not in shapes:
            raise BadRecord(f"no-{name}", f"the record has no {name}")
        if len(shapes[name]) != axes:
            raise BadRecord("shape", f"{name} is {shapes[name]}, expected {axes} axes")
    latents = shapes["latents_mean"][1:] if "latents_mean" in shapes else None
    audio, face = shapes["audio"][1:], shapes["face"][0]
    layout = Layout(
        fields["size"],
        "images" in shapes,
        latents,
        audio,
        face,
        fields["emotions"],
        fields["audio_features"],
    )
    frames = shapes["emotion"][0]
    known = (fields["corpus"], fields["identity"], fields["clip_emotion"])
    return Summary(frames, frames / fields["fps"], *known, layout)


def _header(data: bytes) -> tuple[dict[str, _Entry], dict[str, Any], int]:
    """Entries as (dtype, shape, begin, end), `Clip`'s fields, and where the arrays start."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or len(data) < 8 + length:
        raise BadRecord("truncated", f"{len(data)} bytes, expected a header of {length} and more")
    try:
        entries = json.loads(data[8 : 8 + length])
        fields = json.loads(entries.pop("__metadata__")[METADATA])
        schema = fields.pop("schema")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadRecord("header", "the bytes do not start as a clip record does") from error
    if schema != SCHEMA:
        raise BadRecord("schema", f"version {schema!r}, expected {SCHEMA}; prepare it again")
    try:
        fields["emotions"] = tuple(fields["emotions"])
        fields["source"] = Source(**fields["source"])
        fields.setdefault("audio_features", "")  # which records did not always have
        known = {name: fields[name] for name in META}
        check_fields(known)
        return {name: _entry(entry) for name, entry in entries.items()}, known, 8 + length
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRecord("header", f"a field is missing or malformed ({error!r})") from error


def _entry(entry: Mapping[str, Any]) -> _Entry:
    """One array of a safetensors header. Raises ValueError, KeyError or TypeError."""
    dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if not all(type(i) is int and i >= 0 for i in (*shape, begin, end)):
        raise ValueError("expected whole numbers from 0")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{end - begin} bytes for {shape} of {dtype}")
    return dtype, shape, begin, end


def _whole(entries: Mapping[str, _Entry], length: int) -> None:
    end = max((entry[3] for entry in entries.values()), default=0)
    if end > length:
        raise BadRecord("truncated", f"{length} bytes of arrays, expected {end}")


def _split(images: np.ndarray | None, ends: np.ndarray | None) -> tuple[bytes | memoryview, ...]:
    """The encoded pictures, not copied."""
    if images is None and ends is None:
        return ()
    if images is None or ends is None or images.ndim != 1 or ends.ndim != 1 or not len(ends):
        raise BadRecord("shape", "images and image_ends do not go together")
    if images.dtype != np.uint8 or ends.dtype != np.int64:
        raise BadRecord("shape", "images and image_ends, expected uint8 and int64")
    bounds = [0, *ends.tolist()]
    if bounds != sorted(bounds) or bounds[-1] != len(images):
        raise BadRecord("shape", f"the pictures end at {bounds[-1]} of {len(images)} bytes")
    view = images.data
    return tuple(view[a:b] for a, b in itertools.pairwise(bounds))
