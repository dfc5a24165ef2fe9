"""SyncNet over a stream of chunks, clocks of other rates, and videos without figures."""

import numpy as np
import pytest

from memo_jax.judges.syncnet import Network, SyncNet
from memo_jax.metrics import sync
from memo_jax.metrics.sync import REASONS, SyncMeter
from memo_jax.metrics.videos import Chunk
from memo_jax.prepare.media import Sound
from memo_jax.prepare.sync import syncnet_crop


class Finder:
    """Finds no face before frame `first`, told by the picture's first pixel."""

    def __init__(self, first=0):
        self.first = first

    def find(self, image):
        from memo_jax.io.boxes import Face

        return [Face((10.0, 8.0, 40.0, 40.0), 1.0)] if image[0, 0, 0] >= self.first else []


def chunks(frames, fps, finder, size=16):
    before = None
    for start in range(0, len(frames), size):
        chunk = Chunk(frames[start : start + size], start, fps, finder, before)
        yield chunk
        before = None if chunk.boxes is None else chunk.boxes[-1]


def read(meter, frames, sound, fps=25.0, finder=None):
    reading = meter.start(sound, fps)
    for chunk in chunks(frames, fps, finder or Finder()):
        reading.add(chunk)
    return reading.finish()["sync"]


class Judge:
    """Keeps what it is shown; the place of a frame is the number in its middle."""

    def __init__(self):
        self.crops, self.samples = [], []

    def places(self, crops, samples):
        self.crops.append(crops)
        self.samples.append(samples)
        assert len(samples) == 640 * len(crops)
        at = crops[: len(crops) - 5, 112, 112].astype(np.float32)
        heard = np.arange(len(at), dtype=np.float32)
        return np.pad(at, ((0, 0), (0, 1))), np.stack([heard] * 4, axis=1)


def numbered(n):
    """Frames that say their number everywhere."""
    return np.tile(np.arange(n, dtype=np.uint8)[:, None, None, None], (1, 64, 64, 3))


def sound(n):
    return Sound(np.random.default_rng(0).normal(0, 0.1, n).astype(np.float32), 16000, 0.0)


def test_a_stream_is_judged_as_a_whole(filled, waves, monkeypatch):
    """In segments of a few frames, against all crops at once."""
    judge = SyncNet(filled(lambda rngs: Network(rngs=rngs)), batch=4)
    frames, heard = waves(0, 22, 64, 64), sound(22 * 640)
    monkeypatch.setattr(sync, "SEGMENT", 12)
    offset, confidence, distance, reason = read(SyncMeter(judge, ""), frames, heard)
    crops = np.stack([syncnet_crop(frame, [30.0, 28.0, 40.0]) for frame in frames])
    want = judge.judge(crops, heard.samples)
    assert reason == 0 and offset == want.offset_frames
    # A segment's first sample has none before it to be emphasised against.
    assert confidence == pytest.approx(want.confidence, rel=1e-2)
    assert distance == pytest.approx(want.distance, rel=1e-3)


@pytest.mark.parametrize(("fps", "frames"), [(25.0, 40), (30.0, 48), (50.0, 80), (12.5, 20)])
def test_other_rates_are_brought_to_25(fps, frames, monkeypatch):
    """At each time of the clock the last frame shown, in segments that overlap by five."""
    judge = Judge()
    monkeypatch.setattr(sync, "SEGMENT", 14)
    read(SyncMeter(judge, ""), numbered(frames), sound(40 * 640), fps)
    places = np.concatenate([crops[: len(crops) - 5, 112, 112, 0] for crops in judge.crops])
    ticks = np.arange(40)
    assert places.tolist() == np.floor(ticks * fps / 25 + 1e-6).astype(int)[:35].tolist()
    parts = [samples[: len(samples) - 5 * 640] for samples in judge.samples]
    assert np.array_equal(np.concatenate(parts), sound(40 * 640).samples[: 35 * 640])


def test_sound_begins_with_the_first_crop():
    """A face that is found late: the sound before it is not judged."""
    judge = Judge()
    read(SyncMeter(judge, ""), numbered(60), sound(60 * 640), finder=Finder(20))
    assert judge.crops[0][0, 112, 112, 0] == 16  # the chunk in which it is found first
    assert np.array_equal(judge.samples[0], sound(60 * 640).samples[16 * 640 :])


@pytest.mark.parametrize(
    ("n", "heard", "first", "reason"),
    [(40, False, 0, "no sound"), (40, True, 200, "no face"), (5, True, 0, "shorter")],
)
def test_videos_without_a_figure(n, heard, first, reason):
    found = read(
        SyncMeter(Judge(), ""), numbered(n), sound(n * 640) if heard else None, finder=Finder(first)
    )
    assert REASONS[int(found[3])].startswith(reason)


def test_a_long_video_is_judged_in_part(monkeypatch):
    judge = Judge()
    monkeypatch.setattr(sync, "LONGEST", 1)
    assert read(SyncMeter(judge, ""), numbered(60), sound(60 * 640))[3] == 0
    assert sum(map(len, judge.crops)) == 25


class Codes:
    """Sees the number in a crop and hears the one in the samples, each as a code of its own."""

    codes = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)

    def places(self, crops, samples):
        n = len(crops) - 5
        heard = np.rint(samples[320 : 640 * n : 640] * 1000).astype(int)
        return self.codes[crops[:n, 112, 112, 0]], self.codes[heard]


@pytest.mark.parametrize("fps", [25.0, 50.0])
@pytest.mark.parametrize("offset", range(-10, 11))
def test_planted_offsets_are_found_in_streams(offset, fps):
    """From pictures and sound on their clocks to the offset, its sign and Sync-D: the picture that
    goes with a sound comes `offset` frames of 1/25 s later."""
    ticks = np.arange(60)
    frames = np.repeat(20 + ticks - offset, round(fps / 25)).astype(np.uint8)
    samples = np.repeat((20 + ticks) / 1000, 640).astype(np.float32)
    shown = np.tile(frames[:, None, None, None], (1, 64, 64, 3))
    found = read(SyncMeter(Codes(), ""), shown, Sound(samples, 16000, 0.0), fps)
    assert found[0] == offset and found[3] == 0
    assert found[1] > 3  # Sync-C: no other shift comes near
