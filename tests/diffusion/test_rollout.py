"""Rollouts: where they are cut, stopped or batched changes no frame.

First the clips' order of things alone, the networks replaced by one line each; then the smallest
random model that has every part.
"""

import dataclasses
import itertools
import math
from types import SimpleNamespace

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
from memo_jax.diffusion.rollout import Carry, ClipCondition, ClipInputs, Generator, Portrait
from memo_jax.models.motion import LayerMemory, MotionMemory

CLIPS, FRAMES, PIXELS = 4, 2, 8
KEY = jax.random.key(7)
SAMPLER = SamplerConfig(
    image_size=PIXELS, clip_frames=FRAMES, past_frames=2, first_past_frames=2, steps=2
)


def given(rows=slice(0, 1), clips=CLIPS, side=PIXELS // 2):
    """(image, face, inputs) of the chosen of two samples; `side` is that of the noise."""
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, PIXELS, PIXELS, 3)).astype(np.float32)
    face = rng.normal(size=(2, 6)).astype(np.float32)
    audio = rng.normal(size=(CLIPS, 2, FRAMES, 3, 2, 4)).astype(np.float32)
    emotion = rng.integers(0, 9, (CLIPS, 2)).astype(np.int32)
    noise = rng.normal(size=(CLIPS, 2, FRAMES, side, side, 4)).astype(np.float32)
    inputs = ClipInputs(*(values[:clips, rows] for values in (audio, emotion, noise)))
    return image[rows], face[rows], inputs


def in_chunks(roll, portrait, carry, inputs, size, key=KEY, stop=lambda carry: carry):
    """(carry, frames) of all clips, `size` at a time; between chunks the carry goes through
    `stop`."""
    frames = []
    for at in range(0, len(inputs.emotion), size):
        chunk = jax.tree.map(lambda leaf, at=at: leaf[at : at + size], inputs)
        carry, made = roll(portrait, key, stop(carry), chunk)
        frames.append(np.asarray(made))
    return carry, np.concatenate(frames)


