"""What guidance asks of the networks, seen by networks that only write it down."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from memo_jax.config import SamplerConfig
from memo_jax.diffusion.rollout import ClipCondition, denoise

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

    def net(*args):
        asked.append(args)
        rows = jnp.arange(1.0, args[0].shape[0] + 1)[:, None, None, None, None]
        return jnp.broadcast_to(rows, args[0].shape)

    net.config = SimpleNamespace(null_emotion=NULL_EMOTION)
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
