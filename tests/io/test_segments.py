"""Frames set aside must come back bit for bit, and only those that were sealed."""

import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.io.segments import Segments

FRAMES = np.random.default_rng(0).integers(0, 256, (40, 30, 22, 3), np.uint8)


def all_of(segments: Segments) -> np.ndarray:
    return np.concatenate(list(segments.read()))


def test_what_is_sealed_comes_back_bit_for_bit(tmp_path):
    segments = Segments(tmp_path)
    segments.append(FRAMES[:20])
    segments.append(FRAMES[20:23])
    segments.seal()
    segments.append(FRAMES[23:])
    segments.seal()
    segments.seal()
    assert segments.sealed == 40
    np.testing.assert_array_equal(all_of(Segments(tmp_path)), FRAMES)


def test_what_is_not_sealed_is_dropped(tmp_path):
    segments = Segments(tmp_path)
    segments.append(FRAMES[:5])
    segments.seal()
    segments.append(FRAMES[5:9])
    again = Segments(tmp_path)
    assert again.sealed == 5
    np.testing.assert_array_equal(all_of(again), FRAMES[:5])
    assert not list(tmp_path.glob("*.part"))


def test_a_missing_or_damaged_segment_is_told(tmp_path):
    segments = Segments(tmp_path)
    for start in (0, 8):
        segments.append(FRAMES[start : start + 8])
        segments.seal()
    first, second = sorted(tmp_path.glob("*.mkv"))
    second.write_bytes(b"nothing of use")
    with pytest.raises(UserError, match="damaged"):
        all_of(Segments(tmp_path))
    first.unlink()
    with pytest.raises(UserError, match="lacks frames"):
        all_of(Segments(tmp_path))
