"""Memory and time by the minute, of a recording that was made up."""

import pytest

from benchmarks import long_recording
from memo_jax.errors import UserError

FPS = 25


def test_minutes_are_told_apart():
    """Chunks of 8 s, of which the clock takes 1 s each in the first minute, 2 s in all others."""
    clock, chunks = 0.0, []
    for i in range(24):  # 192 s
        clock += 1.0 if i < 8 else 2.0
        size = 1000.0 if i < 8 else 3000.0
        chunks.append({"video_seconds": 8.0 * (i + 1), "clock": clock, "resident_bytes": size})
    found = long_recording.by_minute(chunks, FPS)
    assert [one["minute"] for one in found] == [1, 2, 3]
    assert [one["resident_bytes"] for one in found] == [1000, 3000, 3000]
    assert [one["seconds_per_frame"] for one in found] == pytest.approx([1 / 200, 2 / 200, 2 / 200])


def test_two_minutes_cannot_be_compared():
    with pytest.raises(UserError, match="--minutes 2; expected 3 or more"):
        long_recording.main(["--minutes", "2"])
