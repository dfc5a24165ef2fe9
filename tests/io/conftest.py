"""Media made on the spot: recordings, videos, and a drawn face that the cascades find."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

ENCODERS = {
    "wav": ("pcm_s16le", "s16"),
    "mp3": ("libmp3lame", "fltp"),
    "m4a": ("aac", "fltp"),
    "mp4": ("aac", "fltp"),
    "mkv": ("aac", "fltp"),
    "flac": ("flac", "s16"),
    "ogg": ("libopus", "flt"),
}


def encode_sound(path, samples, rate, codec=None, layout=None):
    """Write float [channels, n] to a file by its extension, through FFmpeg's encoders."""
    name, form = codec or ENCODERS[path.suffix[1:]]
    layout = layout or ("mono" if len(samples) == 1 else "stereo")
    with av.open(str(path), "w") as output:
        stream = output.add_stream(name, rate=rate, layout=layout)
        stream.codec_context.format = form
        stream.codec_context.open(strict=False)
        convert = av.AudioResampler(form, layout, rate)
        size = stream.codec_context.frame_size or 1024
        for start in range(0, samples.shape[1], size):
            part = np.ascontiguousarray(samples[:, start : start + size], np.float32)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for ready in convert.resample(frame):
                output.mux(stream.encode(ready))
        output.mux(stream.encode(None))
    return path


def sweep(seconds, rate):
    """float [n]: a tone that rises, so that a shift in time shows in the correlation."""
    time = np.arange(round(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * (200 * time + 150 * time**2))


def paint_face(side=512, x=256, y=240, radius=90):
    """uint8 [side, side, 3]: a frontal face, `radius` from its middle to its chin."""
    image = Image.new("RGB", (side, side), (120, 130, 140))
    draw = ImageDraw.Draw(image)

    def ellipse(cx, cy, across, down, colour):
        box = (cx - across, cy - down, cx + across, cy + down)
        draw.ellipse([o + v * radius for o, v in zip((x, y, x, y), box, strict=True)], colour)

    ellipse(0, -0.25, 1.0, 1.25, (60, 40, 30))
    ellipse(0, 0, 0.82, 1.1, (224, 180, 150))
    for eye in (-0.36, 0.36):
        ellipse(eye, -0.18, 0.24, 0.17, (170, 120, 100))
        ellipse(eye, -0.38, 0.24, 0.05, (70, 45, 35))
        ellipse(eye, -0.15, 0.19, 0.09, (240, 240, 240))
        ellipse(eye, -0.15, 0.085, 0.085, (40, 25, 20))
    ellipse(0, 0.05, 0.07, 0.25, (238, 200, 170))
    ellipse(0, 0.58, 0.3, 0.07, (160, 70, 70))
    ellipse(0, 0.72, 0.25, 0.05, (190, 140, 115))
    return np.array(image.filter(ImageFilter.GaussianBlur(radius * 0.03)))


def count_frames(n, height=32, width=32):
    """uint8 [n, height, width, 3]: every frame has a brightness that tells it from its eight
    neighbours, and its number modulo 23 can be read back."""
    levels = (np.arange(n) % 23 * 10 + 15).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (n, height, width, 3))


@pytest.fixture(scope="session", name="encode_sound")
def _encode_sound():
    return encode_sound


@pytest.fixture(scope="session", name="sweep")
def _sweep():
    return sweep


@pytest.fixture(scope="session", name="paint_face")
def _paint_face():
    return paint_face


@pytest.fixture(scope="session", name="count_frames")
def _count_frames():
    return count_frames


@pytest.fixture
def speech(tmp_path):
    """A 2 s stereo wav at 44.1 kHz whose channels differ."""
    left = sweep(2.0, 44100)
    return encode_sound(tmp_path / "speech.wav", np.stack([left, 0.5 * left[::-1]]), 44100)
