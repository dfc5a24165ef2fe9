"""Rollouts: where they are cut, stopped or batched changes no frame."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import relative_error
from small_model import random_module

from memo_jax.config import (
    AudioProjectionConfig,
    DiffusionNetConfig,
    ImageProjectionConfig,
    MotionConfig,
    ReferenceNetConfig,
    SamplerConfig,
    VAEConfig,
)
from memo_jax.diffusion import rollout as sampling
from memo_jax.diffusion.rollout import ClipInputs, Generator

CLIPS, FRAMES, PIXELS = 4, 2, 8
KEY = jax.random.key(7)
SAMPLER = SamplerConfig(
    image_size=PIXELS, clip_frames=FRAMES, past_frames=2, first_past_frames=2, steps=2
)


@pytest.fixture(scope="module")
def generator():
    """The smallest that has every part: one resolution, 32 channels, one layer."""
    unet = {
        "block_out_channels": (32,),
        "down_attention": (True,),
        "up_attention": (True,),
        "layers_per_block": 1,
        "num_heads": 2,
        "cross_attention_dim": 8,
        "norm_num_groups": 8,
    }
    motion = MotionConfig(num_heads=2)
    configs = {
        "vae": VAEConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4),
        "reference_net": ReferenceNetConfig(**unet),
        "diffusion_net": DiffusionNetConfig(**unet, audio_attention_dim=8, motion=motion),
        "image_proj": ImageProjectionConfig(embedding_dim=6, tokens=2, cross_attention_dim=8),
        "audio_proj": AudioProjectionConfig(
            window=3, layers=2, channels=4, hidden_dim=8, tokens=3, out_dim=8
        ),
    }
    return Generator(*(random_module(name, config) for name, config in configs.items()))


@pytest.fixture(scope="module")
def given():
    """(image, face, inputs) of two samples."""
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, PIXELS, PIXELS, 3)).astype(np.float32)
    face = rng.normal(size=(2, 6)).astype(np.float32)
    audio = rng.normal(size=(CLIPS, 2, FRAMES, 3, 2, 4)).astype(np.float32)
    emotion = rng.integers(0, 9, (CLIPS, 2)).astype(np.int32)
    return image, face, ClipInputs(audio, emotion)


def first(given):
    """The first sample alone."""
    image, face, inputs = given
    return image[:1], face[:1], jax.tree.map(lambda leaf: leaf[:, :1], inputs)


@pytest.fixture(scope="module")
def start(generator, compiled):
    """`start(image, face)`: the portrait, and the carry before the first clip."""

    def call(generator, image, face):
        portrait = sampling.prepare_portrait(generator, SAMPLER, image, face)
        return portrait, sampling.first_carry(generator, SAMPLER, portrait, image)

    return compiled(generator, call)


@pytest.fixture(scope="module")
def roll(generator, compiled):
    """`roll(portrait, key, carry, inputs)`: (carry, frames)."""
    return compiled(
        generator,
        lambda generator, portrait, key, carry, inputs: sampling.rollout(
            generator, SAMPLER, portrait, key, carry, inputs
        ),
    )


@pytest.fixture(scope="module")
def in_chunks(start, roll, given):
    """`in_chunks(size, key)`: (carry, frames) of the first sample."""

    def in_chunks(size, key=KEY, stop=lambda carry: carry):
        image, face, inputs = first(given)
        portrait, carry = start(image, face)
        frames = []
        for at in range(0, CLIPS, size):
            chunk = jax.tree.map(lambda leaf, at=at: leaf[at : at + size], inputs)
            carry, made = roll(portrait, key, stop(carry), chunk)
            frames.append(np.asarray(made))
        return carry, np.concatenate(frames)

    return in_chunks


@pytest.fixture(scope="module")
def one_by_one(in_chunks):
    return in_chunks(1)


def assert_same(got, want, bound):
    """(carry, frames) within `bound` of their largest values; 0 means to the bit."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype and relative_error(a, np.asarray(b)) <= bound


# Programs of different lengths may be fused differently, hence no bits.
@pytest.mark.parametrize("size", [2, 4])
def test_one_scan_is_many_calls_that_pass_the_carry(in_chunks, one_by_one, size):
    assert_same(in_chunks(size), one_by_one, 1e-5)


def test_frames_are_frames(one_by_one):
    carry, frames = one_by_one
    assert frames.shape == (CLIPS, 1, FRAMES, PIXELS, PIXELS, 3) and frames.dtype == np.float32
    assert frames.min() >= 0 and frames.max() <= 1 and frames.std() > 0.01
    assert int(carry.clip) == CLIPS
    assert np.array_equal(carry.past, frames[-1])


def test_a_stopped_rollout_goes_on_to_the_bit(in_chunks, one_by_one, tmp_path):
    def stop(carry):
        leaves, structure = jax.tree.flatten(carry)
        np.savez(tmp_path / "carry.npz", *leaves)
        stored = np.load(tmp_path / "carry.npz")
        return jax.tree.unflatten(structure, [stored[name] for name in stored.files])

    assert_same(in_chunks(1, stop=stop), one_by_one, 0)


