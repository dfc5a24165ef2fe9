"""Which steps evaluate what, and what the named samplers cost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memo_jax.config import SamplerConfig
from memo_jax.diffusion.euler import euler, euler_of_kinds
from memo_jax.diffusion.flow import sampling_sigmas
from memo_jax.diffusion.presets import PRESETS, approximations, told, with_preset
from memo_jax.diffusion.schedule import Evaluations, Kind, evaluations, kinds
from memo_jax.errors import UserError


def drawn(sampler):
    """Steps as letters: G guided, C the conditional branch alone, small where shallow."""
    letters = ("G" if kind.guided else "C" for kind in kinds(sampler))
    return "".join(
        letter if kind.whole else letter.lower()
        for letter, kind in zip(letters, kinds(sampler), strict=True)
    )


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({}, "GGGG"),
        ({"guidance": 1.0}, "CCCC"),
        ({"guidance_interval": (0.0, 1.0), "cache_steps": 1}, "GGGG"),
        # Noise levels 1, 0.667, 0.334, 0.001; both ends of the interval count.
        ({"guidance_interval": (0.3, 0.9)}, "CGGC"),
        ({"guidance_interval": (0.0, 0.9)}, "CGGG"),
        ({"guidance_interval": (1.0, 1.0)}, "GCCC"),
        ({"guidance_interval": (0.9, 0.95)}, "CCCC"),
        ({"guidance_interval": (0.3, 0.9), "guidance": 1.0}, "CCCC"),
        ({"cache_steps": 2}, "GgGg"),
        ({"cache_steps": 3}, "GggG"),
        ({"cache_steps": 9}, "Gggg"),
        # A null branch that paused has no deep features; those of the other serve on.
        ({"guidance_interval": (0.0, 0.9), "cache_steps": 9}, "CGgg"),
        ({"guidance_interval": (0.5, 1.0), "cache_steps": 3}, "GgcC"),
    ],
)
def test_what_each_step_evaluates(fields, steps):
    assert drawn(SamplerConfig(steps=4, **fields)) == steps


@pytest.mark.parametrize(
    ("fields", "whole", "shallow"),
    [
        ({}, 40, 0),
        ({"guidance": 1.0}, 20, 0),
        ({"steps": 10, "cache_steps": 2}, 10, 10),
        ({"steps": 10, "guidance_interval": (0.3, 0.9)}, 16, 0),
    ],
)
def test_evaluations(fields, whole, shallow):
    assert evaluations(SamplerConfig(**fields)) == Evaluations(whole, shallow)


def test_exact_is_the_default_and_nothing_else():
    exact = with_preset(SamplerConfig(), "exact")
    assert exact == SamplerConfig() and not approximations(exact)
    assert told(exact) == "steps=20 guidance=3.5 exact"
    tried = SamplerConfig(guidance_interval=(0.2, 0.8), cache_steps=2, latent_carry=True)
    assert with_preset(tried, "exact") == exact
    low = dataclasses.replace(exact, device_memory="low")  # not a preset's to decide
    assert told(with_preset(low, "exact")) == "steps=20 guidance=3.5 device_memory=low"
    slow = dataclasses.replace(exact, noise_span=8)  # nor is this
    assert told(with_preset(slow, "exact")) == "steps=20 guidance=3.5 noise_span=8 exact"
    # What is on but changes nothing is no approximation.
    assert not approximations(SamplerConfig(guidance=1.0, guidance_interval=(0.2, 0.8)))


def test_each_preset_costs_less_than_the_one_before():
    def cost(name):
        found = evaluations(with_preset(SamplerConfig(), name))
        return found.whole + found.shallow, found.whole

    costs = [cost(name) for name in PRESETS]
    assert PRESETS[0] == "exact" and costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(costs)
    for name in PRESETS[1:]:
        assert len(approximations(with_preset(SamplerConfig(), name))) == 3


def test_a_model_of_few_steps_keeps_them():
    distilled = SamplerConfig(steps=4, guidance=1.0)
    fast = with_preset(distilled, "fast")
    assert (fast.steps, fast.guidance) == (4, 1.0)
    assert told(fast) == "steps=4 guidance=1 cache_steps=2 latent_carry=on"


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_steps": 0},
        {"guidance_interval": (0.9, 0.3)},
        {"guidance_interval": (-0.1, 1.0)},
        {"guidance_interval": (0.0, 1.1)},
        {"guidance_interval": (float("nan"), 1.0)},
    ],
)
def test_samplers_that_make_no_sense(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        SamplerConfig(**fields)
    with pytest.raises(UserError, match="no preset 'quick' of the sampler; expected exact, fast"):
        with_preset(SamplerConfig(), "quick")


def test_only_the_steps_own_velocity_is_evaluated():
    """What runs, told by the program while it runs."""
    ran = []

    def velocity(number):
        def call(x, timesteps, state):
            jax.debug.callback(lambda: ran.append(number))
            return (number + 1.0) * jnp.ones_like(x), state + 1.0

        return call

    noise, sigmas = np.zeros((1, 1, 1, 1, 1), np.float32), sampling_sigmas(4)
    steps = np.array([1, 0, 0, 1], np.int32)
    run = jax.jit(lambda x: euler_of_kinds([velocity(0), velocity(1)], steps, x, 0.0, sigmas))
    latents = run(noise)
    jax.effects_barrier()
    assert sorted(ran) == [0, 0, 1, 1]
    assert np.allclose(latents, np.sum((steps + 1) * np.diff(sigmas)))
    same = euler(lambda x, t: jnp.ones_like(x), noise, sigmas)
    assert np.array_equal(
        same, euler_of_kinds([velocity(0)], np.zeros(4, np.int32), noise, 0.0, sigmas)
    )


def test_kinds_are_of_the_steps_alone():
    """The same for every other field: one program serves all clips."""
    sampler = SamplerConfig(steps=10, guidance_interval=(0.3, 0.9), cache_steps=2)
    assert drawn(sampler) == "CGgGgGgCcC"
    assert kinds(dataclasses.replace(sampler, memory="none")) == kinds(sampler)
    assert Kind(guided=False, whole=True) < Kind(guided=True, whole=False)
