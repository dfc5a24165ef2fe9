"""Convolution: XLA's, and on a CPU products of matrices where those are much quicker."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from memo_jax.models.platform import platform

# Positions of a picture up to which a CPU's convolution is a product of matrices. XLA's own takes
# 40 times as long where the kernel is larger than the picture (3 x 3 over 2 x 2), and for a
# gradient 2 to 25 times up to here; on large pictures it is as fast, and needs no columns.
SMALL = 16

Pads = tuple[tuple[int, int], ...]


def convolve(
    x: Float[Array, "n h w c_in"],
    kernel: Float[Array, "kh kw c_in c_out"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "n h2 w2 c_out"]:
    """`jax.lax.conv_general_dilated`, which `options` are for, as `nnx.Conv` calls it: of NHWC and
    HWIO, without groups and dilation, of which a CPU's knows nothing.

    On a CPU it has no forward-mode derivative.
    """
    if platform() != "cpu" or kernel.shape[:2] == (1, 1):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    strides, padding = tuple(strides), tuple((low, high) for low, high in padding)
    if x.shape[1] * x.shape[2] <= SMALL:
        return _columns(x, kernel.shape, strides, padding) @ rearrange(
            kernel, "i j c o -> (i j c) o"
        )
    return _with_quick_gradient(x, kernel, strides, padding)


def _columns(
    x: Float[Array, "n h w c"], kernel: Sequence[int], strides: tuple[int, ...], padding: Pads
) -> Float[Array, "n h2 w2 kkc"]:
    """All that a kernel of this shape sees at each position, side by side."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    h, w = (
        (size - k) // s + 1 for size, k, s in zip(x.shape[1:3], kernel[:2], strides, strict=True)
    )
    down, right = strides
    seen = [
        x[:, i : i + (h - 1) * down + 1 : down, j : j + (w - 1) * right + 1 : right]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return jnp.concatenate(seen, axis=-1)


def _xla(x: Array, kernel: Array, strides: tuple[int, ...], padding: Pads) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _with_quick_gradient(
    x: Float[Array, "n h w c_in"],
    kernel: Float[Array, "kh kw c_in c_out"],
    strides: tuple[int, ...],
    padding: Pads,
) -> Float[Array, "n h2 w2 c_out"]:
    """XLA's convolution, but the kernel's gradient, for which XLA's takes 2 to 4 times as long."""
    return _xla(x, kernel, strides, padding)


def _forward(x: Array, kernel: Array, strides: tuple[int, ...], padding: Pads) -> Any:
    return _with_quick_gradient(x, kernel, strides, padding), (x, kernel)


def _backward(
    strides: tuple[int, ...], padding: Pads, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    (to_x,) = jax.linear_transpose(lambda x: _xla(x, kernel, strides, padding), x)(gradient)
    *size, c_in, c_out = kernel.shape
    ends = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(size, padding, strict=True))
    if c_in <= c_out or strides != (1, 1) or min(map(min, ends)) < 0:
        columns = _columns(x, kernel.shape, strides, padding)
        return to_x, jnp.einsum("nhwk,nhwo->ko", columns, gradient).reshape(kernel.shape)
    # The gradient has fewer channels to lay side by side: what it sees of x is x seen backwards.
    columns = _columns(gradient, (*size, c_out, c_in), strides, ends)
    to_kernel = jnp.einsum("nhwi,nhwk->ik", x, columns).reshape(c_in, *size, c_out)
    return to_x, rearrange(to_kernel, "i h w o -> h w i o")[::-1, ::-1]


_with_quick_gradient.defvjp(_forward, _backward)
