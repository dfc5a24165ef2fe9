"""Motion modules: linear attention over frames, guided by a memory of the past; or AnimateDiff's,
softmax attention over the clip alone (`MotionConfig.attention`).

The memory is an argument and a result, never an attribute: `remember` makes it from the past
frames' features once per clip, `__call__` reads it at every denoising step (arXiv:2412.04448,
eq. 2-4; `MotionConfig` names where the release departs).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx, struct
from jaxtyping import Array, Float

from memo_jax.config import MotionConfig
from memo_jax.models import exchange, pieces
from memo_jax.models.attention import attend
from memo_jax.models.layers import (
    FeedForward,
    group_norm,
    layer_norm,
    linear,
    normed,
    normed_frames,
)
from memo_jax.models.pieces import Part
from memo_jax.models.spatial import merge_heads, split_heads
from memo_jax.models.types import Dtype, Rngs

_GROUPS = 32
_MIN_NORMALISER = 1e-10


@struct.dataclass
class LayerMemory:
    """What one motion attention remembers: sums over past frames, faded by their age; float32.

    Rows are n = ((b * h + y) * w + x) * heads + head.
    """

    kv: Float[Array, "n d d"]
    z: Float[Array, "n 1 d"]

    def rows(self, heads: int, dtype: Dtype) -> "MemoryRows":
        """As it is kept where room is short."""
        kv = rearrange(self.kv, "(n heads) d e -> n (heads d e)", heads=heads)
        z = rearrange(self.z, "(n heads) 1 d -> n (heads d)", heads=heads)
        return MemoryRows(kv.astype(dtype), z.astype(dtype))


@struct.dataclass
class MemoryRows:
    """A layer's memory as it is kept where room is short, float32 or rounded to bfloat16; a piece
    at a time is worked on as a `LayerMemory` (`pieces`).

    A row, n = (b * h + y) * w + x, has what all heads remember at a position: a TPU fills up the
    last two axes of its arrays to tiles, which would make three of a head's 40 x 40.
    """

    kv: Float[Array, "n hdd"]
    z: Float[Array, "n hd"]

    def layer(self, heads: int) -> LayerMemory:
        """The same numbers, as they are worked on."""
        z = rearrange(self.z, "n (heads d) -> (n heads) 1 d", heads=heads)
        d = z.shape[-1]
        kv = rearrange(self.kv, "n (heads d e) -> (n heads) d e", heads=heads, d=d)
        return LayerMemory(kv.astype(jnp.float32), z.astype(jnp.float32))


@struct.dataclass
class MotionMemory:
    """The memory of all motion attentions, by manifest path. Zeros and None are the same past:
    none. Softmax attention keeps no memory and has no entry."""

    layers: dict[str, LayerMemory | MemoryRows]

    def rows(self, heads: int, dtype: Dtype) -> "MotionMemory":
        """All layers as they are kept where room is short."""
        return MotionMemory(
            {
                name: layer.rows(heads, dtype) if isinstance(layer, LayerMemory) else layer
                for name, layer in self.layers.items()
            }
        )


class MotionAttention(nnx.Module):
    """Attention over frames at each position (manifest: `attention_blocks.*`)."""

    def __init__(self, width: int, config: MotionConfig, *, dtype: Dtype, rngs: Rngs):
        self.config = config
        self.to_q = linear(width, width, bias=False, dtype=dtype, rngs=rngs)
        self.to_k = linear(width, width, bias=False, dtype=dtype, rngs=rngs)
        self.to_v = linear(width, width, bias=False, dtype=dtype, rngs=rngs)
        self.to_out = linear(width, width, dtype=dtype, rngs=rngs)
        if config.position_code:
            self.pos_encoder = PositionCode(width, config.max_frames)

    def remember(self, past: Float[Array, "b p s c"], memory: LayerMemory | None) -> LayerMemory:
        """The memory of linear attention after the normalised past frames, oldest first. Carries
        no gradient."""
        g, released = self.config.decay, self.config.memory_decay == "released"
        frames = past.shape[1]
        k = self._keys(self.to_k(past))
        v = self._fold(self.to_v(past)).astype(jnp.float32)
        fade = jnp.asarray(g ** np.arange(frames - 1, -1, -1, dtype=np.float32))[None, :, None]
        faded = k * fade
        kv = jnp.einsum("npd,npe->nde", faded, v * fade if released else v)
        z = jnp.sum(faded, axis=1, keepdims=True)
        if memory is not None:
            kv, z = g**frames * memory.kv + kv, g**frames * memory.z + z
        return jax.lax.stop_gradient(LayerMemory(kv, z))

    def __call__(
        self, x: Float[Array, "b f s c"], memory: LayerMemory | None
    ) -> Float[Array, "b f s c"]:
        """Attention of the current, normalised frames to themselves and to the memory."""
        if self.config.position_code:
            x = x + self.pos_encoder(x.shape[1])[None, :, None].astype(x.dtype)
        if self.config.attention == "softmax":
            return self.to_out(self._softmax(x))
        return self.to_out(self._linear(x, memory))

    def _softmax(self, x: Float[Array, "b f s c"]) -> Float[Array, "b f s c"]:
        positions = rearrange(x, "b f s c -> (b s) f c")
        q, k, v = (
            split_heads(project(positions), self.config.num_heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        return rearrange(merge_heads(attend(q, k, v)), "(b s) f c -> b f s c", s=x.shape[2])

    def _linear(
        self, x: Float[Array, "b f s c"], memory: LayerMemory | None
    ) -> Float[Array, "b f s c"]:
        b, f, s, c = x.shape
        heads = self.config.num_heads
        d = c // heads
        q = jax.nn.softmax(self._fold(self.to_q(x)).astype(jnp.float32), axis=-1) * d**-0.5
        k, v = self._keys(self.to_k(x)), self._fold(self.to_v(x)).astype(jnp.float32)

        # Over few frames their f x f scores cost less than the d x d sum they would make.
        if f <= d:
            scores = jnp.einsum("nfd,ngd->nfg", q, k)
            now = jnp.einsum("nfg,nge->nfe", scores, v)
        else:
            now = jnp.einsum("nfd,nde->nfe", q, jnp.einsum("nfd,nfe->nde", k, v))
        numerator, z = now, jnp.sum(k, axis=1, keepdims=True)
        if memory is not None:
            read = self.config.decay if self.config.memory_decay == "released" else 1.0
            numerator = now + jnp.einsum("nfd,nde->nfe", q, read * memory.kv)
            z = read * memory.z + z
        normaliser = jnp.einsum("nfd,nod->nfo", q, z)
        y = numerator / jnp.maximum(normaliser, _MIN_NORMALISER)
        return rearrange(y, "(b s heads) f d -> b f s (heads d)", b=b, s=s)

    def _keys(self, k: Float[Array, "b f s c"]) -> Float[Array, "n f d"]:
        axis = 1 if self.config.key_activation == "frames" else -1
        return jax.nn.softmax(self._fold(k).astype(jnp.float32), axis=axis)

    def _fold(self, x: Float[Array, "b f s c"]) -> Float[Array, "n f d"]:
        return rearrange(x, "b f s (heads d) -> (b s heads) f d", heads=self.config.num_heads)


class PositionCode(nnx.Module):
    """Sinusoidal position of a frame in its clip (manifest: `pos_encoder.pe`).

    A constant by meaning but a parameter here, so that a checkpoint's own table is the one used
    and the one given back. No gradient reaches it.
    """

    def __init__(self, width: int, frames: int):
        angles = np.arange(frames)[:, None] * np.exp(
            np.arange(0, width, 2) * (-np.log(10000.0) / width)
        )
        table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)
        self.pe = nnx.Param(jnp.asarray(rearrange(table, "f half two -> 1 f (half two)")))

    def __call__(self, frames: int) -> Float[Array, "f c"]:
        table = jax.lax.stop_gradient(self.pe[...])
        if frames > table.shape[1]:
            raise ValueError(
                f"{frames} frames in a clip, but the position code has {table.shape[1]}"
            )
        return table[0, :frames]


class MotionBlock(nnx.Module):
    """Attentions over frames, then a feed-forward (manifest: `transformer_blocks.*`)."""

    def __init__(self, width: int, config: MotionConfig, *, dtype: Dtype, rngs: Rngs):
        count = config.attentions_per_block
        self.attention_blocks = nnx.List(
            [MotionAttention(width, config, dtype=dtype, rngs=rngs) for _ in range(count)]
        )
        self.norms = nnx.List([layer_norm(width, rngs=rngs) for _ in range(count)])
        self.ff = FeedForward(width, dtype=dtype, rngs=rngs)
        self.ff_norm = layer_norm(width, rngs=rngs)


class MotionModule(nnx.Module):
    """A motion block between group norm and projections
    (manifest: `motion_modules.*.temporal_transformer`).

    Past frames pass the same norm and projection as the current ones, but are not themselves
    updated from attention to attention.
    """

    def __init__(self, width: int, config: MotionConfig, *, dtype: Dtype, rngs: Rngs):
        self.config = config
        inner = config.num_heads * (width // config.num_heads // config.dim_div)
        self.norm = group_norm(width, _GROUPS, 1e-6, rngs=rngs)
        self.proj_in = linear(width, inner, dtype=dtype, rngs=rngs)
        self.transformer_blocks = nnx.List(
            [MotionBlock(inner, config, dtype=dtype, rngs=rngs) for _ in range(config.num_blocks)]
        )
        # Zero, so that a new motion module starts as the identity.
        self.proj_out = linear(inner, width, zero=True, dtype=dtype, rngs=rngs)

    def remember(
        self,
        path: str,
        past: Float[Array, "b p s c"],
        memory: MotionMemory | None,
    ) -> dict[str, LayerMemory | MemoryRows]:
        """The memory of this module's attentions after the past frames' features, kept as the one
        before is; empty where attention is softmax."""
        if self.config.attention == "softmax":
            return {}
        past = exchange.by_position(self._enter(past[:, :, None]))
        layers: dict[str, LayerMemory | MemoryRows] = {}
        for block, k, attention, name in self._attentions(path):
            before = None if memory is None else memory.layers[name]
            renew = functools.partial(_remembered, attention, block.norms[k])
            if isinstance(before, MemoryRows):
                layers[name] = pieces.renewed(renew, past, before)
            else:
                layers[name] = renew(past, before)
        return layers

    def __call__(
        self,
        path: str,
        x: Float[Array, "b f h w c"],
        memory: MotionMemory | None,
        part: Part | None = None,
    ) -> Float[Array, "b f h w c"]:
        """`part`: the memory is of a whole batch, of which `x` is this part."""
        layers = None if memory is None or self.config.attention == "softmax" else memory.layers
        h = exchange.by_position(self._enter(x))
        for block, k, attention, name in self._attentions(path):
            own = None if layers is None else layers[name]
            attended = functools.partial(_attended, attention, block.norms[k])
            if isinstance(own, MemoryRows):
                h = h + pieces.read(attended, h, own, part)
            else:
                h = h + attended(h, own if part is None else jax.tree.map(part.rows, own))
            if k + 1 == len(block.attention_blocks):
                h = h + block.ff(normed(block.ff_norm, h))
        h = exchange.by_frame(self.proj_out(h))
        return x + rearrange(h, "b f (h w) c -> b f h w c", h=x.shape[2])

    def _attentions(self, path: str) -> list[tuple[MotionBlock, int, MotionAttention, str]]:
        prefix = f"{path}.temporal_transformer.transformer_blocks"
        return [
            (block, k, attention, f"{prefix}.{j}.attention_blocks.{k}")
            for j, block in enumerate(self.transformer_blocks)
            for k, attention in enumerate(block.attention_blocks)
        ]

    def _enter(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f s c"]:
        x = normed_frames(self.norm, x, per_frame=self.config.norm_per_frame)
        return rearrange(self.proj_in(x), "b f h w c -> b f (h w) c")


def _remembered(
    attention: MotionAttention,
    norm: nnx.LayerNorm,
    past: Float[Array, "b p s c"],
    memory: LayerMemory | MemoryRows | None,
) -> LayerMemory | MemoryRows:
    heads, past = attention.config.num_heads, normed(norm, past)
    if isinstance(memory, MemoryRows):
        return attention.remember(past, memory.layer(heads)).rows(heads, memory.kv.dtype)
    return attention.remember(past, memory)


def _attended(
    attention: MotionAttention,
    norm: nnx.LayerNorm,
    x: Float[Array, "b f s c"],
    memory: LayerMemory | MemoryRows | None,
) -> Float[Array, "b f s c"]:
    if isinstance(memory, MemoryRows):
        memory = memory.layer(attention.config.num_heads)
    return attention(normed(norm, x), memory)
