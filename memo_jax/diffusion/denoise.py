"""From noise to a clip's latents: the sampler's steps, each with the branches that it evaluates."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from memo_jax.config import SamplerConfig
from memo_jax.diffusion import guidance as cfg
from memo_jax.diffusion.euler import euler, euler_of_kinds
from memo_jax.diffusion.flow import sampling_sigmas
from memo_jax.diffusion.generator import Generator
from memo_jax.diffusion.schedule import Kind, kinds
from memo_jax.models import exchange
from memo_jax.models.diffusion_net import CachedFeatures, DeepFeatures, DiffusionNet
from memo_jax.models.motion import MotionMemory
from memo_jax.models.pieces import Part

_NULL, _CONDITION = Part(0, 2), Part(1, 2)


@struct.dataclass
class ClipCondition:
    """All that no denoising step changes."""

    features: CachedFeatures
    memory: MotionMemory


def denoise(
    generator: Generator,
    sampler: SamplerConfig,
    clip_condition: ClipCondition,
    audio: Float[Array, "b f window layers d"],
    emotion: Int[Array, " b"],
    noise: Float[Array, "b f h w z"],
) -> Float[Array, "b f h w z"]:
    """Clean latents of one clip (times the VAE's scaling factor)."""
    net = generator.diffusion_net
    tokens = generator.audio_proj(audio)
    use_reference: Any = None
    if cfg.guided(sampler.guidance):
        if sampler.null_audio == "zeros":
            silent = jnp.zeros_like(tokens)
        else:
            silent = generator.audio_proj(jnp.zeros_like(audio))
        tokens = cfg.both_branches(silent, tokens)
        emotion = cfg.both_branches(jnp.full_like(emotion, net.config.null_emotion), emotion)
        use_reference = cfg.attends_to_reference(noise.shape[0])
        given = tokens, emotion, use_reference
        tokens, emotion, use_reference = (exchange.own_branch(x) for x in given)
    low = sampler.device_memory == "low"
    branches = _Branches(
        net, clip_condition, tokens, emotion, use_reference, sampler.guidance, in_turn=low
    )
    steps, sigmas = kinds(sampler), sampling_sigmas(sampler.steps)
    different = sorted(set(steps))
    reuses = not all(kind.whole for kind in steps)
    if len(different) == 1 and not reuses:
        only = different[0]
        return euler(lambda x, t: branches.velocity(only, x, t, ())[0], noise, sigmas)
    return euler_of_kinds(
        [functools.partial(branches.velocity, kind) for kind in different],
        np.array([different.index(kind) for kind in steps], np.int32),
        noise,
        branches.nothing_deep(noise) if reuses else (),
        sigmas,
    )


# Of each branch, in the order they run; empty where no step reuses any.
Deep = tuple[DeepFeatures, ...]


@dataclass(frozen=True)
class _Branches:
    """What the Diffusion Net is given at every step, of both branches of guidance; or of one, where
    there is no other or another device has it.

    `in_turn`: one branch after the other, so that only one's activations exist at once.
    """

    net: DiffusionNet
    given: ClipCondition
    audio: Float[Array, "branches f m c"]
    emotion: Int[Array, " branches"]
    use_reference: Bool[np.ndarray, " branches"] | Bool[Array, " branches"] | None
    guidance: float
    in_turn: bool

    def velocity(self, kind: Kind, x: Array, timesteps: Array, deep: Deep) -> tuple[Array, Deep]:
        """The velocity of a step of this kind, and the deep features that the next may use."""
        reuse: tuple[DeepFeatures | None, ...] = (None, None) if kind.whole else deep
        if self.use_reference is None:
            v, own = self._evaluate(None, x, timesteps, reuse[0])
            return v, (own,) if deep else ()
        if exchange.branches_apart():
            mine, own = self._evaluate(None, x, timesteps, reuse[0])
            all_v = exchange.all_branches(mine)
            v = cfg.combine(all_v, self.guidance) if kind.guided else _CONDITION.rows(all_v)
            return v, (own,) if deep else ()
        if not kind.guided:
            v, own = self._evaluate(_CONDITION, x, timesteps, reuse[1])
            return v, (deep[0], own) if deep else ()
        if self.in_turn:
            return self._both_in_turn(x, timesteps, reuse, bool(deep))
        both = None if kind.whole else jax.tree.map(cfg.both_branches, *deep)
        x, timesteps = jnp.concatenate([x, x]), jnp.concatenate([timesteps, timesteps])
        v, both = self._evaluate(None, x, timesteps, both)
        v = cfg.combine(v, self.guidance)
        if not deep:
            return v, ()
        return v, (jax.tree.map(_NULL.rows, both), jax.tree.map(_CONDITION.rows, both))

    def _both_in_turn(
        self, x: Array, timesteps: Array, reuse: tuple[DeepFeatures | None, ...], keep: bool
    ) -> tuple[Array, Deep]:
        """A loop of two rounds: what one needs is gone before the other begins."""

        def branch(part: Part) -> tuple[Array, Any]:
            v, own = self._evaluate(part, x, timesteps, reuse[part.index])
            return v, own if keep else ()

        calls = [functools.partial(branch, part) for part in (_NULL, _CONDITION)]
        _, (v, own) = jax.lax.scan(
            lambda _, i: (None, jax.lax.switch(i, calls)), None, np.arange(2)
        )
        deep = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], own) for i in (0, 1)) if keep else ()
        return cfg.guide(v[0], v[1], self.guidance), deep

    def nothing_deep(self, noise: Float[Array, "b f h w z"]) -> Deep:
        """Deep features before the first step, which uses none: zeros."""
        alone = self.use_reference is None or exchange.branches_apart()
        part = None if alone else _CONDITION

        def first(x: Array) -> Any:
            return self._evaluate(part, x, jnp.zeros(x.shape[0]), None)[1]

        shapes = jax.eval_shape(first, noise.astype(jnp.float32))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return (zeros,) if part is None else (zeros, zeros)

    def _evaluate(
        self, part: Part | None, x: Array, timesteps: Array, deep: DeepFeatures | None
    ) -> tuple[Array, Any]:
        """All branches, or a part of them; deep features None evaluates all levels."""
        features, memory = self.given.features, self.given.memory
        audio, emotion, use_reference = self.audio, self.emotion, self.use_reference
        if part is not None:
            audio, emotion = part.rows(audio), part.rows(emotion)
            assert isinstance(use_reference, np.ndarray)  # there are parts where there is guidance
            use_reference = part.rows(use_reference)
            use_reference = None if use_reference.all() else use_reference
        return self.net.evaluate(
            x,
            timesteps,
            features,
            None,
            audio,
            emotion,
            memory,
            use_reference,
            deep=deep,
            part=part,
        )
