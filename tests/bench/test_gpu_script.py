"""The script for GPUs, tried at a small size where there is none."""

import json

import jax.numpy as jnp
import pytest

from benchmarks import gpu
from memo_jax.bench import random_models
from memo_jax.errors import UserError


def test_it_runs_through(tmp_path, monkeypatch, capsys, small):
    monkeypatch.setattr(gpu, "SAMPLERS", {"exact": (1, 3.5)})
    path = tmp_path / "gpu.json"
    gpu.main(["--seconds", "0", "--anywhere", "--json", str(path)])
    found = json.loads(path.read_text())
    exact = found["runs"]["exact"]
    assert found["kind"] == "gpu" and exact["settings"]["dtype"] == "bfloat16"
    assert exact["figures"]["model_seconds_per_frame"] > 0
    assert 0 < len(exact["profile"]["kernels"]) <= 10
    assert "s in kernels" in capsys.readouterr().out


def test_every_sampler_is_made(small):
    model = random_models.random_model(dtype=jnp.float32)
    made = {name: pipe.sampler for name, pipe in gpu._pipelines(model, 2, [])}
    assert list(made) == list(gpu.SAMPLERS)
    assert (made["exact"].steps, made["exact"].guidance) == (20, 3.5)
    assert (made["4 steps, distilled"].steps, made["4 steps, distilled"].guidance) == (4, 1.0)
    assert made["exact"].image_size == model.spec.sampler.image_size


def test_refusals():
    with pytest.raises(UserError, match="no GPU: JAX is on a cpu"):
        gpu.main([])
