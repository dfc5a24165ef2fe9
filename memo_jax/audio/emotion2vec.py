"""emotion2vec: features of how something is said, 50 per second of sound.

After arXiv:2312.15185: a data2vec 2.0 audio encoder whose heads see time through ALiBi. Shapes
are read from the model's published configuration.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from memo_jax.audio.config import Emotion2VecConfig
from memo_jax.audio.layers import Norm, attend, conv1d, conv_steps, gelu, steps_of


class Conv(nnx.Module):
    """A convolution with its norm and GELU: strided without a bias, or a position layer."""

    def __init__(self, conv: nnx.Conv, norm: Norm):
        self.conv, self.norm = conv, norm

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b t d"]:
        """Fewer steps where the convolution strides, as many where it pads."""
        return gelu(self.norm(self.conv(x)))


class Project(nnx.Module):
    """LayerNorm and a dense layer into the transformer's width."""

    def __init__(self, channels: int, width: int, *, dtype: DTypeLike, rngs: Any):
        self.norm = Norm(channels, epsilon=1e-5, rngs=rngs)
        self.dense = nnx.Linear(channels, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t d"]:
        """Channels to width."""
        return self.dense(self.norm(x))


class Attention(nnx.Module):
    """Self-attention with one dense layer for queries, keys and values."""

    def __init__(self, config: Emotion2VecConfig, *, dtype: DTypeLike, rngs: Any):
        self.heads = config.heads
        self.qkv = nnx.Linear(config.width, 3 * config.width, dtype=dtype, rngs=rngs)
        self.proj = nnx.Linear(config.width, config.width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b t w"],
        bias: Float[Array, "h t t"],
        real: Bool[Array, "b t"] | None = None,
    ) -> Array:
        """`bias` is added to the scores; tokens that are not `real` are seen by nobody."""
        parts = rearrange(self.qkv(x), "b t (s h d) -> s b t h d", s=3, h=self.heads)
        y = attend(parts[0], parts[1], parts[2], bias, real)
        return self.proj(rearrange(y, "b t h d -> b t (h d)"))


class Mlp(nnx.Module):
    """Two dense layers with GELU between them."""

    def __init__(self, config: Emotion2VecConfig, *, dtype: DTypeLike, rngs: Any):
        self.fc1 = nnx.Linear(config.width, config.hidden, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(config.hidden, config.width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        """Step by step."""
        return self.fc2(gelu(self.fc1(x)))


class Block(nnx.Module):
    """A post-norm transformer block."""

    def __init__(self, config: Emotion2VecConfig, *, dtype: DTypeLike, rngs: Any):
        self.norm1 = Norm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.attn = Attention(config, dtype=dtype, rngs=rngs)
        self.norm2 = Norm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.mlp = Mlp(config, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b t w"],
        bias: Float[Array, "h t t"],
        real: Bool[Array, "b t"] | None = None,
    ) -> Array:
        """`bias` is added to the attention's scores; tokens that are not `real` are not seen."""
        x = self.norm1(x + self.attn(x, bias, real))
        return self.norm2(x + self.mlp(x))


class Decoder(nnx.Module):
    """Weights of the pre-training decoder. Never run; kept so that weights go out whole."""

    def __init__(self, config: Emotion2VecConfig, *, rngs: Any):
        width = config.decoder_width
        self.blocks = nnx.List(
            [
                conv1d(
                    width if i else config.width,
                    width,
                    config.decoder_kernel,
                    groups=config.decoder_groups,
                    bias=True,
                    dtype=jnp.float32,
                    rngs=rngs,
                )
                for i in range(config.decoder_layers)
            ]
        )
        self.proj = nnx.Linear(width, config.width, rngs=rngs)


class AudioEncoder(nnx.Module):
    """From samples to tokens with positions, through the blocks before the main ones."""

    def __init__(self, config: Emotion2VecConfig, *, dtype: DTypeLike, rngs: Any):
        self.config, self.dtype = config, dtype
        width, kernel = config.width, config.position_kernel
        channels = (1, *(out for out, _, _ in config.convs))

        def strided(i: int) -> Conv:
            out, taps, stride = config.convs[i]
            conv = conv1d(channels[i], out, taps, stride=stride, bias=False, dtype=dtype, rngs=rngs)
            return Conv(conv, Norm(out, epsilon=1e-5, rngs=rngs))

        def position() -> Conv:
            conv = conv1d(
                width,
                width,
                kernel,
                padding=kernel // 2,
                groups=config.position_groups,
                bias=True,
                dtype=dtype,
                rngs=rngs,
            )
            return Conv(conv, Norm(width, epsilon=1e-5, rngs=rngs, affine=False))

        self.convs = nnx.List([strided(i) for i in range(len(config.convs))])
        self.project = Project(channels[-1], width, dtype=dtype, rngs=rngs)
        self.positions = nnx.List([position() for _ in range(config.position_layers)])
        self.extra_tokens = nnx.Param(jnp.zeros((config.extra_tokens, width)))
        self.alibi_scale = nnx.Param(jnp.ones((config.alibi_layers, config.alibi_heads)))
        self.norm = Norm(width, epsilon=config.epsilon, rngs=rngs)
        self.blocks = nnx.List(
            [Block(config, dtype=dtype, rngs=rngs) for _ in range(config.prenet_depth)]
        )
        if config.decoder_layers:
            self.decoder = Decoder(config, rngs=rngs)

    def __call__(
        self, samples: Float[Array, "b n"], real: Bool[Array, "b t"] | None = None
    ) -> Float[Array, "b t w"]:
        """Tokens of normalised samples, the extra ones first; `real` says which ones count."""
        conv_steps(samples.shape[1], self.config.kernels, self.config.strides)  # for its error
        x = samples.astype(self.dtype)[..., None]
        for conv in self.convs:
            x = conv(x)
        x = self.project(x)
        y = x
        for conv in self.positions:
            if real is not None:  # as beyond the end of a recording by itself
                y = jnp.where(real[:, self.config.extra_tokens :, None], y, 0)
            # An even kernel padded on both sides makes one step too many.
            y = conv(y)[:, : x.shape[1]]
        extra = repeat(self.extra_tokens[...].astype(x.dtype), "n d -> b n d", b=len(x))
        x = self.norm(jnp.concatenate([extra, x + y], axis=1))
        for i, block in enumerate(self.blocks):
            x = block(x, self.bias(x.shape[1], i), real)
        return x

    def bias(self, tokens: int, layer: int) -> Float[Array, "h t t"]:
        """-|i-j| times a head's slope times its learned scale; zero for the extra tokens."""
        extra, heads = self.config.extra_tokens, self.config.heads
        scale = jnp.maximum(self.alibi_scale[...][min(layer, self.config.alibi_layers - 1)], 0.0)
        at = np.arange(tokens - extra)
        distance = np.abs(at[:, None] - at[None]).astype(np.float32)
        ramp = -alibi_slopes(heads)[:, None, None] * distance[None]
        ramp = np.pad(ramp, ((0, 0), (extra, 0), (extra, 0)))
        return jnp.broadcast_to(scale, (heads,))[:, None, None] * ramp


def alibi_slopes(heads: int) -> Float[np.ndarray, "h"]:
    """2^(-8k/h) for k = 1..h (arXiv:2108.12409); other counts fill up from twice as many."""
    power = 2 ** int(np.log2(heads))
    slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-8.0 * np.arange(1, 2 * power, 2) / (2 * power))
    return np.concatenate([slopes, between[: heads - power]]).astype(np.float32)


class Emotion2Vec(nnx.Module):
    """The whole encoder."""

    def __init__(self, config: Emotion2VecConfig, *, dtype: DTypeLike = jnp.float32, rngs: Any):
        self.config = config
        self.audio = AudioEncoder(config, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([Block(config, dtype=dtype, rngs=rngs) for _ in range(config.depth)])

    def __call__(
        self, samples: Float[Array, "b n"], real: Int[Array, " b"] | None = None
    ) -> Float[Array, "b t w"]:
        """Features of sound at 16 kHz, each row normalised to mean 0 and variance 1.

        Args:
          samples: the sound.
          real: how many samples of each row are sound, where rows were padded to one length; their
            features are what they would be alone, and those beyond are nothing.

        Raises:
          UserError: fewer samples than `config.shortest`.
        """
        extra, mask = self.config.extra_tokens, None
        if real is not None:
            steps = conv_steps(samples.shape[1], self.config.kernels, self.config.strides)
            mask = jnp.arange(extra + steps)[None] < extra + self._steps(real)[:, None]
        x = self.audio(samples, mask)
        for i, block in enumerate(self.blocks):
            x = block(x, self.audio.bias(x.shape[1], i + self.config.prenet_depth), mask)
        return x[:, extra:]

    def mean(self, samples: Float[Array, "b n"], real: Int[Array, " b"]) -> Float[Array, "b w"]:
        """The features' mean over time, float32; see __call__."""
        x, steps = self(samples, real).astype(jnp.float32), self._steps(real)[:, None]
        own = jnp.arange(x.shape[1])[None] < steps
        return jnp.sum(jnp.where(own[..., None], x, 0.0), axis=1) / steps.astype(jnp.float32)

    def _steps(self, samples: Int[Array, " b"]) -> Int[Array, " b"]:
        return steps_of(samples, self.config.kernels, self.config.strides)
