"""A flash and a click at the same instant stay within one frame of each other, at every rate."""

import dataclasses
import io

import numpy as np
import prepare_videos as videos
import pytest
from PIL import Image

from memo_jax.data.record import decode
from memo_jax.prepare.corpora import Facts
from memo_jax.prepare.cuts import CutConfig
from memo_jax.prepare.heads import HeadConfig
from memo_jax.prepare.sound import heard
from memo_jax.prepare.video import clips

AT = (0.0, 60.0)
LENGTH = 62.4
PATCH = slice(0, 40)


@pytest.mark.parametrize(
    ("rate", "codec", "suffix"),
    [
        ("24", "h264", "mp4"),
        ("25", "vp9", "webm"),
        ("29.97", "h264", "mkv"),
        ("30", "h264", "mp4"),
        ("60", "h264", "mp4"),
    ],
)
def test_a_flash_and_a_click_stay_together(rate, codec, suffix, tmp_path, people, small, kit):
    fps, (one, _) = videos.RATES[rate], people
    frames = [round(at * fps) for at in AT]
    sound = 0.2 * one.sound(LENGTH)
    for frame in frames:
        first = round(float(frame / fps) * videos.RATE)
        sound[first : first + 240] = 0.95 * (-1) ** (np.arange(240) // 12)

    def draw(time):
        picture = videos.seated(one, time)
        flash = round(time * fps) - np.array(frames)
        picture[PATCH, PATCH.start + 60 : PATCH.stop + 60] = (
            255 * ((flash >= 0) & (flash < 3)).any()
        )
        return picture

    path = videos.write(
        tmp_path / f"flash.{suffix}", draw, LENGTH, fps=fps, codec=codec, sound=sound
    )
    settings = dataclasses.replace(
        small,
        cuts=CutConfig(finder="histogram", longest=30),
        heads=HeadConfig(every=3.0, away=9.0, least_pixels=96),
    )
    found = list(clips(path, path.name, Facts(), settings, kit))
    assert [round(item.start) for item in found] == [0, 30, 60]
    seen = [event(decode(item.record)) for item in found]
    assert seen[1] is None
    for at, (click, flash), item in zip(AT, (seen[0], seen[2]), (found[0], found[2]), strict=True):
        frame = float(1 / fps)
        assert abs(click - flash) <= frame, f"click {click:.4f} s, flash {flash:.4f} s"
        assert item.start + flash == pytest.approx(at, abs=frame)
        print(f"{rate} fps, {at:g} s: {(click - flash) / frame:+.2f} frames")


def event(clip):
    """When the click and the flash begin in a clip, in seconds; None without."""
    bright = np.array([_brightest(image) for image in clip.images])
    samples = heard(clip.sound)
    loud = np.abs(samples) > 0.5
    if not loud.any():
        assert bright.max() < 200
        return None
    return float(np.argmax(loud)) / clip.sound_rate, float(np.argmax(bright > 200)) / clip.fps


def _brightest(image):
    """The patch is the only thing that is bright in the upper left of the square."""
    pixels = np.array(Image.open(io.BytesIO(image)).convert("L"))
    return float(np.percentile(pixels[:10, :24], 95))
