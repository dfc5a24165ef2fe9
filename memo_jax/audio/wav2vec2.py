"""wav2vec2, read the way MEMO reads it: every layer's output, at the video's frame rate.

After arXiv:2006.11477 (the post-norm "base" model). MEMO resamples the features of the
convolutions to one step per video frame, so that the transformer itself runs at the frame rate.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from memo_jax.audio.config import Wav2Vec2Config
from memo_jax.audio.layers import Norm, attend, conv_steps, gelu, steps_of
from memo_jax.audio.wav2vec2_convs import FeatureExtractor


class Real(NamedTuple):
    """How much of each padded row is a recording; the rest is heard by nobody.

    Attributes:
      samples: [b], each at least what one step of the convolutions sees.
      frames: [b], each at least 1.
    """

    samples: Int[Array, " b"]
    frames: Int[Array, " b"]


class FeatureProjection(nnx.Module):
    """LayerNorm and a dense layer into the transformer's width."""

    def __init__(self, config: Wav2Vec2Config, *, dtype: DTypeLike, rngs: Any):
        channels = config.conv_channels[-1]
        self.layer_norm = Norm(channels, epsilon=config.epsilon, rngs=rngs)
        self.projection = nnx.Linear(channels, config.width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t w"]:
        """Channels to width."""
        return self.projection(self.layer_norm(x))


class WeightNormConv(nnx.Module):
    """A grouped convolution over time whose kernel is a direction and one length per tap."""

    def __init__(self, config: Wav2Vec2Config, *, dtype: DTypeLike, rngs: Any):
        self.groups, self.dtype = config.position_groups, dtype
        taps, width = config.position_kernel, config.width
        shape = (taps, width // self.groups, width)
        direction = jax.random.normal(rngs.params(), shape) * (4.0 / (taps * width)) ** 0.5
        self.direction = nnx.Param(direction)
        self.magnitude = nnx.Param(jnp.sqrt(jnp.sum(direction**2, axis=(1, 2))))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        """As many steps as came in."""
        taps = self.direction.shape[0]
        direction = self.direction[...]
        length = jnp.sqrt(jnp.sum(direction**2, axis=(1, 2), keepdims=True))
        kernel = direction / length * self.magnitude[...][:, None, None]
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(1,),
            padding=[(taps // 2, taps // 2)],
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=self.groups,
        )
        # An even kernel padded on both sides makes one step too many.
        return y[:, : x.shape[1]] + self.bias[...].astype(self.dtype)[None, None]


class PositionEmbedding(nnx.Module):
    """Relative positions, as a wide convolution of the features themselves."""

    def __init__(self, config: Wav2Vec2Config, *, dtype: DTypeLike, rngs: Any):
        self.conv = WeightNormConv(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        """What is to be added to x."""
        return gelu(self.conv(x))


class Attention(nnx.Module):
    """Self-attention over all frames, with biases."""

    def __init__(self, config: Wav2Vec2Config, *, dtype: DTypeLike, rngs: Any):
        self.heads = config.heads
        width = config.width
        self.q_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.k_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.v_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.out_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b t w"], real: Bool[Array, "b t"] | None = None
    ) -> Float[Array, "b t w"]:
        """Every frame sees every frame, or those that are `real`."""
        parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        query, key, value = (rearrange(y, "b t (h d) -> b t h d", h=self.heads) for y in parts)
        seen = attend(query, key, value, real=real)
        return self.out_proj(rearrange(seen, "b t h d -> b t (h d)"))


class FeedForward(nnx.Module):
    """Two dense layers with GELU between them."""

    def __init__(self, config: Wav2Vec2Config, *, dtype: DTypeLike, rngs: Any):
        self.intermediate_dense = nnx.Linear(config.width, config.hidden, dtype=dtype, rngs=rngs)
        self.output_dense = nnx.Linear(config.hidden, config.width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        """Frame by frame."""
        return self.output_dense(gelu(self.intermediate_dense(x)))


class Layer(nnx.Module):
    """A post-norm transformer layer."""

    def __init__(self, config: Wav2Vec2Config, *, dtype: DTypeLike, rngs: Any):
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.layer_norm = Norm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.feed_forward = FeedForward(config, dtype=dtype, rngs=rngs)
        self.final_layer_norm = Norm(config.width, epsilon=config.epsilon, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b t w"], real: Bool[Array, "b t"] | None = None
    ) -> Float[Array, "b t w"]:
        """The next hidden state."""
        x = self.layer_norm(x + self.attention(x, real))
        return self.final_layer_norm(x + self.feed_forward(x))


class Encoder(nnx.Module):
    """Positions, a norm and the layers; it returns what every layer said."""

    def __init__(self, config: Wav2Vec2Config, *, dtype: DTypeLike, rngs: Any):
        self.pos_conv_embed = PositionEmbedding(config, dtype=dtype, rngs=rngs)
        self.layer_norm = Norm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.layers = nnx.List(
            [Layer(config, dtype=dtype, rngs=rngs) for _ in range(config.layers)]
        )

    def __call__(
        self, x: Float[Array, "b t w"], real: Bool[Array, "b t"] | None = None
    ) -> list[Float[Array, "b t w"]]:
        """The input of the first layer and every layer's output."""
        if real is not None:  # as beyond the end of a recording by itself
            x = jnp.where(real[..., None], x, 0)
        states = [self.layer_norm(x + self.pos_conv_embed(x))]
        for layer in self.layers:
            states.append(layer(states[-1], real))
        return states


class Wav2Vec2(nnx.Module):
    """Speech features of every layer, one step per video frame."""

    def __init__(self, config: Wav2Vec2Config, *, dtype: DTypeLike = jnp.float32, rngs: Any):
        self.config = config
        self.feature_extractor = FeatureExtractor(config, dtype=dtype, rngs=rngs)
        self.feature_projection = FeatureProjection(config, dtype=dtype, rngs=rngs)
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        # Used only by masked pre-training; kept so that weights go out whole.
        self.masked_spec_embed = nnx.Param(jnp.zeros(config.width))

    def __call__(
        self, samples: Float[Array, "b n"], frames: int, real: Real | None = None
    ) -> Float[Array, "b l f d"]:
        """Every transformer layer's output, without the transformer's input.

        With `real`, rows hold recordings that were padded to one length: each gives what it would
        give alone, within rounding, and what comes after its own frames is nothing. So a few
        lengths (`memo_jax.audio.lengths`) serve all recordings.

        Args:
          samples: 16 kHz, normalised (`memo_jax.audio.timing.prepare`).
          frames: video frames that the samples last for, or that they were padded to.
          real: how much of the rows is a recording; all by default.

        Raises:
          UserError: fewer samples than one step of the convolutions sees (400 as published).
        """
        return jnp.stack(self.hidden_states(samples, frames, real)[1:], axis=1)

    def hidden_states(
        self, samples: Float[Array, "b n"], frames: int, real: Real | None = None
    ) -> list[Array]:
        """The transformer's input and every layer's output, each [b,frames,width]."""
        x = self.feature_projection(self.features(samples, frames, real))
        if real is None:
            return self.encoder(x)
        return self.encoder(x, jnp.arange(frames)[None] < real.frames[:, None])

    def features(
        self, samples: Float[Array, "b n"], frames: int, real: Real | None = None
    ) -> Float[Array, "b f c"]:
        """What the convolutions hear, stretched linearly so that both ends meet."""
        if real is None:
            return _stretch(self.feature_extractor(samples), frames)
        config = self.config
        steps = conv_steps(samples.shape[1], config.conv_kernels, config.conv_strides)
        if frames * steps >= 2**31:
            raise ValueError(f"{frames} frames of {steps} steps are too many to be padded")
        heard = steps_of(real.samples, config.conv_kernels, config.conv_strides)
        return _stretch_each(
            self.feature_extractor(samples, real.samples), frames, heard, real.frames
        )


def _stretch(x: Float[Array, "b t c"], frames: int) -> Float[Array, "b f c"]:
    steps = x.shape[1]
    at = np.arange(frames) * ((steps - 1) / max(frames - 1, 1))
    before = np.minimum(at.astype(np.int32), steps - 1)
    after = np.minimum(before + 1, steps - 1)
    part = jnp.asarray((at - before)[None, :, None], jnp.float32)
    y = x.astype(jnp.float32)
    return (y[:, before] * (1.0 - part) + y[:, after] * part).astype(x.dtype)


def _stretch_each(
    x: Float[Array, "b t c"], frames: int, steps: Int[Array, " b"], own: Int[Array, " b"]
) -> Float[Array, "b f c"]:
    """As `_stretch`, a row's first `steps` over its `own` frames; whole numbers keep it exact."""
    last, gaps = (steps - 1)[:, None], jnp.maximum(own - 1, 1)[:, None]
    at = jnp.arange(frames)[None] * last
    before = jnp.minimum(at // gaps, last)
    after = jnp.minimum(before + 1, last)
    part = jnp.clip((at - before * gaps).astype(jnp.float32) / gaps.astype(jnp.float32), 0.0, 1.0)
    y = x.astype(jnp.float32)
    low, high = (jnp.take_along_axis(y, k[..., None], axis=1) for k in (before, after))
    return (low * (1.0 - part[..., None]) + high * part[..., None]).astype(x.dtype)
