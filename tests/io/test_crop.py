"""The crop holds the head; pasting back leaves the rest of the picture alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memo_jax.errors import UserError
from memo_jax.io.crop import (
    Crop,
    Paster,
    crop_around,
    cut,
    parse_crop,
    paste_back,
    preview,
    whole,
)
from memo_jax.io.face import Face, HaarFinder


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def test_the_head_is_whole(paint_face):
    image = paint_face(512, 256, 240, 90)
    crop = crop_around(HaarFinder().find(image)[0], image.shape)
    assert crop.width == crop.height
    # hair from y = 240 - 1.5 * 90, chin to 240 + 1.1 * 90, hair 90 to each side
    assert crop.y <= 105 and crop.y + crop.height >= 339
    assert crop.x <= 166 and crop.x + crop.width >= 346


@given(
    x=st.floats(0, 100),
    y=st.floats(0, 100),
    side=st.floats(20, 200),
    width=st.integers(32, 300),
    height=st.integers(32, 300),
)
@settings(deadline=None, derandomize=True)
def test_crops_stay_inside_where_the_face_fits(x, y, side, width, height):
    crop = crop_around(Face((x, y, side, side), 1.0), (height, width, 3))
    assert crop.width == crop.height >= 1.2 * side or crop.width == min(width, height)
    if crop.width <= min(width, height):
        assert 0 <= crop.x <= width - crop.width
        assert 0 <= crop.y <= height - crop.height


def test_parse_crop():
    shape = (120, 160, 3)
    assert parse_crop("auto", shape) == "auto"
    assert parse_crop("none", shape) == whole(shape) == Crop(0, 0, 160, 120)
    assert parse_crop(" 10, 20,64,64", shape) == Crop(10, 20, 64, 64)
    assert parse_crop("-10,-10,64,64", shape) == Crop(-10, -10, 64, 64)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "face",
        "1,2,3",
        "1,2,3,4,5",
        "a,b,c,d",
        "0,0,64.5,64",
        "0,0,10,10",
        "0,0,-64,64",
        "200,0,64,64",
        "0,0,999,64",
        "-60,0,64,64",
        "1e9,0,64,64",
        "0,0,64,\n64x",
    ],
)
def test_bad_crops_are_told(text):
    with pytest.raises(UserError, match="expected auto, none, or x,y,w,h") as told:
        parse_crop(text, (120, 160, 3))
    assert "\n" not in str(told.value)


def test_cut_fills_with_border_pixels(picture):
    got = cut(picture, Crop(-8, -8, 64, 64), 64)
    np.testing.assert_array_equal(got[8:, 8:], picture[:56, :56])
    assert (got[:8, :8] == picture[0, 0]).all()
    assert cut(picture, whole(picture.shape), 48).shape == (48, 48, 3)


CROPS = [
    Crop(30, 20, 64, 64),
    Crop(0, 0, 64, 64),
    Crop(-10, 90, 64, 64),
    Crop(140, -5, 50, 50),
    Crop(0, 0, 160, 120),
    Crop(-20, -20, 200, 200),
]


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("side", [32, 64, 128])
def test_outside_the_crop_nothing_changes(picture, crop, side):
    frames = np.random.default_rng(1).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    got = paste_back(picture, crop, frames)
    assert got.shape == (3, *picture.shape) and got.dtype == np.uint8
    outside = np.ones(picture.shape[:2], bool)
    outside[crop.inside(picture.shape)] = False
    np.testing.assert_array_equal(
        got[:, outside], np.broadcast_to(picture[outside], (3, outside.sum(), 3))
    )


@pytest.mark.parametrize("crop", [Crop(30, 20, 64, 64), Crop(-10, 90, 64, 64)])
def test_pasting_what_was_cut_changes_nothing(picture, crop):
    frame = cut(picture, crop, 64)
    np.testing.assert_array_equal(paste_back(picture, crop, frame[None])[0], picture)


def test_middle_is_the_frame_and_the_seam_is_smooth():
    picture = np.zeros((120, 160, 3), np.uint8)
    frames = np.full((1, 64, 64, 3), 255, np.uint8)
    got = paste_back(picture, Crop(30, 20, 64, 64), frames)[0].astype(int)
    assert (got[30:74, 40:84] == 255).all()
    steps = np.abs(np.diff(got[52, :, 0]))
    assert steps.max() < 255 / 3
    assert got[52, 30, 0] < 40


def test_no_blend_at_the_border_of_the_picture():
    picture = np.zeros((120, 160, 3), np.uint8)
    frames = np.full((1, 64, 64, 3), 255, np.uint8)
    got = paste_back(picture, Crop(-10, 0, 64, 64), frames)[0]
    assert (got[:40, :40] == 255).all()
    assert (paste_back(picture, whole(picture.shape), frames) == 255).all()


def test_paster_is_used_for_many_chunks(picture):
    paster = Paster(picture, Crop(30, 20, 64, 64))
    frames = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        np.concatenate([paster(frames[:2]), paster(frames[2:])]), paster(frames)
    )
    assert paster(frames[:0]).shape == (0, *picture.shape)


@pytest.mark.parametrize("crop", CROPS)
def test_preview_shows_the_crop(picture, crop):
    got = preview(picture, crop)
    assert got.shape == picture.shape and got.dtype == np.uint8
    rows, columns = crop.inside(picture.shape)
    assert got[rows.start, columns.start].tolist() == [0, 255, 0]
    middle = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
    assert (got[middle] == picture[middle]).all()
