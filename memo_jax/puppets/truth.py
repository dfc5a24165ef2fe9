"""What is true of every frame of a clip, and how it travels with the clip's record.

A record (`memo_jax.data.record`) may hold entries that its readers pass over. The truth is two of
them: `truth`, float32 [n, fields] in the order of `FIELDS`, and `person`, int64 [1], the identity's
seed. So a data set stays one set of files, training does not see the truth, and evaluation reads
both from the same bytes.
"""

import json
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int

from memo_jax.errors import UserError
from memo_jax.puppets.identity import identity

_DTYPES: dict[str, np.dtype] = {"F32": np.dtype(np.float32), "I64": np.dtype(np.int64)}


@dataclass(frozen=True, eq=False)
class Truth:
    """Everything that decides a clip's pictures but the identity, frame by frame.

    Attributes:
      opening: of the mouth, 0 closed to 1.
      width: of the mouth, 0 narrow over 0.5 at rest to 1 spread.
      rounding: of the lips, 0 to 1.
      emotion: class of `memo_jax.audio.emotion.EMOTIONS`.
      intensity: of the emotion, 0 to 1.
      x: the head's place right of its rest, as a share of the picture.
      y: below its rest.
      roll: degrees, clockwise as seen.
      scale: of the head.
      blink: 0 open to 1 closed.
      gaze_x: the irises right of their rest, -1 to 1.
      gaze_y: below it.
      loudness: of the voice, dB of full scale; what `opening` was made from.
      seed: of the identity.
    """

    opening: Float[np.ndarray, " n"]
    width: Float[np.ndarray, " n"]
    rounding: Float[np.ndarray, " n"]
    emotion: Int[np.ndarray, " n"]
    intensity: Float[np.ndarray, " n"]
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    roll: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]
    blink: Float[np.ndarray, " n"]
    gaze_x: Float[np.ndarray, " n"]
    gaze_y: Float[np.ndarray, " n"]
    loudness: Float[np.ndarray, " n"]
    seed: int

    def __len__(self) -> int:
        return len(self.opening)

    @property
    def identity_vector(self) -> Float[np.ndarray, " d"]:
        """The identity as numbers."""
        return identity(self.seed).vector()

    def to_array(self) -> Float[np.ndarray, "n k"]:
        """All fields but the seed, in the order of `FIELDS`, float32."""
        return np.stack([np.asarray(getattr(self, name), np.float32) for name in FIELDS], axis=1)

    @classmethod
    def from_array(cls, array: Float[np.ndarray, "n k"], seed: int) -> "Truth":
        """The inverse of `to_array`.

        Raises:
          UserError: another number of fields.
        """
        if array.ndim != 2 or array.shape[1] != len(FIELDS):
            raise UserError(f"truth is {array.shape}, expected [frames, {len(FIELDS)}]")
        columns = dict(zip(FIELDS, np.asarray(array, np.float32).T, strict=True))
        columns["emotion"] = columns["emotion"].astype(np.int8)
        return cls(**columns, seed=seed)


FIELDS = tuple(field.name for field in fields(Truth) if field.name != "seed")


def attach(record: bytes, truth: Truth) -> bytes:
    """A clip's record with its truth in it."""
    header, arrays = _split(record)
    end = len(arrays)
    added = {
        "truth": np.ascontiguousarray(truth.to_array()),
        "person": np.array([truth.seed], np.int64),
    }
    for name, array in added.items():
        kind = next(key for key, dtype in _DTYPES.items() if dtype == array.dtype)
        data = array.tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [end, end + len(data)],
        }
        arrays += data
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # safetensors aligns the arrays
    return len(text).to_bytes(8, "little") + text + arrays


def truth_of(record: bytes) -> Truth:
    """The truth in a clip's record.

    Raises:
      UserError: a record without it.
    """
    header, arrays = _split(record)
    found = {}
    for name in ("truth", "person"):
        if name not in header:
            raise UserError(
                "the record holds no truth; give a data set that memo_jax.puppets wrote"
            )
        entry = header[name]
        begin, end = entry["data_offsets"]
        array = np.frombuffer(arrays[begin:end], _DTYPES[entry["dtype"]])
        found[name] = array.reshape(entry["shape"])
    return Truth.from_array(found["truth"], int(found["person"][0]))


def _split(record: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(record[:8], "little")
    return json.loads(record[8 : 8 + length]), record[8 + length :]
