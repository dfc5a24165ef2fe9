"""TFRecords written here, by code that shares nothing with the reader's."""

import gzip
import io
import json
import struct
import subprocess
import sys
import wave
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = 32
FPS = 25
RATE = 16000
ROOT = Path(__file__).parents[2]


def _table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


TABLE = list(_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(data):
    """A record as it stands in a file."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        [length, struct.pack("<I", masked(length)), data, struct.pack("<I", masked(data))]
    )


def varint(number):
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def tagged(number, data):
    """A field of protobuf that holds bytes or a message."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(value):
    """A tf.train.Feature of bytes, text, floats or ints, one or a list."""
    values = value if isinstance(value, list | np.ndarray) else [value]
    if isinstance(values[0], bytes | str):
        coded = [v.encode() if isinstance(v, str) else v for v in values]
        return tagged(1, b"".join(tagged(1, v) for v in coded))
    if isinstance(values[0], float | np.floating):
        return tagged(2, tagged(1, np.asarray(values, "<f4").tobytes()))
    return tagged(3, tagged(1, b"".join(varint(int(v)) for v in values)))


def features(values):
    entries = [tagged(1, name.encode()) + tagged(2, feature(v)) for name, v in values.items()]
    return b"".join(tagged(1, entry) for entry in entries)


def example(values):
    """A tf.train.Example."""
    return tagged(1, features(values))


def sequence_example(context, lists):
    """A tf.train.SequenceExample; each step of `lists` has one value."""
    entries = []
    for name, steps in lists.items():
        listed = b"".join(tagged(1, feature(step)) for step in steps)
        entries.append(tagged(1, tagged(1, name.encode()) + tagged(2, listed)))
    return example(context) + tagged(2, b"".join(entries))


def write(path, examples, compression=""):
    """A TFRecord file."""
    data = b"".join(framed(item) for item in examples)
    pack = {"": bytes, "GZIP": gzip.compress, "ZLIB": zlib.compress}[compression]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(data))
    return path


def picture(number, index, size=SIZE):
    """Pixels that say the clip and the frame."""
    pixels = np.full((size, size, 3), 128, np.uint8)
    pixels[: size // 2, :, 0] = 8 * index % 256
    pixels[size // 2 :, :, 1] = 16 * number % 256
    return pixels


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def tone(number, seconds, rate=RATE):
    """int16 samples of a chirp that differs from clip to clip."""
    t = np.arange(round(seconds * rate)) / rate
    return np.rint(12000 * np.sin(2 * np.pi * (200 + 40 * number) * t * (1 + t))).astype(np.int16)


def wav(samples, rate=RATE):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def mp4(frames, samples, fps=FPS):
    """H.264 and AAC."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        video = out.add_stream("libx264", rate=fps)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        sound = out.add_stream("aac", rate=RATE, layout="mono")
        for frame in frames:
            out.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(video.encode(None))
        heard = av.AudioFrame.from_ndarray(
            (samples / 32768).astype(np.float32)[None], format="fltp", layout="mono"
        )
        heard.sample_rate, heard.time_base, heard.pts = RATE, Fraction(1, RATE), 0
        out.mux(sound.encode(heard))
        out.mux(sound.encode(None))
    return file.getvalue()


def clip(number, n=20, **changes):
    """Values of an Example of pictures and a wav."""
    values = {
        "frames": [png(picture(number, i)) for i in range(n)],
        "fps": float(FPS),
        "wav": wav(tone(number, n / FPS)),
        "speaker": f"person {number % 2}",
        "label": ["happy", "sad"][number % 2],
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


MAP = {
    "images": {"feature": "frames"},
    "fps": {"feature": "fps"},
    "audio": {"feature": "wav"},
    "identity": {"feature": "speaker"},
    "emotion": {"feature": "label"},
    "licence": {"value": "test"},
}


class Command:
    """The import command in this process or in one of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.output = folder / "out"

    def arguments(self, *more, record_map=MAP, pattern=None, output=None):
        path = self.folder / "map.json"
        path.write_text(json.dumps(record_map))
        pattern = pattern or str(self.folder / "*.tfrecord")
        output = str(output or self.output)
        return ["--input", pattern, "--map", str(path), "--output", output, "--size", str(SIZE),
                "--format", "png", "--quiet", *map(str, more)]  # fmt: skip

    def __call__(self, *more, **options):
        from tools.tfrecord_import.__main__ import main

        main(self.arguments(*more, **options))
        return options.get("output") or self.output

    def start(self, *arguments, **options):
        """A process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "tools.tfrecord_import", *map(str, arguments)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
