"""Heads' own boxes, as Grounding DINO gives them: the square around them, the face within."""

import dataclasses

import numpy as np
import prepare_videos as videos
import pytest

from memo_jax.errors import UserError
from memo_jax.io.boxes import Face
from memo_jax.io.crop import Crop
from memo_jax.prepare import heads
from memo_jax.prepare.__main__ import main, parser, settings
from memo_jax.prepare.corpora import Facts
from memo_jax.prepare.heads import HeadConfig
from memo_jax.prepare.reasons import Reject
from memo_jax.prepare.video import Kept, clips

AREA = Crop(0, 0, 640, 480)
FIVE = range(0, 50, 10)
DINO = HeadConfig(finder="dino", least_pixels=100)


def head(x=320.0, y=240.0, width=150.0, height=200.0):
    return Face((x - width / 2, y - height / 2, width, height), 0.6)


def tracked(found, config=DINO):
    return heads.track(found, FIVE, 50, AREA, config)


def test_the_square_is_the_papers_tenth_larger_than_the_head():
    way = tracked([[head()]] * 5)
    (square, *_) = heads.squares(way, 25.0, AREA, DINO)
    assert square.width == square.height == pytest.approx(1.1 * 200, abs=1)
    assert square.x + square.width / 2 == pytest.approx(320, abs=1)
    assert square.y + square.height / 2 == pytest.approx(240, abs=1)


def test_a_face_that_is_asked_for_is_taken_as_other_finders_faces():
    config = dataclasses.replace(DINO, prompt="face.")
    found = [[head(width=80, height=90)]] * 5
    asked, other = tracked(found, config), tracked(found, HeadConfig(least_pixels=100))
    assert np.array_equal(asked.boxes, other.boxes)
    assert heads.squares(asked, 25.0, AREA, config) == heads.squares(other, 25.0, AREA, config)
    assert heads.faces(asked, config) is asked.boxes


def test_the_face_ends_with_the_head_at_the_chin():
    way = tracked([[head()]] * 5)
    x, y, side = heads.faces(way, DINO)[7]
    assert (x, side) == (320, pytest.approx(0.75 * 200))
    assert y + side / 2 == pytest.approx(240 + 100)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([[head(y=101.5)]] * 5, "cut-off"),
        ([[head(x=75.5)]] * 5, "cut-off"),
        ([[head(y=379)]] * 5, "cut-off"),
        ([[head(x=150), head(x=480)]] * 5, "two-heads"),
        ([[]] * 5, "no-head"),
    ],
)
def test_exactly_one_whole_head(found, why):
    with pytest.raises(Reject) as reject:
        tracked(found)
    assert reject.value.code == why


def test_a_whole_head_may_come_near_the_border():
    assert tracked([[head(y=104, x=79)]] * 5).share == 1
    assert tracked([[head(y=110)]] * 4 + [[head(y=101)]]).share == 1  # at times even over it


class Heads:
    """The heads that OpenCV's faces belong to."""

    searched = 480

    def __init__(self, finder):
        self._finder = finder

    def __call__(self, pictures):
        return [[self._head(face) for face in faces] for faces in self._finder(pictures)]

    def _head(self, face):
        x, y, w, h = face.box
        side = h / heads.FACE_OF_HEAD
        return Face((x + w / 2 - side / 2, y + h - side, side, side), 0.5)


def test_a_video_goes_through_by_its_heads(tmp_path, people, small, kit):
    case = next(case for case in videos.cases() if case.name == "h264-25.mp4")
    path = tmp_path / case.name
    case.make(path, *people)
    config = HeadConfig(finder="dino", every=0.4, least_pixels=48)
    chosen = dataclasses.replace(small, heads=config)
    tools = dataclasses.replace(kit, finder=Heads(kit.finder))
    (by_head,) = clips(path, case.name, Facts(), chosen, tools)
    (by_face,) = clips(path, case.name, Facts(), small, kit)
    assert isinstance(by_head, Kept) and isinstance(by_face, Kept)
    # The mouth is looked at where it is.
    seen, known = (item.scores["mouth_loudness"] for item in (by_head, by_face))
    assert seen > 0.5 * known
    share = by_head.scores["head_pixels"] / by_face.scores["head_pixels"]
    assert share == pytest.approx(1.1 / 0.75 / 2.2, abs=0.05)


def test_the_folder_alone_asks_for_dino():
    def chosen(*options):
        return settings(parser().parse_args(["--input", "x", "--output", "y", *options]))

    assert chosen("--dino", "D").heads.finder == "dino" and chosen("--dino", "D").dino == "D"
    assert chosen("--dino", "D", "--heads", "faces").heads.finder == "faces"
    given = chosen("--heads", "dino", "--dino-prompt", "face.", "--dino-score", "0.5").heads
    assert (given.prompt, given.score, given.of_heads) == ("face.", 0.5, False)


def test_weights_are_named_by_their_size(tmp_path):
    (tmp_path / "grounding").mkdir()
    (tmp_path / "grounding/model.safetensors").write_bytes(bytes(12))
    (tmp_path / "grounding/pytorch_model.bin").write_bytes(bytes(99))
    args = ["--input", "x", "--output", "y", "--dino", str(tmp_path / "grounding")]
    assert settings(parser().parse_args(args)).to_dict()["dino"] == "grounding (12 bytes)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--heads", "dino"], "give --dino FOLDER"),
        (["--dino", "none"], "'none' has no config.json"),
        (["--dino", "none", "--dino-score", "2"], "score 2 and border 0.01, expected 0 to 1"),
    ],
)
def test_what_is_wrong_is_one_line(options, message, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    given = ["--input", str(tmp_path / "a.mp4"), "--output", str(tmp_path / "set")]
    with pytest.raises(UserError, match=message) as error:
        main([*given, "--cuts", "histogram", *options])
    assert "\n" not in str(error.value)


def test_configs_say_what_they_expect():
    with pytest.raises(UserError, match=r"expected one of faces, dino and one of head\., face\."):
        HeadConfig(prompt="heads")
