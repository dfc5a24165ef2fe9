"""Layers of the judges: convolutions over the last axes but one, and norms with fixed statistics.

They multiply at the highest precision: a threshold must fall alike on every platform.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from memo_jax.models.layers import matrix_init

PRECISION = jax.lax.Precision.HIGHEST


def conv(
    c_in: int,
    c_out: int,
    kernel: tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    bias: bool = True,
    rngs: Any,
) -> nnx.Conv:
    """A convolution over two axes, padded alike at both ends of each as PyTorch pads."""
    return nnx.Conv(
        c_in,
        c_out,
        kernel,
        strides=stride,
        padding=[(size, size) for size in padding],
        kernel_dilation=dilation,
        use_bias=bias,
        dtype=jnp.float32,
        precision=PRECISION,
        kernel_init=matrix_init(rngs),
        rngs=rngs,
    )


def linear(d_in: int, d_out: int, *, rngs: Any) -> nnx.Linear:
    """A dense layer with bias."""
    return nnx.Linear(
        d_in,
        d_out,
        dtype=jnp.float32,
        precision=PRECISION,
        kernel_init=matrix_init(rngs),
        rngs=rngs,
    )


class FixedNorm(nnx.Module):
    """PyTorch's batch norm as it judges: by the mean and variance it was trained to.

    Flax's own keeps its statistics in another kind of variable; here all four are parameters.
    """

    def __init__(self, channels: int, *, epsilon: float = 1e-5, rngs: Any):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.Param(jnp.zeros(channels))
        self.variance = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Float[Array, "*axes c"]) -> Float[Array, "*axes c"]:
        factor = self.scale[...] * jax.lax.rsqrt(self.variance[...] + self.epsilon)
        offset = self.bias[...] - self.mean[...] * factor
        axes = tuple(range(x.ndim - 1))
        return x * jnp.expand_dims(factor, axes) + jnp.expand_dims(offset, axes)


def max_pool(
    x: Float[Array, "n h w c"],
    window: int,
    stride: int | tuple[int, int],
    padding: int = 0,
) -> Float[Array, "n h2 w2 c"]:
    """The largest of each window; what is padded is never the largest."""
    strides: Sequence[int] = (stride, stride) if isinstance(stride, int) else stride
    return nnx.max_pool(x, (window, window), strides=strides, padding=[(padding, padding)] * 2)


def average_pool(x: Float[Array, "n h w c"], window: int) -> Float[Array, "n h2 w2 c"]:
    """The mean of each window, the windows side by side; what is left over at the far ends goes."""
    return nnx.avg_pool(x, (window, window), strides=(window, window))


def unit(x: Float[Array, "*axes c"]) -> Float[Array, "*axes c"]:
    """`x` of length 1 along the last axis; zeros stay zeros."""
    length = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    return x / jnp.maximum(length, 1e-12)
