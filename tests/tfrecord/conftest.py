"""A command with a folder of its own."""

import pytest
from tfrecord.writing import Command


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)
