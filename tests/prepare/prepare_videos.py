"""Videos made on the spot: drawn people who speak, in real codecs, with faults to be found.

Drawing is slow, so two people are drawn once each, and every video shows those frames again.
"""

import functools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import soxr

from memo_jax.puppets.clips import perform
from memo_jax.puppets.prosody import speaker
from memo_jax.puppets.voice import speak
from memo_jax.puppets.world import render

PEOPLE = (200007, 200006)  # OpenCV's cascades find these
FPS, SECONDS, SIDE = 25, 3.2, 128
WIDTH, HEIGHT = 320, 240
RATE = 48000
RATES = {
    "24": Fraction(24),
    "25": Fraction(25),
    "29.97": Fraction(30000, 1001),
    "30": Fraction(30),
    "60": Fraction(60),
}
CODECS = {
    "h264": ("libx264", {"preset": "ultrafast", "crf": "20"}),
    "hevc": ("libx265", {"preset": "ultrafast", "crf": "20", "x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "25", "b": "0"}),
}


@dataclass(frozen=True, eq=False)
class Person:
    """One who speaks: frames uint8 [n, 128, 128, 3] at 25 fps, and the voice at 16 kHz."""

    frames: np.ndarray
    voice: np.ndarray

    def at(self, seconds: float) -> np.ndarray:
        """The frame at a time; after the end it begins anew."""
        return self.frames[int(seconds * FPS + 1e-6) % len(self.frames)]

    def sound(self, seconds: float, late: float = 0.0) -> np.ndarray:
        """The voice at 48 kHz for so long, over and over, `late` seconds behind the frames."""
        wide = soxr.resample(self.voice, 16000, RATE)
        count, lead = round(seconds * RATE), round(late * RATE)
        at = np.arange(count) - lead
        return np.where(at >= 0, wide[at % len(wide)], 0).astype(np.float32)


def draw_person(number: int) -> Person:
    """Draws a person; the slow part."""
    seed = PEOPLE[number]
    rng = np.random.default_rng([seed, 1])
    voice = speak(SECONDS, speaker(seed), "neutral", 0.8, rng).sound
    frames = render(perform(seed, "neutral", voice, FPS, rng), SIDE)
    return Person(frames, voice)


def room(tint: int = 0) -> np.ndarray:
    """An empty room, uint8 [240, 320, 3]; the caller's own."""
    return _room(tint).copy()


@functools.lru_cache
def _room(tint: int) -> np.ndarray:
    across = np.linspace(70, 150, WIDTH)[None, :, None]
    down = np.linspace(-20, 20, HEIGHT)[:, None, None]
    colours = ((0, 15, 30), (60, -30, -40))[tint]
    return np.clip(across + down + np.array(colours), 0, 255).astype(np.uint8)


def seated(person: Person, seconds: float, left: int = 96, top: int = 56, tint: int = 0):
    """A person in a room at a time."""
    picture = room(tint)
    place(picture, person.at(seconds), left, top)
    return picture


def place(picture: np.ndarray, face: np.ndarray, left: int, top: int) -> None:
    """Puts a picture into another one, in place; what is over the border is cut off."""
    h, w = face.shape[:2]
    rows = slice(max(top, 0), min(top + h, picture.shape[0]))
    columns = slice(max(left, 0), min(left + w, picture.shape[1]))
    picture[rows, columns] = face[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]


def write(
    path: Path,
    draw: Callable[[float], np.ndarray],
    seconds: float = SECONDS,
    *,
    fps: Fraction = RATES["25"],
    codec: str = "h264",
    sound: np.ndarray | None = None,
    times: list[Fraction] | None = None,
    faststart: bool = False,
) -> Path:
    """Write a video.

    Args:
      path: its extension is the container.
      draw: the picture at a time in seconds.
      seconds: how long.
      fps: frames per second.
      codec: one of CODECS.
      sound: mono at 48 kHz; none by default.
      times: of the frames, where these are not evenly spaced.
      faststart: whether an mp4 begins with its index.
    """
    encoder, options = CODECS[codec]
    n = round(seconds * fps)
    times = times or [k / fps for k in range(n)]
    flags = {"movflags": "+faststart"} if faststart else {}
    with av.open(str(path), "w", options=flags) as output:
        stream = output.add_stream(encoder, rate=fps, options=options)
        first = draw(0.0)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        base = Fraction(1, 90000) if len(times) != n or times[1] != 1 / fps else 1 / fps
        stream.codec_context.time_base = base
        voice = None
        if sound is not None:
            name = "libopus" if path.suffix == ".webm" else "aac"
            voice = output.add_stream(name, rate=RATE, layout="mono")
        done = 0
        for time in times:
            frame = av.VideoFrame.from_ndarray(draw(float(time)), format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            output.mux(stream.encode(frame))
            if voice is not None:
                done = _sound(output, voice, sound, done, min(len(sound), int(time * RATE)))
        output.mux(stream.encode(None))
        if voice is not None:
            _sound(output, voice, sound, done, len(sound), last=True)
    return path


def _sound(output, stream, sound, start: int, stop: int, last: bool = False) -> int:
    size = stream.codec_context.frame_size or 960
    while start + size <= stop or (last and start < stop):
        part = sound[start : start + size]
        frame = av.AudioFrame.from_ndarray(part[None].copy(), format="fltp", layout="mono")
        if stream.codec_context.format.name != "fltp":
            frame = av.AudioFrame.from_ndarray(part[None].copy(), format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        output.mux(stream.encode(frame))
        start += size
    if last:
        output.mux(stream.encode(None))
    return start


def turn(path: Path, quarter: int) -> Path:
    """Note in an mp4 that its pictures are to be turned clockwise by quarters of a circle."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the first track's matrix, of 9 numbers
    one = 1 << 16
    matrix = (cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path


def shorten(path: Path, share: float) -> Path:
    """Cut a file off after a share of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@dataclass(frozen=True)
class Case:
    """A video, and what must become of it: as many clips as `kept`, and these reject codes."""

    name: str
    make: Callable[[Path, Person, Person], object]
    kept: int = 1
    codes: tuple[str, ...] = ()


def cases() -> Iterator[Case]:
    """All the videos."""
    for codec, suffix in (("h264", "mp4"), ("vp9", "webm"), ("hevc", "mkv")):
        for rate in RATES:
            yield Case(f"{codec}-{rate}.{suffix}", _plain(codec=codec, fps=RATES[rate]))
    yield Case("h264.mkv", _plain())
    yield Case("hevc.mp4", _plain(codec="hevc"))
    yield Case("vp9.mkv", _plain(codec="vp9"))
    yield Case("vp9.mp4", _plain(codec="vp9"))
    yield Case("variable.mp4", _variable)
    yield Case("variable.mkv", _variable)
    for quarter in (1, 2, 3):
        yield Case(f"turned-{90 * quarter}.mp4", _turned(quarter))
    yield Case("mute.mp4", _plain(sound=False), 0, ("no-sound",))
    yield Case("mute.webm", _plain(codec="vp9", sound=False), 0, ("no-sound",))
    yield Case("silent.mp4", _silent, 0, ("silent",))
    yield Case("sound-ends.mp4", _sound_ends, 0, ("no-sound",))
    yield Case("two-heads.mp4", _two_heads(), 0, ("two-heads",))
    yield Case("two-heads.webm", _two_heads(codec="vp9"), 0, ("two-heads",))
    yield Case("cut.mp4", _cut(), 2)
    yield Case("cut.webm", _cut(codec="vp9"), 2)
    yield Case("late.mp4", _shifted(0.3))
    yield Case("early.mp4", _shifted(-0.3))
    yield Case("dubbed.mp4", _dubbed, 0, ("sync",))
    yield Case("letterbox.mp4", _boxed(40, 0))
    yield Case("pillarbox.mkv", _boxed(0, 48))
    yield Case("truncated-index.mp4", _truncated(), 0, ("unreadable",))
    yield Case("truncated.mp4", _truncated(faststart=True), 0, ("truncated",))
    yield Case("truncated.mkv", _truncated(), 0, ("truncated",))
    yield Case("zero.mp4", lambda path, *_: path.write_bytes(b""), 0, ("empty",))
    yield Case("text.mp4", lambda path, *_: path.write_text("no video" * 99), 0, ("unreadable",))
    yield Case("sound-alone.mp4", _sound_alone, 0, ("no-pictures",))
    yield Case("nobody.mp4", _nobody, 0, ("no-head",))
    yield Case("leaves.mp4", _leaves, 0, ("head-lost",))
    yield Case("half-out.mp4", _plain(left=206), 0, ("cut-off",))
    yield Case("far.mp4", _far, 0, ("small",))
    yield Case("blurred.mp4", _blurred, 0, ("blurred",))
    yield Case("night.mp4", _night, 0, ("exposure",))
    yield Case("short.mp4", _plain(seconds=1.2), 0, ("short",))
    yield Case("slow.mp4", _plain(fps=Fraction(5)), 0, ("rate",))


def _plain(sound: bool = True, left: int = 96, seconds: float = SECONDS, **how):
    def make(path, one, other):
        voice = one.sound(seconds) if sound else None
        write(path, lambda t: seated(one, t, left), seconds, sound=voice, **how)

    return make


def _variable(path, one, other):
    # A phone's: 30 frames per second, of which some never come.
    rng = np.random.default_rng(5)
    times = [Fraction(k, 30) for k in range(96) if k in (0, 1, 95) or rng.random() < 0.8]
    write(path, lambda t: seated(one, t), fps=Fraction(30), sound=one.sound(SECONDS), times=times)


def _turned(quarter: int):
    def make(path, one, other):
        def draw(t):
            return np.ascontiguousarray(np.rot90(seated(one, t), quarter))

        turn(write(path, draw, sound=one.sound(SECONDS)), quarter)

    return make


def _silent(path, one, other):
    write(path, lambda t: seated(one, t), sound=np.zeros(round(SECONDS * RATE), np.float32))


def _sound_ends(path, one, other):
    write(path, lambda t: seated(one, t), sound=one.sound(SECONDS)[: RATE * 3 // 2])


def _two_heads(**how):
    def make(path, one, other):
        def draw(t):
            picture = seated(one, t, 20)
            place(picture, other.at(t), 176, 56)
            return picture

        write(path, draw, sound=one.sound(SECONDS), **how)

    return make


def _cut(**how):
    def make(path, one, other):
        def draw(t):
            return seated(one, t) if t < SECONDS - 1e-6 else seated(one, t, 60, 80, tint=1)

        write(path, draw, 2 * SECONDS, sound=one.sound(2 * SECONDS), **how)

    return make


def _shifted(late: float):
    def make(path, one, other):
        write(path, lambda t: seated(one, t), sound=one.sound(SECONDS, late))

    return make


def _dubbed(path, one, other):
    write(path, lambda t: seated(one, t), sound=other.sound(SECONDS))


def _boxed(rows: int, columns: int):
    def make(path, one, other):
        def draw(t):
            picture = seated(one, t)
            picture = cv2.resize(picture, (WIDTH - 2 * columns, HEIGHT - 2 * rows))
            return np.pad(picture, ((rows, rows), (columns, columns), (0, 0)))

        write(path, draw, sound=one.sound(SECONDS))

    return make


def _truncated(**how):
    def make(path, one, other):
        shorten(write(path, lambda t: seated(one, t), sound=one.sound(SECONDS), **how), 0.5)

    return make


def _sound_alone(path, one, other):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=RATE, layout="mono")
        _sound(output, stream, one.sound(1.0), 0, RATE, last=True)


def _nobody(path, one, other):
    write(path, lambda t: room(), sound=one.sound(SECONDS))


def _leaves(path, one, other):
    write(path, lambda t: seated(one, t) if t < 1.4 else room(), sound=one.sound(SECONDS))


def _far(path, one, other):
    def draw(t):
        picture = cv2.resize(room(), (640, 480))
        place(picture, cv2.resize(one.at(t), (40, 40), interpolation=cv2.INTER_AREA), 300, 200)
        return picture

    write(path, draw, sound=one.sound(SECONDS))


def _blurred(path, one, other):
    write(path, lambda t: cv2.GaussianBlur(seated(one, t), (0, 0), 5), sound=one.sound(SECONDS))


def _night(path, one, other):
    write(path, lambda t: (seated(one, t) * 0.12).astype(np.uint8), sound=one.sound(SECONDS))
