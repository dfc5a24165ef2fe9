"""Convolution: XLA's, and on a CPU one matrix product where a picture is small."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from memo_jax.models.platform import platform

# Positions of a picture up to which a CPU's convolution is a product of matrices. XLA's own takes
# 40 times as long where the kernel is larger than the picture (3 x 3 over 2 x 2), and for a
# gradient 2 to 25 times up to here; on large pictures it is as fast, and needs no columns.
SMALL = 16


def convolve(
    x: Float[Array, "n h w c_in"],
    kernel: Float[Array, "kh kw c_in c_out"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "n h2 w2 c_out"]:
    """`jax.lax.conv_general_dilated`, which `options` are for, as `nnx.Conv` calls it."""
    small = x.shape[1] * x.shape[2] <= SMALL and kernel.shape[0] * kernel.shape[1] > 1
    if small and platform() == "cpu":
        return _by_columns(x, kernel, strides, padding)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _by_columns(
    x: Float[Array, "n h w c_in"],
    kernel: Float[Array, "kh kw c_in c_out"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> Float[Array, "n h2 w2 c_out"]:
    """All that a kernel sees at a position, side by side, times the kernel as a matrix."""
    kh, kw, c_in, c_out = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    h, w = ((size - k) // s + 1 for size, k, s in zip(x.shape[1:3], (kh, kw), strides, strict=True))
    columns = jnp.concatenate(
        [
            x[:, i : i + (h - 1) * strides[0] + 1 : strides[0]][
                :, :, j : j + (w - 1) * strides[1] + 1 : strides[1]
            ]
            for i in range(kh)
            for j in range(kw)
        ],
        axis=-1,
    )
    return columns @ kernel.reshape(kh * kw * c_in, c_out)
