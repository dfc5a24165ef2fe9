"""Presets beside the exact sampler: what is told of them."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from memo_jax.bench import differences
from memo_jax.config import SamplerConfig
from memo_jax.diffusion.presets import PRESETS


def test_psnr():
    frames = np.full((2, 4, 4, 3), 100, np.uint8)
    others = frames.copy()
    others[1] += 5
    equal, far = differences.psnr(frames, others)
    assert math.isinf(equal) and far == pytest.approx(20 * math.log10(255 / 5), abs=1e-4)


def test_every_preset_is_told(monkeypatch):
    """Frames of another preset are compared with the exact ones, whatever the order."""
    shade = dict(zip(PRESETS, (100, 110, 140), strict=True))

    def frames(pipe, clips, seed):
        assert (clips, seed) == (2, 5)
        return np.full((clips, 8, 8, 3), shade[pipe], np.uint8)

    monkeypatch.setattr(differences, "Pipeline", lambda model, preset: preset)
    monkeypatch.setattr(differences, "_frames", frames)
    monkeypatch.setattr(
        differences.operations, "per_frame", lambda configs, sampler: 1e12 * sampler.steps
    )
    spec = SimpleNamespace(sampler=SamplerConfig(), parts={})
    found = differences.measure(SimpleNamespace(spec=spec), clips=2, seed=5, presets=PRESETS[::-1])
    rows = json.loads(json.dumps(found, allow_nan=False))["presets"]
    assert next(iter(rows)) == "exact" and set(rows) == set(PRESETS)
    assert rows["exact"]["psnr_mean_db"] is None and rows["exact"]["largest_difference"] == 0
    assert rows["exact"]["whole_evaluations"] == 40
    decibels = [rows[name]["psnr_mean_db"] for name in PRESETS[1:]]
    assert decibels == pytest.approx([20 * math.log10(255 / d) for d in (10, 40)], abs=1e-4)
    text = "\n".join(differences.lines(found))
    assert "equal" in text and f"{decibels[0]:.1f}" in text and "cache_steps=2" in text
