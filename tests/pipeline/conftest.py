"""A pipeline of a small model, a picture and sounds for it."""

import numpy as np
import pytest
from PIL import Image
from small_model import SAMPLER, quick_compilation, small_model

from memo_jax.pipeline import Pipeline

RATE = 16000


@pytest.fixture(autouse=True, scope="module")
def _quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="session")
def model():
    return small_model()


@pytest.fixture(scope="session")
def pipe(model):
    """The one that all tests share: its programs are compiled once."""
    return Pipeline(model)


@pytest.fixture(scope="session")
def picture():
    """uint8 [80, 96, 3], smooth and in colours."""
    small = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((96, 80), Image.Resampling.BICUBIC))


@pytest.fixture(scope="session")
def tone():
    """`tone(seconds)` is (samples, rate) of a tone that rises and swells."""

    def tone(seconds):
        n = round(seconds * RATE)
        t = np.arange(n) / RATE
        swell = 0.3 + 0.2 * np.sin(2 * np.pi * 3 * t)
        return (swell * np.sin(2 * np.pi * (200 * t + 300 * t**2))).astype(np.float32), RATE

    return tone


@pytest.fixture(scope="session")
def clip_seconds():
    return SAMPLER.clip_frames / SAMPLER.fps


@pytest.fixture(scope="session")
def scene(pipe, picture):
    return pipe.scene(picture, crop="none")
