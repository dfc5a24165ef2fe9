"""The other environment's side: reads TFRecords with TensorFlow's files and tensorflow-io's audio.

    python -m tools.tfrecord_import.bridge           serves requests from stdin (wire.py)
    python -m tools.tfrecord_import.bridge --check   does tensorflow-io work here?

Requests and their answers:
  {"op": "list", "pattern"}    {"files": [[name, bytes, s], ...]}
  {"op": "read", "path", "size", "skip", "count", "audio"}
                               for each record {"number", "position"} and its features, or where it
                               is damaged {"number", "position", "code", "text", "lost"}; then
                               {"end": true}
  whatever goes wrong          {"error": text}, or {"no_tfrecord": text}
The feature `audio` is an encoded sound file and comes back decoded, as its samples between -1 and
1, channel after channel of each moment; FEATURE@rate and FEATURE@channels stand beside it.
Framing and checksums are read by framing.py, because TensorFlow gives a file up at the first
damaged record; Examples are parsed by TensorFlow.
"""

import io
import itertools
import os
import signal
import struct
import sys
import tempfile
from typing import IO, Any

import numpy as np

from tools.tfrecord_import.framing import NoTFRecord, records
from tools.tfrecord_import.wire import Feature, receive, send


def main() -> None:
    """Serve until stdin ends."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever TensorFlow prints must not get between the messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the importer ends this process
    if sys.argv[1:] == ["--check"]:
        samples, rate, channels = decoded(_wav(np.array([0, 16384, -32768], "<i2")))
        assert (samples.tolist(), rate, channels) == ([0, 0.5, -1], 8000, 1)
        _leave()
    try:
        while (message := receive(sys.stdin.buffer)) is not None:
            _answer(pipe, message[0])
    except BrokenPipeError:
        pass  # who asked has gone
    _leave()


def _leave() -> None:
    """TensorFlow's threads end badly when Python takes its modules apart."""
    sys.stderr.flush()
    os._exit(0)


def _answer(pipe: IO[bytes], request: dict[str, Any]) -> None:
    try:
        if request["op"] == "list":
            send(pipe, {"files": _listed(request["pattern"])})
        else:
            _read(pipe, request)
    except BrokenPipeError:
        raise
    except NoTFRecord as error:
        send(pipe, {"no_tfrecord": str(error)})
    except Exception as error:  # TensorFlow's file systems raise whatever theirs do
        send(pipe, {"error": f"{type(error).__name__}: {error}"})


def _listed(pattern: str) -> list[list[Any]]:
    import tensorflow as tf
    import tensorflow_io  # noqa: F401  its file systems

    names = [n for n in sorted(tf.io.gfile.glob(pattern)) if not tf.io.gfile.isdir(n)]
    stats = [tf.io.gfile.stat(name) for name in names]
    return [
        [n, int(s.length), int(s.mtime_nsec) // 10**9] for n, s in zip(names, stats, strict=True)
    ]


def _read(pipe: IO[bytes], request: dict[str, Any]) -> None:
    import tensorflow as tf
    import tensorflow_io  # noqa: F401  its file systems

    with tf.io.gfile.GFile(request["path"], "rb") as file:
        found = records(file, request["size"], request["skip"])
        for record in itertools.islice(found, request["count"]):
            place = {"number": record.number, "position": record.position}
            if record.data is None:
                damage = {"code": record.code, "text": record.text, "lost": record.lost}
                send(pipe, place | damage)
                continue
            try:
                features = _features(record.data, request["audio"])
            except _Unusable as error:
                send(pipe, place | {"code": error.code, "text": str(error), "lost": 1})
                continue
            send(pipe, place, features)
    send(pipe, {"end": True})


class _Unusable(Exception):
    """A whole record that holds something else than was expected."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(" ".join(text.split())[:200])
        self.code = code


def _features(data: bytes, audio: str | None) -> dict[str, Feature]:
    import tensorflow as tf

    try:
        example = tf.train.SequenceExample.FromString(data)  # whose field 1 is an Example's, too
    except Exception as error:  # protobuf's DecodeError is another class in each of its versions
        raise _Unusable("example", f"no Example ({error})") from error
    found = {name: _feature([f]) for name, f in example.context.feature.items()}
    for name, steps in example.feature_lists.feature_list.items():
        found[name] = _feature(list(steps.feature))._replace(steps=len(steps.feature))
    if audio is not None and audio in found:
        if found[audio].kind != "bytes" or len(found[audio].values) != 1:
            raise _Unusable("sound", f"feature {audio!r} holds no sound file")
        try:
            samples, rate, channels = decoded(found[audio].values[0])
        except Exception as error:  # of TensorFlow, by the kind of the damage
            raise _Unusable("sound", f"tensorflow-io cannot decode it ({error})") from error
        found[audio] = Feature("float", samples)
        found[f"{audio}@rate"] = Feature("int", np.array([rate]))
        found[f"{audio}@channels"] = Feature("int", np.array([channels]))
    return dict(sorted(found.items()))


def _feature(steps: list[Any]) -> Feature:
    kinds = [step.WhichOneof("kind") for step in steps]
    kind = next((k for k in kinds if k), "bytes_list")
    values = [v for step, k in zip(steps, kinds, strict=True) if k == kind
              for v in getattr(step, kind).value]  # fmt: skip
    if kind == "bytes_list":
        return Feature("bytes", values)
    if kind == "float_list":
        return Feature("float", np.array(values, np.float32))
    return Feature("int", np.array(values, np.int64))


def decoded(data: bytes) -> tuple[np.ndarray, int, int]:
    """A sound file by tensorflow-io: float32 [samples x channels] in [-1, 1], Hz, channels."""
    import tensorflow_io as tfio

    with tempfile.NamedTemporaryFile(suffix=_suffix(data)) as file:
        file.write(data)
        file.flush()
        sound = tfio.audio.AudioIOTensor(file.name)
        samples, rate = sound.to_tensor().numpy(), int(sound.rate.numpy())
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    return samples.astype(np.float32).reshape(-1), rate, samples.shape[1]


def _suffix(data: bytes) -> str:
    """tensorflow-io tells some kinds by the file's name."""
    known = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}
    return known.get(data[:4], ".mp4" if data[4:8] == b"ftyp" else ".mp3")


def _wav(samples: np.ndarray) -> bytes:
    """A file of 16 bits, mono, at 8 kHz."""
    buffer = io.BytesIO()
    buffer.write(b"RIFF" + struct.pack("<I", 36 + samples.nbytes) + b"WAVEfmt ")
    buffer.write(struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16))
    buffer.write(b"data" + struct.pack("<I", samples.nbytes) + samples.tobytes())
    return buffer.getvalue()


if __name__ == "__main__":
    main()
