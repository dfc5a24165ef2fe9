"""Any picture becomes upright opaque RGB, and the released model's numbers."""

import numpy as np
import pytest
from PIL import Image

from memo_jax.errors import UserError
from memo_jax.io.image import read_image, resize, to_uint8, to_unit


@pytest.fixture
def gradient():
    """uint8 [40, 60, 3], no two rows or columns alike."""
    rows, columns = np.mgrid[0:40, 0:60]
    return np.stack([rows * 6, columns * 4, rows + columns], axis=-1).astype(np.uint8)


def test_resize_and_range_are_the_released_ones(golden):
    case = golden("n_image_video")
    side = case.config["target"]
    for k in range(len(case.config["sizes"])):
        got = to_unit(resize(case.inp(f"image{k}"), (side, side)))
        np.testing.assert_array_equal(got.transpose(2, 0, 1), case.out(f"image{k}"))


def test_frames_are_truncated_to_bytes(golden):
    case = golden("n_image_video")
    got = to_uint8(case.inp("video").transpose(1, 2, 3, 0))
    np.testing.assert_array_equal(got, case.out("video_uint8"))


def test_resize_takes_height_first(gradient):
    assert resize(gradient, (20, 90)).shape == (20, 90, 3)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp"])
def test_lossless_formats_are_exact(tmp_path, gradient, kind):
    Image.fromarray(gradient).save(tmp_path / f"a.{kind}", lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{kind}"), gradient)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, gradient, turn):
    """The camera's picture, undone by its note, is the scene again."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = np.ascontiguousarray(undo[turn](gradient))
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), gradient)


def test_transparent_parts_are_white(tmp_path, gradient):
    alpha = np.full((40, 60, 1), 255, np.uint8)
    alpha[:20], alpha[20:30] = 0, 128
    Image.fromarray(np.concatenate([gradient, alpha], -1)).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png")
    assert (got[:20] == 255).all()
    np.testing.assert_allclose(got[20:30], gradient[20:30] * 0.5 + 127.5, atol=1.5)
    np.testing.assert_array_equal(got[30:], gradient[30:])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "I;16", "I", "F"])
def test_every_mode_is_read(tmp_path, mode):
    grey = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (40, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    else:
        image = Image.fromarray(grey).convert(mode)
    path = tmp_path / ("a.tiff" if mode in ("CMYK", "F", "I") else "a.png")
    image.save(path)
    got = read_image(path)
    assert got.shape == (40, 60, 3) and got.dtype == np.uint8
    if mode != "1":
        np.testing.assert_allclose(got, np.repeat(grey[..., None], 3, -1), atol=2)


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (40, 40), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(1, (0, 0, 40, 20))
    image.save(tmp_path / "a.gif", transparency=0)
    got = read_image(tmp_path / "a.gif")
    assert got[30, 5].tolist() == [255, 255, 255]
    assert got[5, 5].tolist() == [0, 255, 0]


def test_first_frame_of_an_animation(tmp_path):
    first, second = (Image.new("RGB", (40, 40), c) for c in ((250, 0, 0), (0, 0, 250)))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert read_image(tmp_path / "a.gif")[5, 5].tolist() == [250, 0, 0]


def test_mistakes_are_told(tmp_path, gradient, monkeypatch):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(gradient[:20]).save(tmp_path / "small.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)).save(
        tmp_path / "whole.png"
    )
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    Image.new("1", (14000, 14000)).save(tmp_path / "bomb.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "bigger.png")
    cases = {
        "no.png": "does not exist",
        ".": "is a folder",
        "text.jpg": "is not an image",
        "empty.png": "is empty",
        "small.png": "60x20 pixels; expected at least 32x32",
        "cut.png": "damaged or cut short",
        "bomb.png": "at most 178 megapixels",
        "bigger.png": "at most 178 megapixels",
    }
    for name, text in cases.items():
        with pytest.raises(UserError, match=text) as told:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(told.value) and "\n" not in str(told.value)
