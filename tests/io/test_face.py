"""Faces found without a model file, and the choice among several."""

import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.io.face import Face, HaarFinder, choose_face


@pytest.fixture(scope="module")
def finder():
    return HaarFinder()


@pytest.mark.parametrize(
    ("side", "x", "y", "radius"),
    [
        (512, 256, 240, 90),
        (1600, 700, 700, 250),
        (1600, 1200, 500, 120),
        (128, 64, 60, 30),
        (512, 256, 256, 200),
        (512, 256, 256, 240),
    ],
)
def test_one_face_at_its_place(finder, paint_face, side, x, y, radius):
    """From small ones to one that fills the picture."""
    faces = finder.find(paint_face(side, x, y, radius))
    assert len(faces) == 1
    left, top, width, height = faces[0].box
    assert abs(left + width / 2 - x) < 0.3 * radius
    assert abs(top + height / 2 - y) < 0.4 * radius
    assert radius < width < 2.8 * radius
    assert 0.5 < faces[0].score <= 1
    assert faces[0].landmarks is None


def test_largest_first(finder, paint_face):
    image = np.concatenate([paint_face(radius=70), paint_face(radius=110)], axis=1)
    faces = finder.find(image)
    assert [f.box[0] > 512 for f in faces] == [True, False]


def test_no_face(finder):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert finder.find(noise) == []
    assert finder.find(np.full((40, 900, 3), 90, np.uint8)) == []


BIG, MIDDLE, SMALL = (Face((10.2, 20, s, s), 0.9) for s in (100, 80, 40))


def test_choice():
    assert choose_face([BIG]) is BIG
    assert choose_face([BIG, SMALL]) is BIG
    assert choose_face([BIG, MIDDLE], "largest") is BIG
    assert choose_face([BIG, MIDDLE], "1") is choose_face([BIG, MIDDLE], 1) is MIDDLE


@pytest.mark.parametrize(
    ("faces", "which", "texts"),
    [
        ([], "auto", ["no face found in 'a.png'", "--crop x,y,w,h", "--crop none"]),
        ([], "largest", ["no face found"]),
        (
            [BIG, MIDDLE],
            "auto",
            ["0 at 10,20,100,100", "1 at 10,20,80,80", "--face N", "--face largest"],
        ),
        ([BIG, MIDDLE], "2", ["'2' is not among", "'a.png'"]),
        ([BIG], "-1", ["not among"]),
        ([BIG], "left\n", ["not among"]),
    ],
)
def test_wrong_choices_are_told(faces, which, texts):
    with pytest.raises(UserError) as told:
        choose_face(faces, which, "a.png")
    for text in texts:
        assert text in str(told.value)
    assert "\n" not in str(told.value)
