"""wav2vec2's convolutions over the waveform, in bounded memory."""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from memo_jax.audio.config import Wav2Vec2Config
from memo_jax.audio.layers import conv1d, conv_steps, gelu, receptive_field, steps_of

# Steps (50 per second) that the convolutions make at once; their first layer is 64 times longer
# and 512 wide, so that an hour of sound would fill a device.
STEPS_AT_ONCE = 1500


class TimeNorm(nnx.Module):
    """Scale and shift of a norm over time, one statistic per channel, given from outside.

    PyTorch calls it GroupNorm with as many groups as channels. The statistics span the recording,
    which is seen in pieces.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Array, mean: Array, variance: Array) -> Array:
        """Normalises x [b,t,c] by mean and variance [b,1,c]; eps 1e-5, in float32."""
        normal = (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(variance + 1e-5)
        return (normal * self.scale[...][None, None] + self.bias[...][None, None]).astype(x.dtype)


class ConvLayer(nnx.Module):
    """One convolution of the feature extractor; the first has a norm as well."""

    def __init__(self, config: Wav2Vec2Config, index: int, *, dtype: DTypeLike, rngs: Any):
        channels = (1, *config.conv_channels)
        self.conv = conv1d(
            channels[index],
            channels[index + 1],
            config.conv_kernels[index],
            stride=config.conv_strides[index],
            bias=config.conv_bias,
            dtype=dtype,
            rngs=rngs,
        )
        if index == 0:
            self.layer_norm = TimeNorm(channels[1])


class FeatureExtractor(nnx.Module):
    """Strided convolutions: samples at 16 kHz to 50 steps per second."""

    def __init__(self, config: Wav2Vec2Config, *, dtype: DTypeLike, rngs: Any):
        self.config, self.dtype = config, dtype
        self.conv_layers = nnx.List(
            [ConvLayer(config, i, dtype=dtype, rngs=rngs) for i in range(len(config.conv_channels))]
        )

    def __call__(
        self, samples: Float[Array, "b n"], real: Int[Array, " b"] | None = None
    ) -> Float[Array, "b t c"]:
        """Goes through long recordings piece by piece, three times.

        The norm of the first layer needs the mean and the variance over the whole recording.
        Where `real` says how many samples of each row are a recording, these are of that alone,
        and the steps beyond it are nothing.
        """
        config = self.config
        steps = conv_steps(samples.shape[1], config.conv_kernels, config.conv_strides)
        first_steps = conv_steps(samples.shape[1], config.conv_kernels[:1], config.conv_strides[:1])
        per_step = prod(config.conv_strides[1:])
        own = STEPS_AT_ONCE * per_step
        counts = None
        if real is not None:
            counts = steps_of(real, config.conv_kernels[:1], config.conv_strides[:1])
        if first_steps <= own:
            x = self._first(samples)
            mean = _mean(x.astype(jnp.float32), counts)
            return self._rest(x, mean, _mean((x.astype(jnp.float32) - mean) ** 2, counts))

        pieces = -(-first_steps // own)
        hop = per_step * config.conv_strides[0]
        seen = receptive_field(config.conv_kernels, config.conv_strides) - hop
        length = STEPS_AT_ONCE * hop + seen
        end = pieces * STEPS_AT_ONCE * hop + seen
        padded = jnp.pad(samples, ((0, 0), (0, max(0, end - samples.shape[1]))))
        whole = jnp.full(len(samples), first_steps) if counts is None else counts

        def first(index: Array) -> Array:
            start = index * (STEPS_AT_ONCE * hop)
            return self._first(jax.lax.dynamic_slice_in_dim(padded, start, length, axis=1))

        def total(of: Callable[[Array], Array]) -> Array:
            def one(index: Array) -> Array:
                # A piece's last steps belong to the next piece, and the padding to nobody.
                x = first(index)[:, :own].astype(jnp.float32)
                own_steps = jnp.arange(own)[None] < whole[:, None] - index * own
                return jnp.sum(jnp.where(own_steps[..., None], of(x), 0.0), axis=1, keepdims=True)

            sums = jnp.sum(jax.lax.map(one, jnp.arange(pieces)), axis=0)
            return sums / whole[:, None, None].astype(jnp.float32)

        mean = total(lambda x: x)
        variance = total(lambda x: (x - mean) ** 2)
        out = jax.lax.map(lambda i: self._rest(first(i), mean, variance), jnp.arange(pieces))
        return rearrange(out, "k b t c -> b (k t) c")[:, :steps]

    def _first(self, samples: Array) -> Array:
        return self.conv_layers[0].conv(samples.astype(self.dtype)[..., None])

    def _rest(self, x: Array, mean: Array, variance: Array) -> Array:
        x = gelu(self.conv_layers[0].layer_norm(x, mean, variance))
        for layer in list(self.conv_layers)[1:]:
            x = gelu(layer.conv(x))
        return x


def _mean(x: Array, counts: Array | None) -> Array:
    """The mean [b,1,c] over time of x [b,t,c], or over a row's first `counts` steps."""
    if counts is None:
        return jnp.mean(x, axis=1, keepdims=True)
    real = jnp.arange(x.shape[1])[None] < counts[:, None]
    total = jnp.sum(jnp.where(real[..., None], x, 0.0), axis=1, keepdims=True)
    return total / counts[:, None, None].astype(jnp.float32)
