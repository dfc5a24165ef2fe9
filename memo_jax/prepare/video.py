"""One video, from file to clips: decoded once, and each step asked in the order of its price."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.data.clip import BadRecord, Clip, Source
from memo_jax.data.record import encode
from memo_jax.io.crop import Crop, cut
from memo_jax.io.image import resize
from memo_jax.prepare import cuts, heads, quality, sync
from memo_jax.prepare.corpora import Facts
from memo_jax.prepare.embed import Span
from memo_jax.prepare.heads import Track
from memo_jax.prepare.media import Picture, Sound, Video
from memo_jax.prepare.reasons import Reject, Rejected
from memo_jax.prepare.settings import Settings, Tools
from memo_jax.prepare.sound import flac

QUIET = 0.1  # seconds whose power is compared with silence


@dataclass
class Times:
    """Seconds of work by step, and seconds of video that were decoded."""

    steps: dict[str, float] = field(default_factory=dict)
    video: float = 0.0

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Counts the block for a step, in seconds of the process's own work."""
        begun = time.process_time()
        try:
            yield
        finally:
            self.steps[step] = self.steps.get(step, 0.0) + time.process_time() - begun


@dataclass(frozen=True, eq=False)
class Kept:
    """A clip that is used: where it is in the video, its record, and what it scored."""

    start: float
    end: float
    frames: int
    record: bytes
    scores: dict[str, float]


def clips(
    path: Path,
    name: str,
    facts: Facts,
    settings: Settings,
    tools: Tools,
    times: Times | None = None,
) -> Iterator[Kept | Rejected]:
    """All clips of a video in order, used or not.

    Args:
      path: the file.
      name: what records and lists call it.
      facts: what is known of it.
      settings: of the run.
      tools: theirs, loaded.
      times: where work is counted.
    """
    times = times or Times()
    try:
        with Video(path, settings.media, facts.sound or None) as video:
            with times.of("sound"):
                sound = video.sound(tools.embedder.sound_rate)
            yield from _of(video, sound, name, facts, settings, tools, times)
    except Reject as reject:
        yield Rejected(name, 0.0, 0.0, reject.code, reject.text)


def _of(
    video: Video,
    sound: Sound,
    name: str,
    facts: Facts,
    settings: Settings,
    tools: Tools,
    times: Times,
) -> Iterator[Kept | Rejected]:
    fps = float(video.rate)
    pictures = _timed(video.pictures(), times, "decoding")
    marks = _timed(cuts.marked(pictures, tools.cuts), times, "cuts", less="decoding")
    given = 0
    for shot in cuts.shots(marks, fps, settings.cuts):
        start, end = shot[0].index / fps, (shot[-1].index + 1) / fps
        times.video += end - start
        given += 1
        try:
            if video.truncated and shot[-1].index + 1 == video.frames:
                raise Reject("truncated", f"the file ends at {end:.2f} s, sooner than it says")
            if end - start < settings.cuts.shortest:
                least = settings.cuts.shortest
                raise Reject("short", f"{end - start:.2f} s, expected {least:g}")
            yield _Job(shot, fps, sound, name, facts, settings, tools, times).kept()
        except Reject as reject:
            yield Rejected(name, start, end, reject.code, reject.text)
        except BadRecord as error:
            yield Rejected(name, start, end, "record", str(error))
    if not given:
        raise Reject("short", "nothing but transitions")