def test_the_same_key_gives_the_same_frames_and_another_others(in_chunks, one_by_one):
    assert_same(in_chunks(1), one_by_one, 0)
    assert not np.array_equal(in_chunks(1, jax.random.key(8))[1], one_by_one[1])


def test_the_past_reaches_later_clips(start, roll, given, one_by_one):
    """Another memory changes frames though all else is the same."""
    image, face, inputs = first(given)
    portrait, carry = start(image, face)
    memory = jax.tree.map(lambda leaf: leaf + 1, carry.memory)
    chunk = jax.tree.map(lambda leaf: leaf[:1], inputs)
    _, frames = roll(portrait, KEY, dataclasses.replace(carry, memory=memory), chunk)
    assert relative_error(frames[0], one_by_one[1][0]) > 1e-3


def noise_of(clips, samples):
    """What the rollout draws for each clip, for one sample; others get more."""
    shape = (1, FRAMES, PIXELS // 2, PIXELS // 2, 4)
    drawn = np.stack([jax.random.normal(jax.random.fold_in(KEY, i), shape) for i in range(clips)])
    others = np.random.default_rng(1).normal(size=(clips, samples - 1, *shape[1:]))
    return np.concatenate([drawn, others.astype(np.float32)], axis=1)


def test_given_noise_and_two_samples(start, roll, given, one_by_one):
    """The noise that would be drawn gives the frames that would be drawn; a second sample beside
    the first changes nothing in it, nor does the first in the second."""
    image, face, inputs = given
    noise = noise_of(CLIPS, samples=2)

    def frames_of(rows):
        portrait, carry = start(image[rows], face[rows])
        frames = []
        for i in range(CLIPS):
            chunk = ClipInputs(inputs.audio[i : i + 1], inputs.emotion[i : i + 1], noise[i : i + 1])
            chunk = jax.tree.map(lambda leaf: leaf[:, rows], chunk)
            carry, made = roll(portrait, KEY, carry, chunk)
            frames.append(np.asarray(made))
        return np.concatenate(frames)

    one, other, both = (frames_of(rows) for rows in (slice(0, 1), slice(1, 2), slice(0, 2)))
    assert relative_error(one, one_by_one[1]) <= 1e-5
    assert relative_error(both[:, :1], one) <= 1e-5
    assert relative_error(both[:, 1:], other) <= 1e-5
    assert relative_error(one, other) > 1e-2


@pytest.mark.parametrize(
    ("first_past", "past"),
    [
        (1, 2),  # fewer at first
        (3, 2),  # more at first
        (1, 3),  # more than a clip has
        (1, 4),  # more than there are after the first clip
    ],
)
def test_other_numbers_of_past_frames(generator, given, first_past, past):
    """The carry's past grows or shrinks to `past_frames`: the latest frames, the portrait first."""
    sampler = dataclasses.replace(SAMPLER, first_past_frames=first_past, past_frames=past)
    image, face, inputs = first(given)

    def call(generator):
        portrait = sampling.prepare_portrait(generator, sampler, image, face)
        carry = sampling.first_carry(generator, sampler, portrait, image)
        assert carry.past.shape[1] == first_past
        return sampling.rollout(generator, sampler, portrait, KEY, carry, inputs)

    carry, frames = jax.eval_shape(call, generator)
    assert frames.shape == (CLIPS, 1, FRAMES, PIXELS, PIXELS, 3)
    assert carry.past.shape == (1, past, PIXELS, PIXELS, 3)


def test_a_first_clip_with_another_past(generator, given, compiled):
    """One portrait at first, then three frames: of the portrait, and of the clip of two."""
    sampler = dataclasses.replace(SAMPLER, first_past_frames=1, past_frames=3)
    image, face, inputs = first(given)
    inputs = jax.tree.map(lambda leaf: leaf[:2], inputs)

    def call(generator, image, face, inputs):
        portrait = sampling.prepare_portrait(generator, sampler, image, face)
        carry = sampling.first_carry(generator, sampler, portrait, image)
        return sampling.rollout(generator, sampler, portrait, KEY, carry, inputs)

    carry, frames = compiled(generator, call)(image, face, inputs)
    assert np.array_equal(carry.past, np.concatenate([frames[0, :, 1:], frames[1]], axis=1))


def test_the_first_carry_is_the_portrait_and_no_memory(start, given):
    image, face, _ = first(given)
    _, carry = start(image, face)
    assert relative_error(carry.past, np.repeat(image[:, None] / 2 + 0.5, 2, axis=1)) <= 1e-6
    leaves = jax.tree.leaves(carry.memory)
    assert leaves and not any(leaf.any() for leaf in leaves)
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    assert int(carry.clip) == 0
