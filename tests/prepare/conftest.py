"""People and videos for all tests of preparation, drawn once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import prepare_videos as videos

from memo_jax.prepare.cuts import CutConfig
from memo_jax.prepare.heads import HeadConfig
from memo_jax.prepare.settings import Settings, tools


@pytest.fixture(scope="session")
def people():
    return videos.draw_person(0), videos.draw_person(1)


@pytest.fixture(scope="session")
def small():
    """Settings for clips of 64 pixels, by tools that need no files."""
    return Settings(
        size=64,
        cuts=CutConfig(finder="histogram"),
        heads=HeadConfig(every=0.4, least_pixels=96),
    )


@pytest.fixture(scope="session")
def kit(small):
    return tools(small)
