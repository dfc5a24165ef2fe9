"""Clip after clip: a clip is a pure function, memory is its carry.

condition(portrait, past, face)   -> ClipCondition    once per clip
denoise(ClipCondition, audio, ...) -> latents         scan over Euler steps
decode(latents)                    -> frames
rollout = scan over clips of the three

Within `exchange.spread_over` they are one device's of several: the sound, the past frames and the
portrait are whole on each, the memory and what lies between are each device's own.
"""

from typing import Self

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from memo_jax.config import SamplerConfig
from memo_jax.diffusion import guidance as cfg
from memo_jax.diffusion.denoise import ClipCondition, denoise
from memo_jax.diffusion.generator import Generator
from memo_jax.models import exchange
from memo_jax.models.motion import MotionMemory
from memo_jax.models.platform import platform
from memo_jax.models.reference_net import ReferenceFeatures, ReferenceNet
from memo_jax.models.vae import VAE

# With nothing approximated and nothing saved: what stands where no sampler is given.
_EXACT = SamplerConfig()


@struct.dataclass
class Portrait:
    """What stays the same for a whole video: the portrait's latents and its face tokens, those of
    the null face first where there is guidance."""

    latents: Float[Array, "b h w z"]
    face_tokens: Float[Array, "branches t c"]


@struct.dataclass
class Carry:
    """What one clip leaves to the next: save it, and a rollout goes on as if never stopped.

    `past` are the frames the next clip remembers, in [0, 1], or with the sampler's `latent_carry`
    their latents; `clip` counts clips since the start. The memory is in rows on a TPU, and
    rounded ones where the sampler's `device_memory` is "low".
    """

    memory: MotionMemory
    past: Float[Array, "b p H W 3"] | Float[Array, "b p h w z"]
    clip: Int[Array, ""]


