"""Each step alone, on what is made for it."""

import dataclasses
from fractions import Fraction

import av
import cv2
import numpy as np
import prepare_videos as videos
import pytest

from memo_jax.errors import UserError
from memo_jax.io.boxes import Face
from memo_jax.io.crop import Crop
from memo_jax.prepare import cuts, heads, quality, sync
from memo_jax.prepare.cuts import BEGINS, BETWEEN, GOES_ON, CutConfig
from memo_jax.prepare.heads import HeadConfig
from memo_jax.prepare.media import MediaConfig, Picture, Sound, Video
from memo_jax.prepare.quality import QualityConfig
from memo_jax.prepare.reasons import REASONS, Reject
from memo_jax.prepare.sync import SyncConfig


def code(call, *args):
    with pytest.raises(Reject) as reject:
        call(*args)
    assert reject.value.code in REASONS and "\n" not in reject.value.text
    return reject.value.code


# Media


def test_sound_is_cut_to_the_sample_and_silent_beyond():
    sound = Sound(np.arange(1, 9, dtype=np.float32), 4, 1.0)
    assert sound.cut(1.5, 0.5).tolist() == [3, 4]
    assert sound.cut(0.5, 1.0).tolist() == [0, 0, 1, 2]
    assert sound.cut(2.5, 1.0).tolist() == [7, 8, 0, 0]
    assert not sound.cut(9, 1).any()
    sound.check(1.0, 3.2)
    assert code(sound.check, 0.0, 3.0) == code(sound.check, 1.0, 4.0) == "no-sound"


def _numbers(path, times, fps=Fraction(30)):
    """A video whose pictures' brightness tells which one they are."""
    levels = iter(range(20, 250, 10))
    table = {round(float(t), 6): next(levels) for t in times}

    def draw(time):
        return np.full((64, 64, 3), table[round(time, 6)], np.uint8)

    return videos.write(path, draw, float(times[-1]) + float(1 / fps), fps=fps, times=times)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_rates_become_constant_by_their_times(tmp_path, suffix):
    shown = [0, 1, 2, 4, 5, 9, 10, 11, 12]
    path = _numbers(tmp_path / f"v.{suffix}", [Fraction(k, 30) for k in shown])
    with Video(path, MediaConfig(fps=30)) as video:
        pictures = list(video.pictures())
    seen = [round((p.rgb().mean() - 20) / 10) for p in pictures]
    assert seen == [0, 1, 2, 2, 3, 4, 4, 4, 4, 5, 6, 7, 8]
    assert [p.index for p in pictures] == list(range(13)) == list(range(video.frames))
    assert max(p.gap for p in pictures) == pytest.approx(4 / 30, abs=2e-3)


def test_another_rate_shows_the_last_picture_of_each_time(tmp_path):
    path = _numbers(tmp_path / "v.mp4", [Fraction(k, 30) for k in range(12)])
    with Video(path, MediaConfig(fps=15)) as video:
        seen = [round((p.rgb().mean() - 20) / 10) for p in video.pictures()]
    assert seen == [0, 2, 4, 6, 8, 10]


