"""Memory and time by the minute, of a recording that was made up."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import long_recording
from memo_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_minutes_are_told_apart():
    """Chunks of 8 s and 200 frames: 1 s each in the first minute, 2 s in all others."""
    chunks = [
        {
            "video_seconds": 8.0 * (i + 1),
            "frames": 200,
            "seconds": 1.0 if i < 8 else 2.0,
            "resident_bytes": 1000.0 if i < 8 else 3000.0,
            "huge_page_bytes": 0.0 if i < 8 else 2000.0,
            "fixed_work_seconds": 0.01,
        }
        for i in range(24)  # 192 s
    ]
    chunks[0]["seconds"] = 90.0  # Compiling is of no minute.
    found = long_recording.by_minute(chunks)
    assert [one["minute"] for one in found] == [1, 2, 3]
    assert [one["resident_bytes"] for one in found] == [1000, 3000, 3000]
    assert [one["huge_page_bytes"] for one in found] == [0, 2000, 2000]
    assert [one["seconds_per_frame"] for one in found] == pytest.approx([1 / 200, 2 / 200, 2 / 200])
    assert [one["fixed_work_seconds"] for one in found] == [0.01] * 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are asked of Linux")
def test_huge_pages_are_off_for_the_process():
    """In a process of its own, as it lasts."""
    code = (
        "from benchmarks.long_recording import without_huge_pages as off; off(); "
        "print(next(l for l in open('/proc/self/status') if l.startswith('THP_enabled')))"
    )
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == ["THP_enabled:", "0"]


def test_two_minutes_cannot_be_compared():
    with pytest.raises(UserError, match="--minutes 2; expected 3 or more"):
        long_recording.main(["--minutes", "2"])