def assert_same(got, want, bound):
    """(carry, frames) within `bound` of their largest values; 0 means to the bit."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype and relative_error(a, np.asarray(b)) <= bound


@pytest.fixture
def through_a_file(tmp_path):
    """`through_a_file(carry)`: the carry saved, forgotten and loaded."""

    def through_a_file(carry):
        leaves, structure = jax.tree.flatten(carry)
        np.savez(tmp_path / "carry.npz", *leaves)
        stored = np.load(tmp_path / "carry.npz")
        return jax.tree.unflatten(structure, [stored[name] for name in stored.files])

    return through_a_file


@pytest.fixture
def sketch(monkeypatch):
    """`sketch(sampler)`: (roll, portrait, carry, inputs) with networks of one line each, in which
    frames still depend on noise, audio, emotion, memory, and memory on the past."""

    def condition(generator, portrait, past, memory, sampler):
        if memory is None:
            memory = MotionMemory(
                {"layer": LayerMemory(jnp.zeros((1, 1, 1)), jnp.zeros((1, 1, 1)))}
            )
        seen = jnp.mean(past * jnp.arange(1.0, past.shape[1] + 1)[None, :, None, None, None])
        return ClipCondition(None, jax.tree.map(lambda leaf: 0.5 * leaf + seen, memory))

    def denoise(generator, sampler, condition, audio, emotion, noise):
        heard = jnp.mean(audio, axis=(2, 3, 4))[:, :, None, None, None]
        return (
            noise
            + heard
            + 0.1 * emotion.astype(jnp.float32)[:, None, None, None, None]
            + (condition.memory.layers["layer"].kv[0, 0, 0])
        )

    monkeypatch.setattr(sampling, "condition", condition)
    monkeypatch.setattr(sampling, "denoise", denoise)
    monkeypatch.setattr(sampling, "decode", lambda vae, x, **_: jax.nn.sigmoid(x[..., :3]))

    def sketch(sampler=SAMPLER):
        image, _, inputs = given(side=PIXELS)
        portrait = Portrait(jnp.zeros((1, PIXELS, PIXELS, 4)), jnp.zeros((1, 1, 1)))
        generator = SimpleNamespace(vae=None)
        roll = jax.jit(
            lambda *args: sampling.rollout(generator, sampler, *args),
            compiler_options={"xla_backend_optimization_level": 0},
        )
        return roll, portrait, sampling.first_carry(generator, sampler, portrait, image), inputs

    return sketch


SLOW = dataclasses.replace(SAMPLER, noise_span=3)


def drawing(inputs):
    """The inputs without noise, so that it is drawn."""
    return dataclasses.replace(inputs, noise=None)


@pytest.mark.parametrize("sampler", [SAMPLER, SLOW])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_chunks_of_any_size(sketch, size, sampler):
    *parts, inputs = sketch(sampler)
    for given in (inputs, drawing(inputs)):
        assert_same(in_chunks(*parts, given, size), in_chunks(*parts, given, 1), 1e-6)


@pytest.mark.parametrize("sampler", [SAMPLER, SLOW])
@pytest.mark.parametrize("size", [1, 2])
def test_a_stopped_rollout_goes_on_to_the_bit(sketch, through_a_file, size, sampler):
    *parts, inputs = sketch(sampler)
    for given in (inputs, drawing(inputs)):
        stopped = in_chunks(*parts, given, size, stop=through_a_file)
        assert_same(stopped, in_chunks(*parts, given, size), 0)


def test_a_clips_noise_follows_from_the_key_and_its_number(sketch):
    roll, portrait, carry, inputs = sketch()
    drawn = in_chunks(roll, portrait, carry, drawing(inputs), 2)
    noise = [jax.random.normal(jax.random.fold_in(KEY, i), (1, 2, 8, 8, 4)) for i in range(CLIPS)]
    noisy = dataclasses.replace(inputs, noise=np.stack(noise))
    assert_same(in_chunks(roll, portrait, carry, noisy, 2), drawn, 1e-6)


@pytest.mark.parametrize("span", [1, 2, 3, 8])
def test_clips_with_slow_noise_are_each_as_normal_and_go_on(span):
    """Of 20,000 draws of a pixel over 4 frames: bounds are five standard errors, 0.036."""
    draws, frames, bound = 20000, 4, 5 / math.sqrt(20000)
    sampler = dataclasses.replace(SAMPLER, noise_span=span)

    def drawn(clip):
        noise = sampling.clip_noise(sampler, KEY, jnp.int32(clip), (draws, frames, 1, 1, 1))
        return np.asarray(noise)[..., 0, 0, 0].T

    clips = [drawn(number) for number in range(2 * span + 2)]
    for clip in clips:
        assert np.abs(clip.mean(1)).max() < bound
        np.testing.assert_allclose(np.cov(clip), np.eye(frames), atol=math.sqrt(2) * bound)
    alike = math.cos(math.pi / 2 / span)
    for one, other in itertools.pairwise(clips):
        between = np.cov(one, other)[:frames, frames:]
        # The last frame with the next clip's first, the one before with the one after, and so on.
        np.testing.assert_allclose(between, alike * np.eye(frames)[::-1], atol=bound)
    assert np.abs(np.cov(clips[0], clips[2 * span])[:frames, frames:]).max() < bound


def test_noise_that_is_given_is_taken_as_it_is(sketch):
    assert_same(in_chunks(*sketch(SLOW), 2), in_chunks(*sketch(), 2), 0)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(
    ("first_past", "past"),
    [
        (1, 2),  # fewer at first
        (3, 2),  # more at first
        (1, 3),  # more than a clip has
        (1, 5),  # more than there are after the first clip, and after the second
    ],
)
def test_other_numbers_of_past_frames(sketch, first_past, past, size):
    """The past is the portrait's repetitions and all frames since, of which the last `past`."""
    sampler = dataclasses.replace(SAMPLER, first_past_frames=first_past, past_frames=past)
    roll, portrait, carry, inputs = sketch(sampler)
    before = np.asarray(carry.past)
    assert before.shape[1] == first_past
    carry, frames = in_chunks(roll, portrait, carry, inputs, size)
    assert frames.shape == (CLIPS, 1, FRAMES, PIXELS, PIXELS, 3)
    everything = np.concatenate([before, *frames], axis=1)
    assert np.array_equal(carry.past, everything[:, -past:])


def test_a_portrait_in_minus_one_to_one_is_a_past_in_zero_to_one(sketch):
    _, _, carry, _ = sketch()
    image, _, _ = given()
    assert relative_error(carry.past, np.repeat(image[:, None] / 2 + 0.5, 2, axis=1)) <= 1e-6


def test_clips_stack():
    _, _, inputs = given()
    clips = [jax.tree.map(lambda leaf, i=i: leaf[i], inputs) for i in range(CLIPS)]
    assert_same(ClipInputs.stack(clips), inputs, 0)


@pytest.fixture(scope="module")
def generator():
    """One resolution, 32 channels, one layer."""
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
def start(generator, compiled):
    """`start(image, face)`: the portrait, and the carry before the first clip."""

    def call(generator, image, face):
        portrait = sampling.prepare_portrait(generator, SAMPLER, image, face)
        return portrait, sampling.first_carry(generator, SAMPLER, portrait, image)

    return compiled(generator, call)


