"""TransNet V2: where one shot of a video ends and the next begins (arXiv:2008.04838).

Frames are 48 x 27 pixels; the network sees 100 of them at a time and judges the middle 50.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, UInt8

from memo_jax.judges.layers import PRECISION, FixedNorm, average_pool, conv, linear, unit
from memo_jax.judges.loading import batch_size, check_pictures, compiled, load_network
from memo_jax.judges.tables import TRANSNET, TRANSNET_DILATIONS

HEIGHT, WIDTH = 27, 48
WINDOW = 100  # frames seen at once
STEP = 50  # frames judged at once, the middle of a window
FILTERS = 16  # of the first stack's branches; every stack has twice those before it
STACKS = 3
LOOKUP = 101  # neighbours a frame is compared with, itself in the middle
SIMILARITY = 128
HIDDEN = 1024
COLOURS = 8  # levels of each of red, green and blue


class Branch(nnx.Module):
    """A convolution over space, then one over time at its own dilation."""

    def __init__(self, c_in: int, filters: int, dilation: int, *, rngs: Any):
        self.spatial = conv(c_in, 2 * filters, (3, 3), padding=(1, 1), bias=False, rngs=rngs)
        self.temporal = conv(
            2 * filters,
            filters,
            (3, 1),
            padding=(dilation, 0),
            dilation=(dilation, 1),
            bias=False,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w k"]:
        t, h = x.shape[1:3]
        y = self.spatial(rearrange(x, "b t h w c -> (b t) h w c"))
        # A row of all positions, so that two axes do for three.
        y = self.temporal(rearrange(y, "(b t) h w c -> b t (h w) c", t=t))
        return rearrange(y, "b t (h w) c -> b t h w c", h=h)


class Block(nnx.Module):
    """Four branches side by side and a norm."""

    def __init__(self, c_in: int, filters: int, *, rngs: Any):
        self.branches = nnx.List(
            [Branch(c_in, filters, dilation, rngs=rngs) for dilation in TRANSNET_DILATIONS]
        )
        width = filters * len(TRANSNET_DILATIONS)
        self.norm = FixedNorm(width, epsilon=1e-3, rngs=rngs)  # TensorFlow's, where it was trained

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w k"]:
        return self.norm(jnp.concatenate([branch(x) for branch in self.branches], axis=-1))


class Stack(nnx.Module):
    """Two blocks, the first one's result added to the second's, at half the size."""

    def __init__(self, c_in: int, filters: int, *, rngs: Any):
        width = filters * len(TRANSNET_DILATIONS)
        self.blocks = nnx.List([Block(c_in, filters, rngs=rngs), Block(width, filters, rngs=rngs)])

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 k"]:
        first = jax.nn.relu(self.blocks[0](x))
        y = first + jax.nn.relu(self.blocks[1](first))
        pooled = average_pool(rearrange(y, "b t h w c -> (b t) h w c"), 2)
        return rearrange(pooled, "(b t) h w c -> b t h w c", t=x.shape[1])


class FrameSimilarity(nnx.Module):
    """How alike a frame's learned features are to its neighbours'."""

    def __init__(self, features: int, *, rngs: Any):
        self.projection = linear(features, SIMILARITY, rngs=rngs)
        self.out = linear(LOOKUP, SIMILARITY, rngs=rngs)

    def __call__(self, features: Float[Array, "b t c"]) -> Float[Array, "b t k"]:
        return jax.nn.relu(self.out(neighbours(unit(self.projection(features)))))


class ColourSimilarity(nnx.Module):
    """How alike a frame's colours are to its neighbours'."""

    def __init__(self, *, rngs: Any):
        self.out = linear(LOOKUP, SIMILARITY, rngs=rngs)

    def __call__(self, frames: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t k"]:
        return jax.nn.relu(self.out(neighbours(unit(colour_counts(frames)))))


class TransNet(nnx.Module):
    """Both heads' logits for every frame; `TransNetV2` of the authors' PyTorch code."""

    def __init__(self, *, rngs: Any):
        widths = [len(TRANSNET_DILATIONS) * FILTERS * 2**i for i in range(STACKS)]
        self.stacks = nnx.List(
            [Stack(c_in, FILTERS * 2**i, rngs=rngs) for i, c_in in enumerate([3, *widths[:-1]])]
        )
        self.frame_similarity = FrameSimilarity(sum(widths), rngs=rngs)
        self.colour_similarity = ColourSimilarity(rngs=rngs)
        left = (HEIGHT >> STACKS) * (WIDTH >> STACKS)
        self.hidden = linear(2 * SIMILARITY + left * widths[-1], HIDDEN, rngs=rngs)
        self.single = linear(HIDDEN, 1, rngs=rngs)
        self.many = linear(HIDDEN, 1, rngs=rngs)

    def __call__(self, frames: UInt8[Array, "b t 27 48 3"]) -> Float[Array, "b t 2"]:
        """Logits that a frame is the one of a transition, and that it is one of a transition's."""
        x = frames.astype(jnp.float32) / 255
        means = []
        for stack in self.stacks:
            x = stack(x)
            means.append(jnp.mean(x, axis=(2, 3)))
        seen = [
            self.colour_similarity(frames),
            self.frame_similarity(jnp.concatenate(means, axis=-1)),
            rearrange(x, "b t h w c -> b t (h w c)"),
        ]
        hidden = jax.nn.relu(self.hidden(jnp.concatenate(seen, axis=-1)))
        return jnp.concatenate([self.single(hidden), self.many(hidden)], axis=-1)


