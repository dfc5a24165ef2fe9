"""Layers with PyTorch's conventions, shared by all networks."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from memo_jax.models.convolution import convolve
from memo_jax.models.types import Dtype, Rngs

# The mesh axis over which a training program cuts kernels.
FSDP = "fsdp"


@dataclass(frozen=True)
class _Whole:
    """Promotion to the dtype of multiplication, and of a kernel that is cut over devices (its
    shape says so) to the whole one: it is gathered where it is used, in that dtype, and its
    gradient is summed and cut likewise."""

    shape: tuple[int, ...]

    def __call__(self, args: tuple[Any, ...], *, dtype: Any = None, **options: Any) -> Any:
        x, kernel, bias = nnx.nn.dtypes.promote_dtype(args, dtype=dtype, **options)
        for axis, (own, whole) in enumerate(zip(kernel.shape, self.shape, strict=True)):
            if own != whole:
                kernel = jax.lax.all_gather(kernel, FSDP, axis=axis, tiled=True)
        return x, kernel, bias


def linear(
    d_in: int, d_out: int, *, bias: bool = True, zero: bool = False, dtype: Dtype, rngs: Rngs
) -> nnx.Linear:
    """A dense layer that multiplies in `dtype`; `zero` starts it at zero."""
    init = nnx.initializers.zeros if zero else matrix_init(rngs)
    return nnx.Linear(
        d_in,
        d_out,
        use_bias=bias,
        dtype=dtype,
        kernel_init=init,
        promote_dtype=_Whole((d_in, d_out)),
        rngs=rngs,
    )


def conv(
    c_in: int,
    c_out: int,
    size: int,
    *,
    stride: int = 1,
    padding: int | tuple[tuple[int, int], tuple[int, int]] | None = None,
    dtype: Dtype,
    rngs: Rngs,
) -> nnx.Conv:
    """A 2-d convolution that multiplies in `dtype`, padded to keep the size unless told."""
    if padding is None:
        padding = size // 2
    if isinstance(padding, int):
        # Numbers, because SAME at stride 2 pads on other sides than PyTorch's 1.
        padding = ((padding, padding), (padding, padding))
    return nnx.Conv(
        c_in,
        c_out,
        (size, size),
        strides=stride,
        padding=padding,
        dtype=dtype,
        kernel_init=matrix_init(rngs),
        conv_general_dilated=convolve,
        promote_dtype=_Whole((size, size, c_in, c_out)),
        rngs=rngs,
    )


def matrix_init(rngs: Rngs) -> nnx.initializers.Initializer:
    """LeCun's normal; zeros where only shapes are wanted, since tracing a random draw for each of
    thousands of kernels takes most of the time that shapes take."""
    if getattr(rngs, "shapes_only", False) is True:  # `nnx.Rngs` has a stream of every name
        return nnx.initializers.zeros
    return nnx.initializers.lecun_normal()


def group_norm(channels: int, groups: int, eps: float, *, rngs: Rngs) -> nnx.GroupNorm:
    """A group norm in float32. Statistics are over every axis but the first."""
    return nnx.GroupNorm(
        channels,
        groups,
        epsilon=eps,
        dtype=jnp.float32,
        use_fast_variance=False,
        rngs=rngs,
    )


def layer_norm(width: int, *, affine: bool = True, eps: float = 1e-5, rngs: Rngs) -> nnx.LayerNorm:
    """A layer norm over the last axis, in float32."""
    return nnx.LayerNorm(
        width,
        epsilon=eps,
        dtype=jnp.float32,
        use_bias=affine,
        use_scale=affine,
        use_fast_variance=False,
        rngs=rngs,
    )


def normed(norm: nnx.GroupNorm | nnx.LayerNorm, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`norm(x)` in float32, given back in the dtype of `x`."""
    if isinstance(norm, nnx.GroupNorm):
        return _group_normed(norm, x.astype(jnp.float32)).astype(x.dtype)
    return norm(x).astype(x.dtype)


def _group_normed(norm: nnx.GroupNorm, x: Float[Array, "n *axes c"]) -> Float[Array, "n *axes c"]:
    """What `norm(x)` is, through each channel's own mean and variance.

    A group's variance is the mean of its channels' and the variance of their means. Reductions
    that keep the last axis are vectorised; the module's own, over parts of it, take ten times as
    long on a CPU, and cut a TPU's lanes.
    """
    axes = tuple(range(1, x.ndim - 1))
    means = jnp.mean(x, axes)
    variances = jnp.mean(jnp.square(x - jnp.expand_dims(means, axes)), axes)

    def over_groups(values: Float[Array, "n c"]) -> Float[Array, "n c"]:
        grouped = rearrange(values, "n (g c) -> n g c", g=norm.num_groups)
        mean = jnp.mean(grouped, axis=-1, keepdims=True)
        return rearrange(jnp.broadcast_to(mean, grouped.shape), "n g c -> n (g c)")

    mean = over_groups(means)
    variance = over_groups(variances + jnp.square(means - mean))
    scale, bias = norm.scale[None], norm.bias[None]  # type: ignore[index]  # both are there
    factor = jax.lax.rsqrt(variance + norm.epsilon) * scale
    each = functools.partial(jnp.expand_dims, axis=axes)
    return (x - each(mean)) * each(factor) + each(bias)


def normed_frames(
    norm: nnx.GroupNorm, x: Float[Array, "b f h w c"], *, per_frame: bool = True
) -> Float[Array, "b f h w c"]:
    """A group norm with each frame's own statistics, or the whole clip's."""
    if not per_frame:
        return normed(norm, x)
    frames = x.shape[1]
    y = normed(norm, rearrange(x, "b f h w c -> (b f) h w c"))
    return rearrange(y, "(b f) h w c -> b f h w c", f=frames)


def timestep_code(
    timesteps: Float[Array, " b"], width: int, *, flip_sin_to_cos: bool, freq_shift: int
) -> Float[Array, "b width"]:
    """Sinusoids of a timestep (0 to 1000), float32; cosines first where flipped (manifest: -)."""
    half = width // 2
    exponent = -math.log(10000) * np.arange(half, dtype=np.float32) / (half - freq_shift)
    angles = timesteps.astype(jnp.float32)[:, None] * jnp.exp(jnp.asarray(exponent))[None]
    pair = (jnp.cos, jnp.sin) if flip_sin_to_cos else (jnp.sin, jnp.cos)
    return jnp.concatenate([f(angles) for f in pair], axis=-1)


class TimestepEmbedding(nnx.Module):
    """Timestep code -> embedding (manifest: `time_embedding`)."""

    def __init__(self, d_in: int, d_out: int, *, dtype: Dtype, rngs: Rngs):
        self.linear_1 = linear(d_in, d_out, dtype=dtype, rngs=rngs)
        self.linear_2 = linear(d_out, d_out, dtype=dtype, rngs=rngs)

    def __call__(self, code: Float[Array, "b d_in"]) -> Float[Array, "b d_out"]:
        return self.linear_2(jax.nn.silu(self.linear_1(code)))


class FeedForward(nnx.Module):
    """GEGLU feed-forward: width -> 4 width, gated -> width (manifest: `ff.net`)."""

    def __init__(self, width: int, *, dtype: Dtype, rngs: Rngs):
        self.proj = linear(width, 8 * width, dtype=dtype, rngs=rngs)
        self.out = linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return self.out(value * jax.nn.gelu(gate, approximate=False))