@pytest.fixture(scope="module")
def roll(generator, compiled):
    """`roll(portrait, key, carry, inputs)`: (carry, frames)."""
    return compiled(generator, lambda generator, *args: sampling.rollout(generator, SAMPLER, *args))


@pytest.fixture(scope="module")
def one_by_one(start, roll):
    image, face, inputs = given()
    return in_chunks(roll, *start(image, face), inputs, 1)


def test_the_networks_in_one_scan(start, roll, one_by_one):
    """Programs of different lengths may be fused differently, hence no bits."""
    image, face, inputs = given()
    assert_same(in_chunks(roll, *start(image, face), inputs, CLIPS), one_by_one, 1e-5)


def test_the_networks_stopped(start, roll, one_by_one, through_a_file):
    image, face, inputs = given()
    portrait, carry = start(image, face)
    stopped = in_chunks(roll, portrait, carry, inputs, 1, stop=through_a_file)
    assert_same(stopped, one_by_one, 0)


def test_frames_are_frames(one_by_one):
    carry, frames = one_by_one
    assert isinstance(carry, Carry) and int(carry.clip) == CLIPS
    assert frames.shape == (CLIPS, 1, FRAMES, PIXELS, PIXELS, 3) and frames.dtype == np.float32
    assert frames.min() >= 0 and frames.max() <= 1 and frames.std() > 0.01
    assert np.array_equal(carry.past, frames[-1])
    assert all(leaf.dtype == jnp.float32 and leaf.any() for leaf in jax.tree.leaves(carry.memory))


def test_everything_given_reaches_the_frames(start, roll, one_by_one):
    image, face, inputs = given(clips=1)
    portrait, carry = start(image, face)
    assert not any(leaf.any() for leaf in jax.tree.leaves(carry.memory))
    remembered = jax.tree.map(lambda leaf: leaf + 1, carry.memory)
    lively = dataclasses.replace(inputs, emotion=(inputs.emotion + 1) % 9)
    loud = dataclasses.replace(inputs, audio=inputs.audio + 1)
    noisy = dataclasses.replace(inputs, noise=-inputs.noise)
    for name, args in {
        "memory": (portrait, KEY, dataclasses.replace(carry, memory=remembered), inputs),
        "past": (portrait, KEY, dataclasses.replace(carry, past=1 - carry.past), inputs),
        "portrait": (start(-image, face)[0], KEY, carry, inputs),
        "face": (start(image, face + 1)[0], KEY, carry, inputs),
        "audio": (portrait, KEY, carry, loud),
        "emotion": (portrait, KEY, carry, lively),
        "noise": (portrait, KEY, carry, noisy),
    }.items():
        frames = roll(*args)[1]
        assert relative_error(frames, one_by_one[1][:1]) > 1e-4, name


def test_two_samples_are_two_times_one(start, roll):
    """With every switch of rows at "own" no sample sees another."""
    image, face, inputs = given(slice(0, 2))
    _, both = in_chunks(roll, *start(image, face), inputs, 1)
    for i in range(2):
        row = slice(i, i + 1)
        image, face, inputs = given(row)
        _, alone = in_chunks(roll, *start(image, face), inputs, 1)
        assert relative_error(alone, both[:, row]) <= 1e-5
    assert relative_error(both[:, 0], both[:, 1]) > 1e-2


@pytest.mark.parametrize("memory", ["long", "past", "none"])
def test_what_is_remembered(generator, start, compiled, memory):
    """Frames of a clip after other memories, and after other past frames."""
    sampler = dataclasses.replace(SAMPLER, memory=memory)
    roll = compiled(generator, lambda generator, *args: sampling.rollout(generator, sampler, *args))
    image, face, inputs = given(clips=1)
    portrait, carry = start(image, face)
    after, frames = roll(portrait, KEY, carry, inputs)
    fuller = carry.replace(memory=jax.tree.map(lambda leaf: leaf + 1, carry.memory))
    other = carry.replace(past=1 - carry.past)
    _, of_fuller = roll(portrait, KEY, fuller, inputs)
    _, of_other = roll(portrait, KEY, other, inputs)
    assert np.array_equal(of_fuller, frames) == (memory == "past")
    assert np.array_equal(of_other, frames) == (memory == "none")
    kept = [np.array_equal(leaf, 0 * leaf) for leaf in jax.tree.leaves(after.memory)]
    assert all(kept) == (memory == "none")