def test_large_and_stretched_pictures_are_made_to_fit(tmp_path):
    path = videos.write(tmp_path / "v.mp4", lambda t: np.zeros((120, 160, 3), np.uint8), 0.2)
    with Video(path, MediaConfig(longest_side=80)) as video:
        assert next(video.pictures()).rgb().shape == (60, 80, 3)
    wide = tmp_path / "wide.mkv"
    with av.open(str(wide), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 128, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((128, 96, 3), np.uint8), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with Video(wide, MediaConfig()) as video:
        assert next(video.pictures()).rgb().shape == (128, 128, 3)


def test_sound_keeps_its_time_where_the_stream_has_a_gap(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=25)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        voice = output.add_stream("pcm_s16le", rate=16000, layout="mono")
        for k in range(50):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            output.mux(video.encode(frame))
        for start in (0, 4000, 24000, 28000):  # from 0.5 to 1.5 s there is nothing
            part = np.full((1, 4000), 8000 if start < 9000 else -8000, np.int16)
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            output.mux(voice.encode(frame))
        output.mux([*video.encode(None), *voice.encode(None)])
    with Video(path, MediaConfig()) as opened:
        sound = opened.sound()
    middle = sound.cut(0.0, 2.0)
    assert (middle[:7900] > 0.2).all() and (middle[24100:] < -0.2).all()
    assert not middle[8100:23900].any()


# Cuts


def _frames(colours, each=30):
    rng = np.random.default_rng(0)
    rooms = [rng.integers(0, 255, (108, 192, 3)) // 2 + np.array(colour) for colour in colours]
    return np.stack([room for room in rooms for _ in range(each)]).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", [cuts.HistogramCuts, cuts.ContentCuts])
def test_hard_cuts_are_found_and_nothing_else(kind):
    if kind is cuts.ContentCuts:
        pytest.importorskip("scenedetect")
    marks = kind().marks(_frames([(0, 0, 60), (120, 20, 0), (20, 120, 20)]))
    assert np.flatnonzero(marks).tolist() == [30, 60]
    assert set(marks[[30, 60]]) == {BEGINS}


@dataclasses.dataclass
class Scripted:
    """Marks by the brightness of the frames: what it saw is what it is asked for."""

    size = (2, 2)
    before: int
    after: int
    begins: frozenset
    between: frozenset

    def marks(self, frames):
        numbers = frames[:, 0, 0, 0].astype(int) * 256 + frames[:, 0, 0, 1]
        out = np.where(np.isin(numbers, list(self.begins)), BEGINS, GOES_ON)
        return np.where(np.isin(numbers, list(self.between)), BETWEEN, out).astype(np.int8)


class Numbered(Picture):
    shape = (2, 2, 0)

    def small(self, height, width):
        return np.full((height, width, 3), (self.index // 256, self.index % 256, 0), np.uint8)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (50, 50), (7, 120)])
def test_marks_do_not_depend_on_how_far_a_finder_looks(before, after):
    pictures = [Numbered(i, 0.0, None, 0) for i in range(333)]
    finder = Scripted(before, after, frozenset({0, 50, 51, 332}), frozenset({99, 100, 200}))
    marked = list(cuts.marked(pictures, finder))
    assert [p.index for p, _ in marked] == list(range(333))
    assert [p.index for p, m in marked if m == BEGINS] == [0, 50, 51, 332]
    shots = list(cuts.shots(marked, 25.0, CutConfig(longest=4.0)))
    spans = [(s[0].index, s[-1].index) for s in shots]
    assert spans == [(0, 49), (50, 50), (51, 98), (101, 199), (201, 300), (301, 331), (332, 332)]


def test_a_gap_ends_a_shot():
    pictures = [(Numbered(i, 2.0 if i == 5 else 0.0, None, 0), GOES_ON) for i in range(9)]
    assert [len(s) for s in cuts.shots(pictures, 25.0, CutConfig())] == [5, 4]


def test_another_size_ends_a_shot():
    class Wide(Numbered):
        shape = (4, 2, 0)

    pictures = [((Wide if i > 3 else Numbered)(i, 0.0, None, 0), GOES_ON) for i in range(9)]
    assert [len(s) for s in cuts.shots(pictures, 25.0, CutConfig())] == [4, 5]


def test_transnet_leaves_transitions_out(monkeypatch):
    from memo_jax.judges import transnet

    class Judge:
        def cuts(self, frames):
            assert frames.shape[1:] == (27, 48, 3)
            return np.linspace(0, 1, len(frames), dtype=np.float32)

    monkeypatch.setattr(transnet, "load", lambda path: Judge())
    finder = cuts.cut_finder(CutConfig(finder="transnet"), "weights.pth")
    marks = finder.marks(np.zeros((11, 27, 48, 3), np.uint8))
    assert marks.tolist() == [GOES_ON] * 5 + [BETWEEN] * 6


def test_scenedetect_missing_is_one_line(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(UserError, match=r"memo_jax\[prepare\], or give --cuts histogram"):
        cuts.cut_finder(CutConfig())


# Heads

AREA = Crop(0, 0, 320, 240)
FIVE = range(0, 50, 10)


def face(x=160, y=120, side=80, score=1.0):
    return Face((x - side / 2, y - side / 2, side, side), score)


def test_bars_are_found_and_dark_rooms_are_none():
    room = videos.room()
    boxed = np.pad(room, ((30, 20), (8, 0), (0, 0)))
    assert heads.content([boxed, boxed]) == Crop(8, 30, 320, 240)
    dark = room.copy()
    dark[:60] = np.random.default_rng(0).integers(0, 36, (60, 320, 3))
    assert heads.content([room]) == heads.content([dark]) == AREA
    night = (room * 0.1).astype(np.uint8)
    assert heads.content([night]) == AREA


def test_a_head_that_rests_has_one_square():
    found = [[face(160 + k)] for k in range(5)]
    way = heads.track(found, FIVE, 50, AREA, HeadConfig())
    squares = heads.squares(way, 25.0, AREA, HeadConfig(least_pixels=100))
    assert way.share == 1 and len(squares) == 50 and len(set(squares)) == 1
    assert squares[0].width == pytest.approx(2.2 * 80, abs=1)
    assert squares[0].x + squares[0].width / 2 == pytest.approx(162, abs=1)


def test_a_head_that_walks_is_followed_smoothly_in_one_size():
    area = Crop(0, 10, 900, 400)
    found = [[face(150 + 12 * k, 200)] for k in range(40)]
    config = HeadConfig(least_pixels=100, smooth=0.4)
    way = heads.track(found, range(0, 200, 5), 200, area, config)
    squares = heads.squares(way, 25.0, area, config)
    assert len({s.width for s in squares}) == 1
    steps = np.diff([s.x for s in squares])
    assert squares[-1].x - squares[0].x > 400 and (steps >= 0).all() and steps.max() <= 4
    assert {s.y + s.height <= 410 for s in squares} == {True}


def test_missing_looks_and_false_finds_are_borne():
    stray = [face(40, 40, 90), face(290, 200, 60), face(50, 200, 70)]
    found = [[face()] for _ in range(20)]
    found[3], found[9], found[15] = [], [stray[0]], [face(), stray[1]]
    way = heads.track(found, range(0, 100, 5), 100, AREA, HeadConfig())
    assert way.share == 0.9
    assert np.allclose(way.boxes, [160, 120, 80])


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([[], [], [], [], []], "no-head"),
        ([[face(80), face(240, side=70)]] * 5, "two-heads"),
        ([[face(80)], [face(240)], [face(80)], [face(240)], [face(80)]] * 4, "two-heads"),
        ([[face()]] * 6 + [[]] * 9 + [[face()]] * 6, "head-lost"),
        ([[face(30)]] * 5, "cut-off"),
        ([[face(y=220)]] * 5, "cut-off"),
    ],
)
def test_what_is_not_one_whole_head_is_rejected(found, why):
    at = range(0, 10 * len(found), 10)
    assert code(heads.track, found, at, 10 * len(found), AREA, HeadConfig()) == why


def test_a_far_head_is_too_small():
    way = heads.track([[face(side=30)]] * 5, FIVE, 50, AREA, HeadConfig())
    assert code(heads.squares, way, 25.0, AREA, HeadConfig()) == "small"


def test_large_pictures_are_searched_at_a_smaller_size():
    class Finder:
        def find(self, image):
            assert image.shape == (360, 480, 3)
            return [Face((10, 20, 30, 40), 1.0, np.ones((5, 2), np.float32))]

    picture = np.zeros((1000, 1280, 3), np.uint8)
    ((found,),) = heads.search([picture], Crop(0, 20, 1280, 960), heads.OneByOne(Finder()))
    assert np.allclose(found.box, np.array((10, 20, 30, 40)) / 0.375)
    assert found.landmarks[0, 0] == pytest.approx(1 / 0.375)


# Quality


def test_quality_is_measured_on_the_worst_picture():
    noise = np.random.default_rng(0).integers(90, 160, (300, 300, 3)).astype(np.uint8)
    soft = cv2.GaussianBlur(noise, (0, 0), 9)
    scores = quality.measured([noise, noise], QualityConfig())
    assert scores["laplacian_sharpness"] > 100 and 115 < scores["brightness"] < 135
    assert code(quality.measured, [noise, soft], QualityConfig()) == "blurred"
    assert code(quality.measured, [noise // 9], QualityConfig()) == "exposure"
    assert code(quality.measured, [noise // 9 + 235], QualityConfig()) == "exposure"


def test_hyperiqa_judges_the_first_picture(monkeypatch):
    from memo_jax.judges import hyperiqa

    class Judge:
        def score(self, picture, seed=0):
            return float(picture.mean())

    monkeypatch.setattr(hyperiqa, "load", lambda path: Judge())
    judge = quality.HyperIQA("weights.pkl")
    good, bad = (np.full((8, 8, 3), v, np.uint8) for v in (41, 39))
    assert judge([good, bad], QualityConfig()) == {"hyperiqa": 41.0}
    assert code(judge, [bad, good], QualityConfig()) == "quality"


# Sync


def _speech(seconds, fps, late=0.0, seed=3):
    """A mouth that opens with a sound's loudness, and the sound, `late` seconds behind."""
    rng = np.random.default_rng(seed)
    n, knots = round(seconds * fps), np.arange(0, seconds + 0.3, 0.12)
    level = rng.random(len(knots))
    opening = np.interp(np.arange(n) / fps, knots, level)[:, None, None]
    rows = np.clip(12 * opening - np.arange(12)[:, None], 0, 1) * np.ones((1, 16))
    mouths = (200 - 150 * rows + rng.normal(0, 4, rows.shape)).clip(0, 255).astype(np.uint8)
    times = np.arange(round((seconds + 2 * sync.REACH) * 16000)) / 16000 - sync.REACH - late
    loud = 10 ** (np.interp(times, knots, level) - 1.3)
    return mouths, (loud * np.sin(2000 * times)).astype(np.float32)


@pytest.mark.parametrize("fps", [24.0, 25.0, 60.0])
@pytest.mark.parametrize("late", [-0.3, 0.0, 0.1, 0.3])
def test_the_shift_between_a_mouth_and_a_sound_is_measured(fps, late):
    mouths, samples = _speech(6.0, fps, late)
    found = sync.moved(mouths, samples, fps, SyncConfig(aligned=0.0))
    assert found.late == pytest.approx(late, abs=0.01)
    assert found.scores["mouth_loudness"] > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_a_mouth_and_a_sound_of_others_are_not_together(seed):
    mouths, _ = _speech(6.0, 25.0, seed=seed)
    _, samples = _speech(6.0, 25.0, seed=seed + 100)
    assert code(sync.moved, mouths, samples, 25.0, SyncConfig()) == "sync"
    still = np.broadcast_to(mouths[:1], mouths.shape)
    assert code(sync.moved, still, samples, 25.0, SyncConfig()) == "sync"


def test_syncnet_decides_and_its_offset_is_undone(monkeypatch):
    from memo_jax.judges import syncnet

    answer = syncnet.Sync(3, 6.0, 7.0)

    class Judge:
        def judge(self, crops, samples):
            return answer

    monkeypatch.setattr(syncnet, "load", lambda path: Judge())
    judge, sight = sync.SyncNet("weights.model"), np.zeros((9, 224, 224, 3), np.uint8)
    given = sight, np.zeros(6000, np.float32)
    # The picture is 3 frames late at 25 fps, so the sound comes 0.12 s early.
    assert judge(*given, SyncConfig()).late == -0.12
    assert code(judge, *given, SyncConfig(correct=0.1)) == "offset"
    answer = syncnet.Sync(1, 6.0, 7.0)
    assert judge(*given, SyncConfig()).late == 0.0
    answer = syncnet.Sync(0, 4.9, 7.0)
    assert code(judge, *given, SyncConfig()) == "sync"


def test_syncnets_crop_is_the_face_and_some_room_below():
    picture = np.zeros((400, 400, 3), np.uint8)
    picture[230:240, 190:210] = 255  # 0.35 of the face's side below its middle
    crop = sync.syncnet_crop(picture, (200, 200, 100))
    assert crop.shape == (224, 224, 3)
    rows, columns = np.nonzero(crop[..., 0] > 128)
    assert rows.mean() == pytest.approx(224 * (0.35 - 0.2 + 0.7) / 1.4, abs=2)
    assert columns.mean() == pytest.approx(112, abs=2)
