"""What guidance asks of the networks, seen by networks that only write it down."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from memo_jax.config import SamplerConfig
from memo_jax.diffusion.denoise import ClipCondition, denoise
from memo_jax.diffusion.flow import sampling_sigmas
from memo_jax.diffusion.schedule import kinds
from memo_jax.models.diffusion_net import DeepFeatures

NULL_EMOTION = 9
AUDIO = np.full((1, 2, 3, 1, 1), 5.0, np.float32)
NOISE = np.zeros((1, 2, 2, 2, 4), np.float32)


@pytest.fixture
def asked():
    """The arguments of every call of the Diffusion Net."""
    return []


@pytest.fixture
def generator(asked):
    """Audio tokens are the audio plus one; the velocity of sample i is i + 1."""

    def evaluate(*args, deep, part):
        asked.append(args)
        assert deep is None and part is None  # nothing reused, no branch alone
        rows = jnp.arange(1.0, args[0].shape[0] + 1)[:, None, None, None, None]
        return jnp.broadcast_to(rows, args[0].shape), None

    net = SimpleNamespace(evaluate=evaluate, config=SimpleNamespace(null_emotion=NULL_EMOTION))
    return SimpleNamespace(
        diffusion_net=net,
        audio_proj=lambda audio: jnp.asarray(audio)[:, :, :1, 0] + 1,
    )


def run(generator, **fields):
    sampler = dataclasses.replace(SamplerConfig(steps=1), **fields)
    condition = ClipCondition(features="features", memory="memory")
    return denoise(generator, sampler, condition, AUDIO, np.array([3], np.int32), NOISE)


@pytest.mark.parametrize(("null_audio", "silence"), [("zeros", 0.0), ("projected", 1.0)])
def test_the_null_branch_hears_and_feels_nothing(generator, asked, null_audio, silence):
    latents = run(generator, guidance=3.5, null_audio=null_audio)
    (call,) = asked  # a scan traces its step once
    x, timesteps, features, faces, audio, emotion, memory, use_reference = call
    assert (features, faces, memory) == ("features", None, "memory")
    assert x.shape[0] == timesteps.shape[0] == 2
    assert np.all(audio[0] == silence) and np.all(audio[1] == 6.0)
    assert emotion.tolist() == [NULL_EMOTION, 3]
    # Known while tracing: the null branch's share of the reference is never computed.
    assert isinstance(use_reference, np.ndarray) and use_reference.tolist() == [False, True]
    # From sigma 1 to 0 in one step: minus the velocity 1 + 3.5 (2 - 1).
    assert np.allclose(latents, -4.5)


@pytest.mark.parametrize("guidance", [1.0, 0.0])
def test_no_guidance_no_null_branch(generator, asked, guidance):
    latents = run(generator, guidance=guidance)
    (call,) = asked
    x, _, _, _, audio, emotion, _, use_reference = call
    assert x.shape[0] == 1 and np.all(np.asarray(audio) == 6.0)
    assert emotion.tolist() == [3] and use_reference is None
    assert np.allclose(latents, -1.0)


def rowwise(x, timesteps, features, faces, audio, emotion, memory, use, *, deep, part):
    """A Diffusion Net whose rows know nothing of each other: all it is given counts, and what the
    levels below the first give is twice the latents."""
    if part is not None:
        features, memory = part.rows(features), part.rows(memory)
    if use is None:  # all see their portraits
        use = np.ones(len(x), bool)
    deep = DeepFeatures(2 * x, audio) if deep is None else deep
    row = features * use.astype(np.float32) + memory + emotion.astype(jnp.float32)
    row = (
        row
        + timesteps / 500
        + jnp.mean(audio, axis=(1, 2, 3))
        + 0.01 * jnp.mean(deep.audio, axis=(1, 2, 3))
    )
    return 0.1 * (x + deep.x) + row[:, None, None, None, None], deep


@pytest.mark.parametrize("device_memory", ["normal", "low"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"guidance": 1.0},
        {"guidance_interval": (0.3, 0.9)},
        {"cache_steps": 2},
        {"guidance": 1.0, "cache_steps": 3},
        {"guidance_interval": (0.3, 0.9), "cache_steps": 3},
    ],
)
def test_step_by_step(fields, device_memory):
    """Whatever the program's form, each step has the velocity that its kind says."""
    sampler = SamplerConfig(steps=5, device_memory=device_memory, **fields)
    rng = np.random.default_rng(0)
    branches = 1 + (sampler.guidance > 1)
    features, memory = rng.normal(size=(2, branches)).astype(np.float32)
    noise = rng.normal(size=(1, 2, 2, 2, 4)).astype(np.float32)
    generator = SimpleNamespace(
        diffusion_net=SimpleNamespace(
            evaluate=rowwise, config=SimpleNamespace(null_emotion=NULL_EMOTION)
        ),
        audio_proj=lambda audio: jnp.asarray(audio)[:, :, :1, 0] + 1,
    )
    condition = ClipCondition(features=jnp.asarray(features), memory=jnp.asarray(memory))
    got = denoise(generator, sampler, condition, AUDIO, np.array([3], np.int32), noise)

    x, deep, sigmas = noise.astype(np.float64), {}, sampling_sigmas(5)
    for kind, sigma, after in zip(kinds(sampler), sigmas, sigmas[1:], strict=False):
        v = {}
        for branch in range(branches)[0 if kind.guided or branches == 1 else 1 :]:
            null = branches == 2 and branch == 0
            heard = 1.0 if null else 6.0  # silence and sound, plus one
            if kind.whole:
                deep[branch] = 2 * x
            row = (0 if null else features[branch]) + memory[branch] + (9 if null else 3)
            row = row + 2 * sigma + 1.01 * heard
            v[branch] = 0.1 * (x + deep[branch]) + row
        both = v[0] + sampler.guidance * (v[1] - v[0]) if len(v) == 2 else v[branches - 1]
        x = x + (after - sigma) * both
    assert np.allclose(got, x, rtol=1e-5, atol=1e-5)