def neighbours(x: Float[Array, "b t c"]) -> Float[Array, "b t k"]:
    """Products of each frame with the frames from 50 before it to 50 after; 0 beyond the ends."""
    products = jnp.einsum("bic,bjc->bij", x, x, precision=PRECISION)
    side = LOOKUP // 2
    padded = jnp.pad(products, ((0, 0), (0, 0), (side, side)))
    at = np.arange(x.shape[1])[:, None] + np.arange(LOOKUP)
    return jnp.take_along_axis(padded, jnp.asarray(at)[None], axis=2)


def colour_counts(frames: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t bins"]:
    """How many pixels have each of 512 colours: 8 levels of red, of green, of blue.

    Counted by a product of indicators, which an accelerator has done before it has scattered.
    """
    levels = (rearrange(frames, "b t h w c -> b t (h w) c") >> 5).astype(jnp.int32)
    red, green, blue = (levels[..., i] for i in range(3))
    warm = jax.nn.one_hot(red * COLOURS + green, COLOURS**2)
    counts = jnp.einsum("btpi,btpj->btij", warm, jax.nn.one_hot(blue, COLOURS))
    return rearrange(counts, "b t i j -> b t (i j)")


class Cutter:
    """Finds cuts in videos of any length, window by window."""

    def __init__(self, network: nnx.Module, *, batch: int | None = None):
        """`network` maps uint8 [b,100,27,48,3] to logits [b,100,2]; `batch` windows go at once."""
        self.batch = batch or batch_size(16, on_cpu=1)
        self._run = compiled(network, lambda net, frames: jax.nn.sigmoid(net(frames)))

    def cuts(self, frames: np.ndarray) -> Float[np.ndarray, "n"]:
        """The probability that a frame is its transition's, float32; published threshold 0.5.

        At a hard cut the old shot's last frame has it. Raises as `heads`.
        """
        return self.heads(frames)[:, 0]

    def heads(self, frames: np.ndarray) -> Float[np.ndarray, "n 2"]:
        """Probabilities that a frame is the one of a transition, and that it is any of one's.

        Args:
          frames: uint8 [n,27,48,3], RGB, every frame of the video in order, squeezed to 48 x 27.
            Before the first frame and after the last stand copies of these, as published.

        Raises:
          UserError: frames of another shape or type, or none.
        """
        frames = np.asarray(frames)
        check_pictures("the frames for cuts", frames, ("n", HEIGHT, WIDTH, 3))
        starts = np.arange(0, len(frames), STEP) - (WINDOW - STEP) // 2
        found = []
        for first in range(0, len(starts), self.batch):
            chosen = starts[first : first + self.batch]
            filled = np.pad(chosen, (0, self.batch - len(chosen)), mode="edge")
            at = np.clip(filled[:, None] + np.arange(WINDOW), 0, len(frames) - 1)
            side = (WINDOW - STEP) // 2
            judged = np.asarray(self._run(frames[at]))[: len(chosen), side : side + STEP]
            found.append(rearrange(judged, "k t heads -> (k t) heads"))
        return np.concatenate(found)[: len(frames)]


def load(path: str | Path) -> Cutter:
    """A Cutter with published weights: the state dict of TransNet V2's PyTorch form.

    Raises:
      UserError: no such file, or its tensors are not TransNet V2's.
    """
    return Cutter(load_network("TransNet V2", path, lambda rngs: TransNet(rngs=rngs), TRANSNET))
