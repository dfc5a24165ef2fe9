"""Samplers by name: the exact one, and approximations of it that cost less."""

import dataclasses
from typing import Any

from memo_jax.config import SamplerConfig
from memo_jax.diffusion.schedule import evaluations
from memo_jax.errors import UserError

EXACT = "exact"

# What no approximation changes.
_OFF: dict[str, Any] = {"guidance_interval": (0.0, 1.0), "cache_steps": 1, "latent_carry": False}

# `steps` are the most that a preset takes: a model that needs fewer keeps its own.
_PRESETS: dict[str, dict[str, Any]] = {
    EXACT: _OFF,
    "fast": {
        "steps": 10,
        "guidance_interval": (0.3, 0.9),
        "cache_steps": 2,
        "latent_carry": True,
    },
    "draft": {
        "steps": 6,
        "guidance_interval": (0.3, 0.9),
        "cache_steps": 3,
        "latent_carry": True,
    },
}
PRESETS = tuple(_PRESETS)
"""All names: the exact one first, then approximations, the closest first."""


def with_preset(sampler: SamplerConfig, name: str) -> SamplerConfig:
    """A model's sampler as a preset has it. "exact" keeps its steps and turns approximations off.

    Raises:
      UserError: there is no such preset.
    """
    if name not in _PRESETS:
        raise UserError(f"no preset {name!r} of the sampler; expected {', '.join(PRESETS)}")
    fields = dict(_PRESETS[name])
    fields["steps"] = min(sampler.steps, fields.get("steps", sampler.steps))
    return dataclasses.replace(sampler, **fields)


def changed(sampler: SamplerConfig, **fields: Any) -> SamplerConfig:
    """The sampler with those of the fields that are not None.

    Raises:
      UserError: one that makes no sense.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    return dataclasses.replace(sampler, **given)


def approximations(sampler: SamplerConfig) -> tuple[str, ...]:
    """Those that are on, for people to read; none where all is exact. Fewer steps are none, but
    low memory, which rounds what is remembered, is one."""
    low, high = sampler.guidance_interval
    off = dataclasses.replace(sampler, guidance_interval=(0.0, 1.0))
    found = []
    if evaluations(sampler) != evaluations(off):
        found.append(f"guidance_interval={low:g},{high:g}")
    if sampler.cache_steps > 1 and sampler.steps > 1:
        found.append(f"cache_steps={sampler.cache_steps}")
    if sampler.latent_carry:
        found.append("latent_carry=on")
    if sampler.device_memory == "low":
        found.append("device_memory=low")
    return tuple(found)


def told(sampler: SamplerConfig) -> str:
    """The sampler in a line: what a video says of how it was made."""
    start = [f"steps={sampler.steps}", f"guidance={sampler.guidance:g}"]
    if sampler.noise_span > 1:
        start.append(f"noise_span={sampler.noise_span}")
    return " ".join([*start, *(approximations(sampler) or ["exact"])])
