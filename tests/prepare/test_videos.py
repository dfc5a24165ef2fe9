"""Videos of real codecs and with every fault: each is kept or rejected, for the right reason."""

import dataclasses
import io

import numpy as np
import prepare_videos as videos
import pytest
from PIL import Image

from memo_jax.data.record import decode
from memo_jax.prepare.corpora import Facts
from memo_jax.prepare.reasons import Rejected
from memo_jax.prepare.sync import SyncConfig
from memo_jax.prepare.video import Kept, Times, clips

CASES = list(videos.cases())


def made(case, folder, people):
    path = folder / case.name
    case.make(path, *people)
    return path


def named(name):
    return next(case for case in CASES if case.name == name)


def kept(found):
    return [item for item in found if isinstance(item, Kept)]


def pictures(record):
    clip = decode(record)
    return np.stack([np.array(Image.open(io.BytesIO(image))) for image in clip.images])


def test_there_are_at_least_forty():
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_video_is_kept_or_rejected_for_the_right_reason(case, tmp_path, people, small, kit):
    found = list(clips(made(case, tmp_path, people), case.name, Facts(), small, kit))
    codes = tuple(item.code for item in found if isinstance(item, Rejected))
    assert codes == case.codes, found
    assert len(kept(found)) == case.kept
    for item in kept(found):
        clip = decode(item.record)
        assert clip.size == 64 and clip.frames == item.frames
        assert clip.frames == round((item.end - item.start) * clip.fps)
        assert clip.audio.shape == (clip.frames, 4, 32)


@pytest.mark.parametrize(("name", "late"), [("late.mp4", 0.3), ("early.mp4", -0.3)])
def test_a_shift_is_found_and_undone(name, late, tmp_path, people, small, kit):
    path = made(named(name), tmp_path, people)
    (item,) = kept(clips(path, name, Facts(), small, kit))
    assert item.scores["sync_late"] == pytest.approx(late, abs=0.04)
    (straight,) = kept(
        clips(made(named("h264-25.mp4"), tmp_path, people), name, Facts(), small, kit)
    )
    heard, wanted = (
        decode(i.record).audio.astype(np.float32)[12:-12].ravel() for i in (item, straight)
    )
    assert np.corrcoef(heard, wanted)[0, 1] > 0.9


def test_a_shift_is_rejected_where_it_is_not_to_be_undone(tmp_path, people, small, kit):
    strict = dataclasses.replace(small, sync=SyncConfig(correct=0.0))
    path = made(named("late.mp4"), tmp_path, people)
    (reject,) = clips(path, "late.mp4", Facts(), strict, kit)
    assert reject.code == "offset"


@pytest.mark.parametrize("name", ["letterbox.mp4", "pillarbox.mkv"])
def test_bars_are_not_in_the_clip(name, tmp_path, people, small, kit):
    (item,) = kept(clips(made(named(name), tmp_path, people), name, Facts(), small, kit))
    shown = pictures(item.record).max(axis=3)
    edges = (shown[:, :2], shown[:, -2:], shown[:, :, :2], shown[:, :, -2:])
    assert all(np.median(edge) > 60 for edge in edges)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_turned_pictures_stand_upright(quarter, tmp_path, people, small, kit):
    name = f"turned-{90 * quarter}.mp4"
    (item,) = kept(clips(made(named(name), tmp_path, people), name, Facts(), small, kit))
    (straight,) = kept(
        clips(made(named("h264-25.mp4"), tmp_path, people), name, Facts(), small, kit)
    )
    apart = pictures(item.record).astype(float) - pictures(straight.record)
    # The squares may lie some pixels apart; a turned face is another picture altogether.
    assert np.abs(apart).mean() < 12


def test_both_sides_of_a_cut_are_whole(tmp_path, people, small, kit):
    path = made(named("cut.mp4"), tmp_path, people)
    first, second = kept(clips(path, "cut.mp4", Facts(), small, kit))
    assert first.frames == second.frames == round(videos.SECONDS * 25)
    assert second.start == pytest.approx(videos.SECONDS)
    before, after = pictures(first.record)[:, 4, 4], pictures(second.record)[:, 4, 4]
    assert np.ptp(before[:, 0].astype(int)) < 40 and np.ptp(after[:, 0].astype(int)) < 40
    assert np.abs(before.mean(axis=0) - after.mean(axis=0)).max() > 40


def test_each_step_is_counted_and_a_video_decoded_once(tmp_path, people, small, kit, monkeypatch):
    from memo_jax.prepare import media

    opened, decoded = [], media.decoded

    def count(container, stream):
        opened.append(stream.type)
        return decoded(container, stream)

    monkeypatch.setattr(media, "decoded", count)
    times = Times()
    path = made(named("cut.mp4"), tmp_path, people)
    assert len(kept(clips(path, "cut.mp4", Facts(), small, kit, times))) == 2
    assert sorted(opened) == ["audio", "video"]
    assert times.video == pytest.approx(2 * videos.SECONDS)
    steps = "sound decoding cuts heads quality crops sync embeddings records"
    assert set(times.steps) == set(steps.split())