@struct.dataclass
class ClipInputs:
    """What one clip (or with a leading axis, several) is made from.

    `audio` are windows of hidden states; `noise` stands for drawn noise where not None.
    """

    audio: Float[Array, "*clips b f window layers d"]
    emotion: Int[Array, "*clips b"]
    noise: Float[Array, "*clips b f h w z"] | None = None

    @classmethod
    def stack(cls, clips: list[Self]) -> Self:
        """Several clips with a leading axis."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *clips)


def prepare_portrait(
    generator: Generator,
    sampler: SamplerConfig,
    image: Float[Array, "b H W 3"],
    face: Float[Array, "b e"],
) -> Portrait:
    """The portrait's part of every clip. `image` in [-1, 1]; `face` is its embedding, zeros where
    no face is known."""
    tokens = generator.image_proj(face)
    if cfg.guided(sampler.guidance):
        tokens = cfg.both_branches(generator.image_proj(jnp.zeros_like(face)), tokens)
    return Portrait(_encode(generator.vae, image[:, None])[:, 0], tokens)


def first_carry(
    generator: Generator,
    sampler: SamplerConfig,
    portrait: Portrait,
    image: Float[Array, "b H W 3"],
) -> Carry:
    """The carry before the first clip: the portrait stands in for the past, memory is empty."""
    # The same for both kinds of past: the portrait's latents are those of this picture.
    first = portrait.latents if sampler.latent_carry else image / 2 + 0.5
    past = repeat(first, "b h w c -> b p h w c", p=sampler.first_past_frames)

    def made() -> MotionMemory:
        memory = condition(generator, portrait, past, None, sampler).memory
        dtype = _rows_dtype(sampler)
        if dtype is None:
            return memory
        return memory.rows(generator.diffusion_net.config.motion.num_heads, dtype)

    shapes = jax.eval_shape(made)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return Carry(memory=empty, past=past, clip=jnp.zeros((), jnp.int32))


def condition(
    generator: Generator,
    portrait: Portrait,
    past: Float[Array, "b p H W 3"] | Float[Array, "b p h w z"],
    memory: MotionMemory | None,
    sampler: SamplerConfig = _EXACT,
) -> ClipCondition:
    """One clip's condition from the past frames in [0, 1], or their latents where the sampler
    carries those: the Reference Net runs here, once. The memory is kept as it was given."""
    net, low = generator.diffusion_net, sampler.device_memory == "low"
    past_latents = exchange.own_frames(past)
    if not sampler.latent_carry:
        past_latents = _encode(generator.vae, 2 * past_latents - 1, one_by_one=low)
    latents = jnp.concatenate([portrait.latents[:, None], past_latents], axis=1)
    # By the numbers that pictures have among all: some models tell faces by them.
    faces = generator.reference_net.each_image(portrait.face_tokens, 1 + past.shape[1])
    faces = jnp.concatenate([faces[:, :1], exchange.own_frames(faces[:, 1:])], axis=1)
    faces = exchange.own_branch(faces)
    latents = jnp.concatenate([latents] * (faces.shape[0] // latents.shape[0]))
    if low:
        features = _features_one_by_one(generator.reference_net, latents, faces)
    else:
        features = generator.reference_net(latents, faces)
    return ClipCondition(
        features=net.cache(
            _portraits(features, of_all=net.config.reference_rows == "mixed"),
            exchange.own_branch(portrait.face_tokens),
        ),
        memory=net.remember(features, memory),
    )


def decode(
    vae: VAE, latents: Float[Array, "b f h w z"], *, one_by_one: bool = False
) -> Float[Array, "b f H W 3"]:
    """Frames in [0, 1]."""
    latents = latents / vae.config.scaling_factor
    images = _frame_by_frame(vae.decode, latents, one_by_one=one_by_one)
    return jnp.clip(images / 2 + 0.5, 0.0, 1.0)


def clip(
    generator: Generator,
    sampler: SamplerConfig,
    portrait: Portrait,
    key: PRNGKeyArray,
    carry: Carry,
    inputs: ClipInputs,
) -> tuple[Carry, Float[Array, "b f H W 3"]]:
    """One clip: ((memory, past), inputs) -> ((memory', past'), frames)."""
    before: MotionMemory | None = carry.memory
    if sampler.memory == "past":  # zeros are the same, and say what it is kept in
        in_rows = _rows_dtype(sampler) is not None
        before = jax.tree.map(jnp.zeros_like, before) if in_rows else None
    clip_condition = condition(generator, portrait, carry.past, before, sampler)
    if sampler.memory == "none":
        # Empty, and stays so.
        clip_condition = ClipCondition(clip_condition.features, carry.memory)
    noise = inputs.noise
    if noise is None:
        b, f = inputs.audio.shape[:2]
        noise = clip_noise(sampler, key, carry.clip, (b, f, *portrait.latents.shape[1:]))
    audio, noise = exchange.own_frames(inputs.audio), exchange.own_frames(noise)
    latents = denoise(generator, sampler, clip_condition, audio, inputs.emotion, noise)
    frames = decode(generator.vae, latents, one_by_one=sampler.device_memory == "low")
    frames = exchange.all_frames(frames)
    made = exchange.all_frames(latents) if sampler.latent_carry else frames
    seen = jnp.concatenate([carry.past, made], axis=1)
    after = Carry(clip_condition.memory, seen[:, -sampler.past_frames :], carry.clip + 1)
    return after, frames


def clip_noise(
    sampler: SamplerConfig, key: PRNGKeyArray, clip: Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "b f h w z"]:
    """A clip's noise, a function of `key` and the clip's number alone.

    With a `noise_span` above 1 it turns from one draw into the next over so many clips, on the
    quarter circle that keeps its variance, and every other clip has it from its last frame to its
    first: a clip begins with nearly the noise that the one before ended with. Each clip's noise
    by itself is normal and independent from frame to frame, whatever the span.
    """
    span = sampler.noise_span

    def draw(number: Int[Array, ""]) -> Float[Array, "b f h w z"]:
        return jax.random.normal(jax.random.fold_in(key, number), shape, jnp.float32)

    if span == 1:
        return draw(clip)
    angle = (clip % span).astype(jnp.float32) * (jnp.pi / 2 / span)
    noise = jnp.cos(angle) * draw(clip // span) + jnp.sin(angle) * draw(clip // span + 1)
    return jnp.where(clip % 2 == 0, noise, noise[:, ::-1])


def rollout(
    generator: Generator,
    sampler: SamplerConfig,
    portrait: Portrait,
    key: PRNGKeyArray,
    carry: Carry,
    inputs: ClipInputs,
) -> tuple[Carry, Float[Array, "clips b f H W 3"]]:
    """Clips in a row, as one scan over `inputs`' leading axis.

    The noise of a clip depends on `key` and the clip's number alone, so that neither the chunks a
    video is made in nor a stop in between changes a frame.
    """

    def step(carry: Carry, inputs: ClipInputs) -> tuple[Carry, Array]:
        return clip(generator, sampler, portrait, key, carry, inputs)

    # First clips with other numbers of past frames cannot share the scan's carry.
    firsts = []
    while len(inputs.emotion) and carry.past.shape[1] != sampler.past_frames:
        carry, frames = step(carry, jax.tree.map(lambda leaf: leaf[0], inputs))
        inputs = jax.tree.map(lambda leaf: leaf[1:], inputs)
        firsts.append(frames[None])
    if not len(inputs.emotion):
        return carry, jnp.concatenate(firsts)
    carry, rest = jax.lax.scan(step, carry, inputs)
    return carry, jnp.concatenate([*firsts, rest]) if firsts else rest


def _rows_dtype(sampler: SamplerConfig) -> jnp.dtype | None:
    """What the memory is kept in from clip to clip, where it is in rows (`MemoryRows`)."""
    if sampler.device_memory == "low":
        return jnp.dtype(jnp.bfloat16)
    return jnp.dtype(jnp.float32) if platform() == "tpu" else None


def _features_one_by_one(
    net: ReferenceNet, latents: Float[Array, "b n h w z"], faces: Float[Array, "b n t c"]
) -> ReferenceFeatures:
    """The Reference Net's features, one picture after the other."""
    b = latents.shape[0]
    faces = rearrange(faces, "b n t c -> (b n) t c")
    pictures = rearrange(latents, "b n h w z -> (b n) h w z")
    entries = jax.lax.map(
        lambda one: net(one[0][None, None], one[1][None, None]).entries, (pictures, faces)
    )
    return ReferenceFeatures(
        {k: rearrange(leaf, "(b n) 1 1 s c -> b n s c", b=b) for k, leaf in entries.items()}
    )


