"""Emotion-aware audio modules: video and audio tokens attend jointly, norms follow the emotion.

Audio tokens flow on from module to module (METHOD, "Emotion-aware audio module").
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from memo_jax.models.attention import attend
from memo_jax.models.layers import (
    FeedForward,
    group_norm,
    layer_norm,
    linear,
    normed,
    normed_frames,
)
from memo_jax.models.spatial import Attention, merge_heads, split_heads
from memo_jax.models.types import Dtype, Rngs

# Emotion norms of one module, in the order their labels are given.
NORMS_PER_MODULE = 4


class EmoAdaNorm(nnx.Module):
    """(1 + a) LN(x) + b with (b, a) a linear map of SiLU of an emotion embedding.

    Manifest: `norm1.class_embedder`, `norm1.adaLN_modulation.1`, which gives b (shift) first.
    """

    def __init__(self, width: int, emotion_rows: int, *, dtype: Dtype, rngs: Rngs):
        self.norm = layer_norm(width, affine=False, rngs=rngs)
        # As large as what it is beside: of rows of 0.02, thousands of steps made norms that
        # emotions changed by 7 %, because a step changes a norm by its row's size.
        self.embedding = nnx.Embed(
            emotion_rows, width, embedding_init=nnx.initializers.normal(1.0), rngs=rngs
        )
        self.modulation = linear(width, 2 * width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b f n c"], emotion: Int[Array, " b"]
    ) -> Float[Array, "b f n c"]:
        vector = self.modulation(jax.nn.silu(self.embedding(emotion)))
        shift, scale = jnp.split(vector[:, None, None].astype(jnp.float32), 2, axis=-1)
        return (self.norm(x) * (1 + scale) + shift).astype(x.dtype)


class JointAttention(nnx.Module):
    """One attention over [video, audio] tokens, each with its own projections
    (manifest: `attn2`)."""

    def __init__(
        self, width: int, audio_dim: int, heads: int, *, final: bool, dtype: Dtype, rngs: Rngs
    ):
        self.heads = heads
        self.to_q = linear(width, width, bias=False, dtype=dtype, rngs=rngs)
        self.to_k = linear(width, width, bias=False, dtype=dtype, rngs=rngs)
        self.to_v = linear(width, width, bias=False, dtype=dtype, rngs=rngs)
        self.add_q_proj = linear(audio_dim, width, dtype=dtype, rngs=rngs)
        self.add_k_proj = linear(audio_dim, width, dtype=dtype, rngs=rngs)
        self.add_v_proj = linear(audio_dim, width, dtype=dtype, rngs=rngs)
        self.to_out = linear(width, width, dtype=dtype, rngs=rngs)
        if not final:
            self.to_add_out = linear(width, audio_dim, dtype=dtype, rngs=rngs)

    def __call__(
        self, video: Float[Array, "n s c"], audio: Float[Array, "n m a"]
    ) -> tuple[Float[Array, "n s c"], Float[Array, "n m a"] | None]:
        final = not hasattr(self, "to_add_out")
        k = jnp.concatenate([self.to_k(video), self.add_k_proj(audio)], axis=1)
        v = jnp.concatenate([self.to_v(video), self.add_v_proj(audio)], axis=1)
        q = self.to_q(video)
        if not final:  # the last module's audio is used no more, nor are its queries
            q = jnp.concatenate([q, self.add_q_proj(audio)], axis=1)
        out = merge_heads(attend(*(split_heads(t, self.heads) for t in (q, k, v))))
        s = video.shape[1]
        return self.to_out(out[:, :s]), None if final else self.to_add_out(out[:, s:])


class AudioBlock(nnx.Module):
    """Self-attention of each modality, joint attention, a feed-forward each
    (manifest: `audio_modules.*.transformer_blocks.0`)."""

    def __init__(
        self,
        width: int,
        audio_dim: int,
        heads: int,
        emotion_rows: int,
        *,
        final: bool = False,
        dtype: Dtype,
        rngs: Rngs,
    ):
        def emo_norm(dim: int) -> EmoAdaNorm:
            return EmoAdaNorm(dim, emotion_rows, dtype=dtype, rngs=rngs)

        self.norm1 = emo_norm(width)
        self.attn1 = Attention(width, width, heads, dtype=dtype, rngs=rngs)
        self.audio_norm1 = emo_norm(audio_dim)
        self.audio_attn1 = Attention(
            audio_dim, audio_dim, heads, inner=width, dtype=dtype, rngs=rngs
        )
        self.norm2 = emo_norm(width)
        self.audio_norm2 = emo_norm(audio_dim)
        self.attn2 = JointAttention(width, audio_dim, heads, final=final, dtype=dtype, rngs=rngs)
        self.norm3 = layer_norm(width, rngs=rngs)
        self.ff = FeedForward(width, dtype=dtype, rngs=rngs)
        if not final:
            self.audio_norm3 = layer_norm(audio_dim, rngs=rngs)
            self.audio_ff = FeedForward(audio_dim, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        video: Float[Array, "b f s c"],
        audio: Float[Array, "b f m a"],
        emotion: Int[Array, "b norms"],
    ) -> tuple[Float[Array, "b f s c"], Float[Array, "b f m a"] | None]:
        """`emotion` holds a label for each of the four emotion norms: norm1, audio_norm1, norm2,
        audio_norm2. The second result is None in the final block."""
        frames = video.shape[1]

        def over_frames(attention: Attention, x: Array) -> Array:
            out = attention.over_self(rearrange(x, "b f n c -> (b f) n c"))
            return rearrange(out, "(b f) n c -> b f n c", f=frames)

        video = video + over_frames(self.attn1, self.norm1(video, emotion[:, 0]))
        audio = audio + over_frames(self.audio_attn1, self.audio_norm1(audio, emotion[:, 1]))
        joint_video, joint_audio = self.attn2(
            rearrange(self.norm2(video, emotion[:, 2]), "b f s c -> (b f) s c"),
            rearrange(self.audio_norm2(audio, emotion[:, 3]), "b f m a -> (b f) m a"),
        )
        video = video + rearrange(joint_video, "(b f) s c -> b f s c", f=frames)
        video = video + self.ff(normed(self.norm3, video))
        if joint_audio is None:
            return video, None
        audio = audio + rearrange(joint_audio, "(b f) m a -> b f m a", f=frames)
        return video, audio + self.audio_ff(normed(self.audio_norm3, audio))


class CrossBlock(nnx.Module):
    """The baseline of the paper's ablation: video queries read the frame's audio tokens in a cross
    attention, and the tokens stay as they are from module to module.

    It has the names of `AudioBlock` for what they have in common, and like it takes the labels of
    four emotion norms, of which it reads the video's two.
    """

    def __init__(
        self,
        width: int,
        audio_dim: int,
        heads: int,
        emotion_rows: int,
        *,
        dtype: Dtype,
        rngs: Rngs,
    ):
        self.norm1 = EmoAdaNorm(width, emotion_rows, dtype=dtype, rngs=rngs)
        self.attn1 = Attention(width, width, heads, dtype=dtype, rngs=rngs)
        self.norm2 = EmoAdaNorm(width, emotion_rows, dtype=dtype, rngs=rngs)
        self.attn2 = Attention(width, audio_dim, heads, dtype=dtype, rngs=rngs)
        self.norm3 = layer_norm(width, rngs=rngs)
        self.ff = FeedForward(width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        video: Float[Array, "b f s c"],
        audio: Float[Array, "b f m a"],
        emotion: Int[Array, "b norms"],
    ) -> Float[Array, "b f s c"]:
        """The video stream."""
        own = rearrange(self.norm1(video, emotion[:, 0]), "b f s c -> (b f) s c")
        out = rearrange(self.attn1.over_self(own), "(b f) s c -> b f s c", b=len(video))
        video = video + out
        asks = self.attn2.queries(self.norm2(video, emotion[:, 2]))
        keys, values = self.attn2.keys_values(audio)
        asks, keys, values = (
            rearrange(x, "b f n heads d -> (b f) n heads d") for x in (asks, keys, values)
        )
        heard = self.attn2.out(attend(asks, keys, values))
        video = video + rearrange(heard, "(b f) s c -> b f s c", b=len(video))
        return video + self.ff(normed(self.norm3, video))


class AudioModule(nnx.Module):
    """An audio block between group norm and projections (manifest: `audio_modules.*`).

    `inner` need not be the features' width: the release passes the width entering the level.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        audio_dim: int,
        heads: int,
        groups: int,
        emotion_rows: int,
        *,
        joint: bool = True,
        final: bool = False,
        dtype: Dtype,
        rngs: Rngs,
    ):
        self.norm = group_norm(width, groups, 1e-6, rngs=rngs)
        self.proj_in = linear(width, inner, dtype=dtype, rngs=rngs)
        shape = inner, audio_dim, heads, emotion_rows
        block: AudioBlock | CrossBlock
        if joint:
            block = AudioBlock(*shape, final=final, dtype=dtype, rngs=rngs)
        else:
            block = CrossBlock(*shape, dtype=dtype, rngs=rngs)
        self.transformer_blocks = nnx.List([block])
        self.proj_out = linear(inner, width, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        audio: Float[Array, "b f m a"],
        emotion: Int[Array, "b norms"],
    ) -> tuple[Float[Array, "b f h w c"], Float[Array, "b f m a"] | None]:
        """The video stream, and the audio tokens for the next module (None after the last joint
        one)."""
        h = rearrange(self.proj_in(normed_frames(self.norm, x)), "b f h w c -> b f (h w) c")
        block = self.transformer_blocks[0]
        if isinstance(block, CrossBlock):
            h = block(h, audio, emotion)
        else:
            h, audio_out = block(h, audio, emotion)
        x = x + rearrange(self.proj_out(h), "b f (h w) c -> b f h w c", h=x.shape[2])
        if isinstance(block, CrossBlock):
            return x, audio
        # A second residual round the whole block, on top of the block's own: as released.
        return x, None if audio_out is None else audio_out + audio