@dataclass(eq=False)
class _Job:
    """One shot on its way to a clip."""

    shot: list[Picture]
    fps: float
    sound: Sound
    name: str
    facts: Facts
    settings: Settings
    tools: Tools
    times: Times

    def kept(self) -> Kept:
        """The clip; raises Reject or BadRecord."""
        settings, times = self.settings, self.times
        start, n = self.shot[0].index / self.fps, len(self.shot)
        seconds = n / self.fps
        self.sound.check(start, start + seconds)
        _audible(self.sound.cut(start, seconds), self.sound.rate, settings.silence)
        with times.of("heads"):
            way, squares = self._head()
        some = {i: self._crop(i, squares) for i in dict.fromkeys((0, n // 2, n - 1))}
        scores = {"head_share": way.share, "head_pixels": float(squares[0].width)}
        with times.of("quality"):
            judge = self.tools.hyperiqa or quality.measured
            scores |= judge(list(some.values()), settings.quality)
        with times.of("crops"):
            images, small = self._images(way, squares)
        with times.of("sync"):
            together = self._sync(small, start, n)
        scores |= together.scores
        with times.of("embeddings"):
            ear = self.tools.embedder
            wide = self.sound.cut(start + together.late, seconds)
            samples = self._at_16k(start + together.late, seconds)
            spoken = _of_length(ear.voice(wide, self.sound.rate), len(samples))
            audio = ear.hear(spoken, n, self.fps)
            emotion = ear.feel(samples, n, self.fps, self.facts.emotion, self._spans(start))
            face = ear.face(some[n // 2], self.shot[way.at].rgb(), way.face)
        clip = Clip(
            images=tuple(images),
            size=settings.size,
            fps=self.fps,
            audio=audio,
            emotion=emotion,
            emotions=ear.emotions,
            face=face,
            identity=self.facts.identity,
            clip_emotion=self.facts.emotion,
            corpus=self.facts.corpus,
            source=Source(self.name, start, start + seconds),
            licence=settings.licence or self.facts.licence,
            scores=scores,
            sound=flac(samples),
            sound_rate=SAMPLE_RATE,
            audio_features=ear.audio_features,
        )
        with times.of("records"):
            return Kept(start, start + seconds, n, encode(clip), scores)

    def _head(self) -> tuple[Track, list[Crop]]:
        config = self.settings.heads
        step = max(1, round(config.every * self.fps))
        at = range(0, len(self.shot), step)
        pictures = [self.shot[i].rgb() for i in at]
        area = heads.content(pictures)
        found = heads.search(pictures, area, self.tools.finder)
        way = heads.track(found, at, len(self.shot), area, config)
        self._area = area
        return way, heads.squares(way, self.fps, area, config)

    def _crop(self, index: int, squares: list[Crop]) -> UInt8[np.ndarray, "s s 3"]:
        return _square(self.shot[index].rgb(), squares[index], self.settings.size)

    def _images(self, way: Track, squares: list[Crop]) -> tuple[list[bytes], list[np.ndarray]]:
        """Every frame's square, encoded, and what lip sync looks at of it."""
        images, small = [], []
        wanted = None
        if self.tools.syncnet is not None:
            n = len(self.shot)
            count = int(n / self.fps * sync.SYNCNET_FPS)
            # Where a picture is shown twice at 25 fps, its crop is made once and put in twice.
            at = (np.arange(count) + 0.5) / sync.SYNCNET_FPS * self.fps
            wanted = np.minimum(at.astype(int), n - 1)
        faces = heads.faces(way, self.settings.heads)
        for i, picture in enumerate(self.shot):
            pixels = picture.rgb()
            box = faces[i] + [self._area.x, self._area.y, 0]
            if wanted is None:
                small.append(sync.mouth(pixels, box))
            elif times := int((wanted == i).sum()):
                small += [sync.syncnet_crop(pixels, box)] * times
            images.append(_encoded(_square(pixels, squares[i], self.settings.size), self.settings))
        return images, small

    def _sync(self, small: list[np.ndarray], start: float, n: int) -> sync.Together:
        seconds = n / self.fps
        if self.tools.syncnet is not None:
            samples = self._at_16k(start, seconds)
            return self.tools.syncnet(np.stack(small), samples, self.settings.sync)
        samples = self._at_16k(start - sync.REACH, seconds + 2 * sync.REACH)
        return sync.moved(np.stack(small), samples, self.fps, self.settings.sync)

    def _at_16k(self, start: float, seconds: float) -> Float[np.ndarray, " n"]:
        samples = self.tools.embedder.plain(self.sound.cut(start, seconds), self.sound.rate)
        return _of_length(samples, round(seconds * SAMPLE_RATE))

    def _spans(self, start: float) -> list[Span]:
        return [Span(s.start - start, s.end - start, s.emotion) for s in self.facts.spans]


def _timed(items: Iterator[Any], times: Times, step: str, less: str = "") -> Iterator[Any]:
    """The items, their making counted for a step; `less` is a step counted within it."""
    while True:
        begun, inner = time.process_time(), times.steps.get(less, 0.0)
        try:
            item = next(items)
        except StopIteration:
            return
        finally:
            spent = time.process_time() - begun - (times.steps.get(less, 0.0) - inner)
            times.steps[step] = times.steps.get(step, 0.0) + spent
        yield item


def _audible(samples: Float[np.ndarray, " n"], rate: int, silence: float) -> None:
    """Raises Reject unless some tenth of a second is louder than silence, in dB of full scale."""
    block = max(1, round(QUIET * rate))
    whole = samples[: len(samples) // block * block].reshape(-1, block)
    power = np.square(whole, dtype=np.float64).mean(axis=1).max(initial=0.0)
    loudest = 10 * np.log10(power + 1e-12)
    if loudest < silence:
        raise Reject("silent", f"the loudest moment has {loudest:.0f} dB, expected {silence:g}")


def _square(
    pixels: UInt8[np.ndarray, "h w 3"], crop: Crop, size: int
) -> UInt8[np.ndarray, "s s 3"]:
    """`memo_jax.io.crop.cut`, quicker where the square lies inside the picture."""
    rows, columns = crop.inside(pixels.shape)
    if rows.stop - rows.start < crop.height or columns.stop - columns.start < crop.width:
        return cut(pixels, crop, size)
    return resize(np.ascontiguousarray(pixels[rows, columns]), (size, size))


def _encoded(pixels: UInt8[np.ndarray, "s s 3"], settings: Settings) -> bytes:
    options = {
        "jpeg": [
            *(cv2.IMWRITE_JPEG_QUALITY, settings.image_quality),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
        ],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, 3],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, settings.image_quality],
    }
    suffix = {"jpeg": ".jpg"}.get(settings.images, f".{settings.images}")
    done, data = cv2.imencode(suffix, pixels[..., ::-1], options[settings.images])
    assert done
    return data.tobytes()


def _of_length(samples: Float[np.ndarray, " n"], count: int) -> Float[np.ndarray, " m"]:
    """Cut or continued with silence: resampling may round the other way."""
    return np.pad(samples[:count], (0, max(0, count - len(samples)))).astype(np.float32)
