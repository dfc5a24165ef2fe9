"""What goes over the pipe between the two environments: a length, then an .npz; no pickle.

Both environments import this module, so it needs nothing of memo_jax. The member `header` of the
.npz is JSON, the others are arrays.
"""

import io
import json
import struct
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import numpy as np


class Feature(NamedTuple):
    """A feature of an Example or of a SequenceExample, there of all its steps together.

    Attributes:
      kind: "bytes", "float" or "int".
      values: a list of bytes, or float32 or int64 [n].
      steps: of the sequence; None where it is none.
    """

    kind: str
    values: Any
    steps: int | None = None


def send(pipe: IO[bytes], header: Mapping[str, Any], features: Mapping[str, Feature] = {}) -> None:
    """Write one message."""
    described = []
    arrays: dict[str, Any] = {}
    for i, (name, feature) in enumerate(features.items()):
        lengths = None
        if feature.kind == "bytes":
            lengths = [len(value) for value in feature.values]
            arrays[str(i)] = np.frombuffer(b"".join(feature.values), np.uint8)
        else:
            arrays[str(i)] = feature.values
        described.append([name, feature.kind, feature.steps, lengths])
    text = json.dumps({**header, "features": described}).encode()
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(text, np.uint8), **arrays)
    pipe.write(struct.pack("<Q", buffer.tell()))
    pipe.write(buffer.getbuffer())
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[dict[str, Any], dict[str, Feature]] | None:
    """Read one message; None at the pipe's end, and where it ends within a message."""
    start = pipe.read(8)
    if len(start) < 8:
        return None
    (length,) = struct.unpack("<Q", start)
    data = pipe.read(length)
    if len(data) < length:
        return None
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        header = json.loads(found["header"].tobytes())
        features = {}
        for i, (name, kind, steps, lengths) in enumerate(header.pop("features")):
            values: Any = found[str(i)]
            if lengths is not None:
                whole, ends = values.tobytes(), np.cumsum(lengths).tolist()
                values = [whole[a:b] for a, b in zip([0, *ends], ends, strict=False)]
            features[name] = Feature(kind, values, steps)
    return header, features
