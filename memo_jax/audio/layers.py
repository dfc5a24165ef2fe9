"""Layers that the two speech encoders share."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from memo_jax.errors import UserError

# Scores of one head that may exist at once: 2048 x 2048. Longer sequences go query block by
# query block, because a song of minutes would need gigabytes for one layer's full matrix.
SCORES_AT_ONCE = 2**22
FEWEST_QUERIES = 128

Count = TypeVar("Count", int, Array)


class Norm(nnx.LayerNorm):
    """LayerNorm over the last axis, in float32 whatever comes in; the result has x's dtype."""

    def __init__(self, features: int, *, epsilon: float, rngs: Any, affine: bool = True):
        super().__init__(
            features,
            epsilon=epsilon,
            dtype=jnp.float32,
            use_bias=affine,
            use_scale=affine,
            use_fast_variance=False,
            rngs=rngs,
        )

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # no mask is ever passed
        """Normalises each position by itself."""
        return super().__call__(x.astype(jnp.float32)).astype(x.dtype)


def gelu(x: Array) -> Array:
    """The exact (erf) GELU."""
    return jax.nn.gelu(x, approximate=False)


def conv1d(
    channels_in: int,
    channels_out: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    bias: bool,
    dtype: DTypeLike,
    rngs: Any,
) -> nnx.Conv:
    """A convolution over time with PyTorch's symmetric padding."""
    return nnx.Conv(
        channels_in,
        channels_out,
        (kernel,),
        strides=(stride,),
        padding=[(padding, padding)],
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        rngs=rngs,
    )


def conv_steps(samples: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Time steps left of `samples` after unpadded convolutions.

    Raises:
      UserError: not even one step is left.
    """
    steps = steps_of(samples, kernels, strides)
    if steps < 1:
        shortest = receptive_field(kernels, strides)
        raise UserError(
            f"the sound is too short: {samples} samples at 16 kHz, expected at least {shortest}; "
            "give a longer recording"
        )
    return steps


def steps_of(samples: Count, kernels: Sequence[int], strides: Sequence[int]) -> Count:
    """As `conv_steps`, for arrays too and without a check."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that one output step of a stack of unpadded convolutions sees."""
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return field


def attend(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b m h d"],
    value: Float[Array, "b m h d"],
    bias: Float[Array, "h n m"] | None = None,
    real: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n h d"]:
    """Softmax attention over full sequences, scaled by d^-1/2, softmax in float32.

    Keys that are not `real` are seen by nobody. Without a bias it goes through long sequences in
    blocks of queries, so that memory grows with the length and not with its square. A bias is
    n x m already, so then there is nothing to save.
    """
    length, seen = query.shape[1], key.shape[1]
    if bias is not None or length * seen <= SCORES_AT_ONCE:
        return _attend(query, key, value, bias, real)
    block = min(length, max(FEWEST_QUERIES, SCORES_AT_ONCE // seen))
    count = -(-length // block)
    padded = jnp.pad(query, ((0, 0), (0, count * block - length), (0, 0), (0, 0)))

    def one(index: Array) -> Array:
        queries = jax.lax.dynamic_slice_in_dim(padded, index * block, block, axis=1)
        return _attend(queries, key, value, None, real)

    blocks = jax.lax.map(one, jnp.arange(count))
    joined = rearrange(blocks, "k b n h d -> b (k n) h d")
    return joined[:, :length]


def _attend(
    query: Array, key: Array, value: Array, bias: Array | None, real: Array | None
) -> Array:
    scores = jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)[None]
    if real is not None:
        scores = jnp.where(real[:, None, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, value)