def _portraits(features: ReferenceFeatures, *, of_all: bool) -> ReferenceFeatures:
    """What spatial attention sees of them; where a branch's frames see the other's portrait,
    too, `of_all` branches."""
    entries = {name: leaf[:, :1] for name, leaf in features.entries.items() if "tokens" in name}
    if of_all:
        entries = {name: exchange.all_branches(leaf) for name, leaf in entries.items()}
    return ReferenceFeatures(entries)


def _encode(
    vae: VAE, frames: Float[Array, "b p H W 3"], *, one_by_one: bool = False
) -> Float[Array, "b p h w z"]:
    """Scaled latents (the posterior's mean) of frames in [-1, 1]."""
    latents = _frame_by_frame(lambda x: vae.encode(x)[0], frames, one_by_one=one_by_one)
    return latents * vae.config.scaling_factor


def _frame_by_frame(
    f, frames: Float[Array, "b n ..."], *, one_by_one: bool = False
) -> Float[Array, "b n ..."]:
    """`f` over images in slices, so that the autoencoder's activations of a whole clip never
    exist at once; small images go all together, unless `one_by_one`."""
    return exchange.between_branches(lambda own: _in_slices(f, own, one_by_one=one_by_one), frames)


def _in_slices(f, frames: Float[Array, "b n ..."], *, one_by_one: bool) -> Float[Array, "b n ..."]:
    b = frames.shape[0]
    images = rearrange(frames, "b n h w c -> (b n) h w c")
    pixels = images.shape[1] * images.shape[2] * (1 if images.shape[-1] == 3 else 64)
    at_once = 1 if one_by_one else max(1, _SLICE_PIXELS // pixels)
    if at_once >= len(images):
        out = f(images)
    else:
        out = jax.lax.map(lambda image: f(image[None])[0], images, batch_size=at_once)
    return rearrange(out, "(b n) h w c -> b n h w c", b=b)


def pictures_at_once(sampler: SamplerConfig) -> int:
    """How many pictures the autoencoder works on at once, where there are so many."""
    low = sampler.device_memory == "low"
    return 1 if low else max(1, _SLICE_PIXELS // sampler.image_size**2)


# Pixels the autoencoder works on at once: two frames of 512 x 512.
_SLICE_PIXELS = 2 * 512 * 512
