"""The log-mel ear."""

import numpy as np
import pytest

from memo_jax.audio.logmel import LogMelConfig, log_mel, mel_filters
from memo_jax.audio.timing import windows
from memo_jax.errors import UserError

SR = 16000
FLOOR = np.float32(-20 / 17)  # -80 dB


def tone(hz, seconds=1.0, loud=1.0):
    return (loud * np.sin(2 * np.pi * hz * np.arange(int(seconds * SR)) / SR)).astype(np.float32)


def test_shapes_fit_the_audio_projection():
    features = log_mel(tone(300), 30, 30)
    assert features.shape == (30, 4, 32) and features.dtype == np.float32
    assert windows(features).shape == (30, 5, 4, 32)


def test_silence_is_the_floor():
    assert (log_mel(np.zeros(SR), 30, 30) == FLOOR).all()
    assert (log_mel(np.zeros(0), 3, 30) == FLOOR).all()


def test_full_scale_is_near_the_top_and_loudness_is_kept():
    top = log_mel(tone(1000), 30, 30)[10:20].max()
    assert 3.3 < top < 3.8
    quiet = log_mel(tone(1000, loud=0.1), 30, 30)[10:20].max()
    assert top - quiet == pytest.approx(20 / 17, abs=1e-3)  # 17 dB are one unit


def test_pitch_is_a_place():
    low, high = (log_mel(tone(hz), 30, 30)[15, 0].argmax() for hz in (200, 3000))
    assert low < high
    assert (mel_filters(LogMelConfig()).sum(axis=0) > 0).all()


def test_a_click_is_heard_when_it_happens():
    fps = 30
    for frame in (0, 7, 29):
        sound = np.zeros(SR, np.float32)
        sound[round((frame + 0.5) / fps * SR)] = 1.0
        heard = log_mel(sound, 30, fps).max(axis=(1, 2)) > FLOOR
        assert heard[frame]
        assert not heard[: max(0, frame - 1)].any() and not heard[frame + 2 :].any()


def test_frames_do_not_depend_on_the_rest():
    sound = np.random.default_rng(0).normal(0, 0.1, 3 * SR).astype(np.float32)
    whole = log_mel(sound, 90, 30)
    start = log_mel(sound[: 2 * SR], 59, 30)
    assert np.allclose(start, whole[:59], atol=1e-4)


def test_any_rate_and_length():
    assert log_mel(tone(300, 90.0), 2700, 29.97).shape == (2700, 4, 32)


def test_the_config_is_checked():
    with pytest.raises(UserError, match="9000"):
        LogMelConfig(high=9000)
