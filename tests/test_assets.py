"""The bundled portrait and recording are usable, small, and made by the tool in this repository."""

import subprocess
import sys
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "memo_jax" / "assets"


def portrait(folder: Path = ASSETS) -> np.ndarray:
    return np.asarray(Image.open(folder / "portrait.png"))


def recording(folder: Path = ASSETS) -> np.ndarray:
    with wave.open(str(folder / "recording.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


@pytest.fixture(scope="module")
def remade(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    command = [sys.executable, ROOT / "tools" / "make_assets.py", "--output", folder]
    subprocess.run(command, check=True)
    return folder


def test_the_tool_makes_the_bundled_files(remade):
    assert sorted(p.name for p in remade.iterdir()) == ["portrait.png", "recording.wav"]
    # One step of rounding may differ where another maths library computes a cosine.
    for read in (portrait, recording):
        assert np.abs(read(remade).astype(int) - read()).max() <= 1


def test_they_are_small():
    assert (ASSETS / "portrait.png").stat().st_size < 250_000
    assert (ASSETS / "recording.wav").stat().st_size < 150_000


@pytest.mark.parametrize(
    ("size", "scale_factor"), [(512, 1.05), (512, 1.1), (512, 1.2), (256, 1.1)]
)
def test_the_portrait_holds_one_face(scale_factor, size):
    assert portrait().shape == (512, 512, 3)
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    gray = cv2.cvtColor(cv2.resize(portrait(), (size, size)), cv2.COLOR_RGB2GRAY)
    faces = np.array(cascade.detectMultiScale(gray, scale_factor, 5)) * (512 / size)
    assert len(faces) == 1
    x, y, w, h = faces[0]
    assert abs(x + w / 2 - 256) < 12 and abs(y + h / 2 - 275) < 16  # px, between eyes and mouth
    assert 340 < w < 400


def test_the_recording_has_words_and_pauses():
    sound = recording().astype(float) / 32768
    assert len(sound) == 4 * 16_000
    assert abs(20 * np.log10(sound.std()) + 20) < 0.5  # dBFS
    assert 20 * np.log10(np.abs(sound).max()) < -1
    assert abs(sound.mean()) < 1e-3
    level = np.sqrt((sound.reshape(100, -1) ** 2).mean(1))  # per 40 ms
    speaking = np.convolve(level > 0.02, np.ones(3), "same") >= 2
    starts = np.flatnonzero(np.diff(speaking.astype(int), prepend=0) == 1)
    assert len(starts) == 3  # groups of words
    assert 0.5 < speaking.mean() < 0.9
    assert not speaking[0] and not speaking[-1]
