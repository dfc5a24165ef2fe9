"""What is predicted of device memory, and what is done where it is too little."""

import dataclasses

import jax
import numpy as np
import pytest
from small_model import SAMPLER

from memo_jax.config import DiffusionNetConfig, ReferenceNetConfig, SamplerConfig, VAEConfig
from memo_jax.errors import UserError
from memo_jax.pipeline import Pipeline, memory

FULL = {
    "vae": VAEConfig(),
    "reference_net": ReferenceNetConfig(),
    "diffusion_net": DiffusionNetConfig(),
}
WEIGHTS = 5.3e9  # bytes, bfloat16


def configs(model):
    return {name: part.config for name, part in model.spec.parts.items()}


def test_what_is_carried_is_counted_exactly(pipe, model, scene, tone):
    """Against the arrays of a run."""
    carry = pipe.start(scene, pipe.hear(tone(0.1))).carry
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(carry.memory))
    found = memory.predict(configs(model), SAMPLER, 0.0, itemsize=4)
    assert found.memory == state + carry.past.nbytes
    low = dataclasses.replace(SAMPLER, device_memory="low", latent_carry=True)
    latents = 4 * 4 * 8 * 8 * 4
    assert memory.predict(configs(model), low, 0.0, itemsize=4).memory == state / 2 + latents


def test_full_size():
    """The memory of 512 x 512 is 12.8 GiB, as the TPU compiler was given it (README)."""
    normal = memory.predict(FULL, SamplerConfig(), WEIGHTS, itemsize=2)
    low = memory.predict(FULL, SamplerConfig(device_memory="low"), WEIGHTS, itemsize=2)
    assert 12.5 < normal.memory / memory.GIB < 13.2
    assert low.total < normal.total and low.memory < 0.51 * normal.memory
    assert low.total / memory.GIB <= 14.5  # of 16, with room for what is not predicted
    more = [
        memory.predict(FULL, SamplerConfig(**fields), WEIGHTS, itemsize=2).total
        for fields in ({"cache_steps": 2}, {"past_frames": 32})
    ]
    assert all(total > normal.total for total in more)
    chunks = memory.predict(FULL, SamplerConfig(), WEIGHTS, itemsize=2, chunk=3)
    assert chunks.held > normal.held
    # In rows, heads of 40, 80 and 160 fill a TPU's tiles; pieces that are worked on do not.
    tiled, less = (
        memory.predict(FULL, sampler, WEIGHTS, itemsize=2, platform="tpu")
        for sampler in (SamplerConfig(), SamplerConfig(device_memory="low"))
    )
    assert normal.memory <= tiled.memory < 1.01 * normal.memory
    assert low.working < less.working and less.total / memory.GIB <= 14.5


def test_no_guidance_no_null_branch():
    both = memory.predict(FULL, SamplerConfig(), 0.0, itemsize=2)
    one = memory.predict(FULL, SamplerConfig(guidance=1.0), 0.0, itemsize=2)
    assert one.memory - 16 * 512**2 * 12 == pytest.approx((both.memory - 16 * 512**2 * 12) / 2)


@pytest.fixture
def needs(model):
    """(bytes of normal, bytes of low) that the small model is predicted to need."""
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(list(model.modules.values())))
    low = dataclasses.replace(SAMPLER, device_memory="low")
    return tuple(
        memory.predict(configs(model), sampler, held, itemsize=4, platform="cpu").total
        for sampler in (SAMPLER, low)
    )


def with_room(monkeypatch, size):
    monkeypatch.setattr(memory, "room", lambda device, held: size)
    # Nothing may be compiled before it is refused.
    monkeypatch.setattr(Pipeline, "_traced_start", lambda *args: pytest.fail("too late"))


def test_auto_takes_low_where_normal_does_not_fit(model, monkeypatch, needs):
    normal, low = needs
    assert low < normal
    with_room(monkeypatch, normal)
    for choice in memory.CHOICES:
        wide = Pipeline(model, memory=choice)
        assert wide.notes == []
        assert wide.sampler.device_memory == ("low" if choice == "low" else "normal")
    with_room(monkeypatch, normal - 1)
    tight = Pipeline(model)
    (note,) = tight.notes
    assert tight.sampler.device_memory == "low" and "--memory low is taken" in note
    assert Pipeline(model, memory="low").notes == []
    with pytest.raises(UserError, match=r"needs about .* \(predicted\).*; --memory low needs"):
        Pipeline(model, memory="normal")


@pytest.mark.parametrize("choice", memory.CHOICES)
def test_what_cannot_fit_is_refused_first(model, monkeypatch, needs, choice):
    with_room(monkeypatch, needs[1] - 1)
    with pytest.raises(UserError, match=r"16 x 16 needs about .*; try --dtype bfloat16") as error:
        Pipeline(model, memory=choice)
    assert "\n" not in str(error.value)
    assert ("--memory low" in str(error.value)) == (choice != "low")
    with pytest.raises(UserError, match=r"try --chunk 1 or"):
        Pipeline(model, memory=choice, chunk=4)


def test_what_there_is(monkeypatch, tmp_path):
    device = jax.devices()[0]
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    assert memory.room(device, 5.0) is None
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:   300 kB\n")
    assert memory.room(device, 5.0) == 5 + 300 * 1024
    (tmp_path / "meminfo").write_text("MemAvailable: soon\n")
    assert memory.room(device, 5.0) is None
    gpu = type("Gpu", (), {"platform": "gpu", "memory_stats": lambda self: {"bytes_limit": 7}})()
    silent = type("Tpu", (), {"platform": "tpu", "memory_stats": lambda self: None})()
    assert memory.room(gpu, 5.0) == 7 and memory.room(silent, 5.0) is None


def test_choices(model):
    with pytest.raises(UserError, match="no memory 'little'; expected auto, normal, low"):
        Pipeline(model, memory="little")


@pytest.mark.parametrize("choice", ["normal", "low"])
def test_against_the_compiler(pipe, model, scene, tone, choice):
    """Of a program of 16 x 16 pixels, most of which are parameters, states and small blocks."""
    sampler = dataclasses.replace(SAMPLER, device_memory=choice)
    if choice == "low":
        pipe = Pipeline(model, memory="low")
    run = pipe.start(scene, pipe.hear(tone(0.1)))
    found = pipe.chunk_program(*run._arguments()).memory_analysis()
    needed = (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )
    makers = [model.modules[name] for name in configs(model)]
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(makers))
    predicted = memory.predict(configs(model), sampler, held, itemsize=4, platform="cpu").total
    print(f"predicted {predicted / 2**20:.2f} MiB, compiled {needed / 2**20:.2f} MiB")
    assert np.isfinite(predicted) and 0.9 * needed <= predicted <= 2 * needed
