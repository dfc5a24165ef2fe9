"""Whatever a file holds, reading it succeeds or is told in one line, and leaves nothing."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from memo_jax.errors import UserError
from memo_jax.io.crop import parse_crop
from memo_jax.io.image import read_image
from memo_jax.io.sound import read_recording
from memo_jax.io.video import VideoWriter, check_output, probe, read_video

IMAGES = ("png", "jpg", "webp", "gif", "tiff", "bmp")
SOUNDS = ("wav", "mp3", "m4a", "flac", "ogg")
VIDEOS = ("mp4", "mkv")
FRAMES = np.full((1, 32, 32, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def originals(encode_sound, sweep):
    """Whole small files: extension -> bytes."""
    made = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        for kind in IMAGES:
            Image.fromarray(noise).save(folder / f"a.{kind}")
        for kind in SOUNDS:
            encode_sound(folder / f"a.{kind}", sweep(0.3, 48000)[None], 48000)
        for kind in VIDEOS:
            with VideoWriter(folder / f"a.{kind}", 32, 32, 25, folder / "a.wav") as writer:
                writer.write(np.repeat(FRAMES, 8, axis=0))
        for path in folder.iterdir():
            made[path.suffix[1:]] = path.read_bytes()
    return made


def write_with(path, folder):
    with VideoWriter(folder / "out.mp4", 32, 32, 25, path) as writer:
        writer.write(FRAMES)
    (folder / "out.mp4").unlink()


def told_in_one_line(call):
    """Whether `call` ended well; anything but success or a one-line UserError fails the test."""
    try:
        call()
    except UserError as error:
        message = str(error)
        assert message and len(message.splitlines()) == 1
        return False
    return True


@given(data=st.data())
@settings(max_examples=250, deadline=None, derandomize=True, database=None)
def test_damaged_files(originals, data):
    kind = data.draw(st.sampled_from(IMAGES + SOUNDS + VIDEOS))
    damage = data.draw(st.sampled_from(["cut", "flip", "random", "hole", "empty", "tail"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    content = np.frombuffer(originals[kind], np.uint8).copy()
    if damage == "cut":
        content = content[: rng.integers(0, len(content))]
    elif damage == "flip":
        where = rng.integers(0, len(content), rng.integers(1, 30))
        content[where] = rng.integers(0, 256, len(where))
    elif damage == "random":
        content = rng.integers(0, 256, rng.integers(1, 4000), dtype=np.uint8)
    elif damage == "hole":
        start = rng.integers(0, len(content))
        content[start : start + rng.integers(1, 500)] = 0
    elif damage == "tail":
        content = content[rng.integers(0, len(content)) :]
    else:
        content = content[:0]
    name = data.draw(st.sampled_from([kind, *IMAGES, *SOUNDS, *VIDEOS, "txt", ""]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{name}"
        path.write_bytes(content.tobytes())
        for read in (read_image, read_recording, read_video, probe):
            told_in_one_line(lambda read=read: read(path))
        told_in_one_line(lambda: write_with(path, Path(folder)))
        assert [p.name for p in Path(folder).iterdir()] == [path.name]


@pytest.mark.parametrize("kind", IMAGES + SOUNDS + VIDEOS)
def test_wrong_extensions_do_not_matter(tmp_path, originals, kind):
    path = tmp_path / "a.txt"
    path.write_bytes(originals[kind])
    read = read_image if kind in IMAGES else read_recording
    assert told_in_one_line(lambda: read(path))


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a\0b",
        "a\nb.png",
        "x" * 5000,
        "no/such",
        "http://example.com/a.mp3",
        "~",
        "-",
        "/dev/null",
        "/dev/zero",
    ],
)
def test_odd_paths(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for read in (read_image, read_recording, read_video, probe):
        assert not told_in_one_line(lambda read=read: read(name))
    for extension in ("", ".mp4"):
        told_in_one_line(lambda extension=extension: check_output(name + extension))
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=30))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_crop_texts(text):
    told_in_one_line(lambda: parse_crop(text, (100, 100, 3)))
