"""ResNet-50 as HyperIQA reads it: its last map, and what every level says of local distortions."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from memo_jax.judges.layers import FixedNorm, average_pool, conv, linear, max_pool

DEPTHS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)
WIDER = 4  # a block gives this many times the channels it works in
LOCAL = (16, 32, 64, None)  # channels each level is reduced to; the last is read as it is
PATCH = 7  # side of the patches that distortions are told over


class Bottleneck(nnx.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions beside a shortcut."""

    def __init__(self, c_in: int, width: int, stride: int, *, rngs: Any):
        c_out = WIDER * width
        self.conv1 = conv(c_in, width, (1, 1), bias=False, rngs=rngs)
        self.norm1 = FixedNorm(width, rngs=rngs)
        self.conv2 = conv(
            width, width, (3, 3), stride=stride, padding=(1, 1), bias=False, rngs=rngs
        )
        self.norm2 = FixedNorm(width, rngs=rngs)
        self.conv3 = conv(width, c_out, (1, 1), bias=False, rngs=rngs)
        self.norm3 = FixedNorm(c_out, rngs=rngs)
        if stride != 1 or c_in != c_out:
            self.shortcut = conv(c_in, c_out, (1, 1), stride=stride, bias=False, rngs=rngs)
            self.shortcut_norm = FixedNorm(c_out, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 k"]:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return jax.nn.relu(
            y + (self.shortcut_norm(self.shortcut(x)) if hasattr(self, "shortcut") else x)
        )


class Local(nnx.Module):
    """A level's map -> a vector: fewer channels, means over patches, a dense layer."""

    def __init__(self, c_in: int, reduced: int | None, patches: int, c_out: int, *, rngs: Any):
        if reduced is not None:
            self.reduce = conv(c_in, reduced, (1, 1), bias=False, rngs=rngs)
        self.out = linear(patches * (reduced or c_in), c_out, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n k"]:
        y = average_pool(self.reduce(x) if hasattr(self, "reduce") else x, PATCH)
        return self.out(rearrange(y, "n h w c -> n (c h w)"))


class Backbone(nnx.Module):
    """Normalised pictures of 224 x 224 -> the last map and the vector of all levels.

    `local` is the width of each level's part of the vector but the last, which has the rest of
    `width`.
    """

    def __init__(self, *, local: int, width: int, rngs: Any):
        self.conv1 = conv(3, 64, (7, 7), stride=2, padding=(3, 3), bias=False, rngs=rngs)
        self.norm1 = FixedNorm(64, rngs=rngs)
        levels, parts, c_in = [], [], 64
        for i, (depth, channels) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
            blocks = []
            for j in range(depth):
                stride = 2 if i and not j else 1
                blocks.append(Bottleneck(c_in, channels, stride, rngs=rngs))
                c_in = WIDER * channels
            levels.append(nnx.List(blocks))
            patches = (8 >> i) ** 2
            c_out = local if LOCAL[i] else width - local * (len(DEPTHS) - 1)
            parts.append(Local(c_in, LOCAL[i], patches, c_out, rngs=rngs))
        self.levels, self.local = nnx.List(levels), nnx.List(parts)

    def __call__(
        self, x: Float[Array, "n 224 224 3"]
    ) -> tuple[Float[Array, "n 7 7 2048"], Float[Array, "n width"]]:
        x = max_pool(jax.nn.relu(self.norm1(self.conv1(x))), 3, 2, padding=1)
        said = []
        for blocks, local in zip(self.levels, self.local, strict=True):
            for block in blocks:
                x = block(x)
            said.append(local(x))
        return x, jnp.concatenate(said, axis=-1)
