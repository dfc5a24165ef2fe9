"""Residual blocks and resampling, shared by the autoencoder and both UNets."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from memo_jax.models.layers import conv, group_norm, linear, normed_frames
from memo_jax.models.types import Dtype, Rngs


class ResnetBlock(nnx.Module):
    """GroupNorm, SiLU, convolution, twice, with the timestep added between (manifest: `resnets`).

    `time_dim` None makes a block without timestep, the autoencoder's. `per_frame` false takes the
    norms' statistics over the whole clip.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        groups: int,
        eps: float,
        time_dim: int | None = None,
        per_frame: bool = True,
        dtype: Dtype,
        rngs: Rngs,
    ):
        self.per_frame = per_frame
        self.norm1 = group_norm(c_in, groups, eps, rngs=rngs)
        self.conv1 = conv(c_in, c_out, 3, dtype=dtype, rngs=rngs)
        if time_dim is not None:
            self.time_emb_proj = linear(time_dim, c_out, dtype=dtype, rngs=rngs)
        self.norm2 = group_norm(c_out, groups, eps, rngs=rngs)
        self.conv2 = conv(c_out, c_out, 3, dtype=dtype, rngs=rngs)
        if c_in != c_out:
            self.conv_shortcut = conv(c_in, c_out, 1, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b f h w c_in"], time: Float[Array, "b t"] | None = None
    ) -> Float[Array, "b f h w c_out"]:
        h = self.conv1(jax.nn.silu(normed_frames(self.norm1, x, per_frame=self.per_frame)))
        if time is not None:
            h = h + self.time_emb_proj(jax.nn.silu(time))[:, None, None, None]
        h = self.conv2(jax.nn.silu(normed_frames(self.norm2, h, per_frame=self.per_frame)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Downsample(nnx.Module):
    """Halves height and width by a strided convolution (manifest: `downsamplers.0`).

    The UNets pad both sides by one; the autoencoder (`padding` ((0, 1), (0, 1))) only the far
    ones.
    """

    def __init__(
        self,
        channels: int,
        *,
        padding: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1)),
        dtype: Dtype,
        rngs: Rngs,
    ):
        self.conv = conv(channels, channels, 3, stride=2, padding=padding, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h2 w2 c"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest neighbour to the size of `like`, twice the present one unless given, then a
    convolution (manifest: `upsamplers.0`)."""

    def __init__(self, channels: int, *, dtype: Dtype, rngs: Rngs):
        self.conv = conv(channels, channels, 3, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b f h w c"], like: Float[Array, "b f h2 w2 k"] | None = None
    ) -> Float[Array, "b f h2 w2 c"]:
        h, w = x.shape[2:4]
        to_h, to_w = (2 * h, 2 * w) if like is None else like.shape[2:4]
        # PyTorch's nearest takes source row floor(i * h / to_h).
        rows = jnp.arange(to_h) * h // to_h
        columns = jnp.arange(to_w) * w // to_w
        return self.conv(x[:, :, rows][:, :, :, columns])
