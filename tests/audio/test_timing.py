"""Samples, frames and clips."""

import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import relative_error
from hypothesis import given
from hypothesis import strategies as st

from memo_jax.audio import timing
from memo_jax.errors import UserError


def test_the_released_table(golden):
    case = golden("g_wav2vec")
    table = [case.out(f"table/{name}") for name in ("n_samples", "fps", "frames_before_padding")]
    padded = [case.out(f"table/{name}") for name in ("padded_frames", "padded_samples")]
    for n, fps, frames, padded_frames, samples in np.stack(table + padded, axis=1).tolist():
        assert timing.frame_count(n, fps) == frames
        assert timing.padding(n, fps, 16) == (padded_frames, samples - n)


def test_normalise(golden):
    case = golden("g_wav2vec")
    got = timing.normalise(case.inp("speech"))
    assert got.dtype == np.float32
    assert relative_error(got, case.out("input_values")) < 1e-6
    assert not timing.normalise(np.zeros(5)).any()


@given(
    n=st.integers(1, 10_000_000),
    fps=st.sampled_from([24, 25, 29.97, 30, 60]),
    clip=st.integers(1, 48),
)
def test_padding_fills_whole_clips(n, fps, clip):
    released, _ = timing.padding(n, fps, clip)
    frames, zeros = timing.padding(n, fps, clip, audio_padding="exact")
    assert frames == released
    assert frames % clip == 0
    assert timing.frame_count(n, fps) <= frames < timing.frame_count(n, fps) + clip
    assert zeros >= 0
    assert abs((n + zeros) - frames * 16000 / fps) <= 0.5


def test_zeros_come_after_normalising():
    samples, frames = timing.prepare(np.ones(8000) + np.arange(8000) % 2, 30, 16)
    assert (len(samples), frames) == (8000 + 533, 16)
    assert np.allclose(np.abs(samples[:8000]), 1.0, atol=1e-4)
    assert not samples[8000:].any()


def test_an_empty_recording_is_refused():
    with pytest.raises(UserError, match="empty"):
        timing.padding(0, 30, 16)


@given(f=st.integers(1, 20), half=st.integers(0, 4), start=st.integers(0, 19))
def test_windows_are_clamped(f, half, start):
    size = 2 * half + 1
    hidden = np.arange(f, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
    got = timing.windows(hidden, size)
    assert got.shape == (f, size, 2, 3)
    for i in range(f):
        assert got[i, :, 0, 0].tolist() == [
            min(max(j, 0), f - 1) for j in range(i - half, i + half + 1)
        ]
    start = min(start, f)
    assert np.array_equal(timing.windows(hidden, size, start=start, stop=f), got[start:])


def test_windows_of_jax_arrays_are_jax_arrays():
    hidden = jnp.arange(24.0).reshape(4, 3, 2)
    got = timing.windows(hidden)
    assert isinstance(got, jnp.ndarray)
    assert np.array_equal(got, timing.windows(np.asarray(hidden)))
