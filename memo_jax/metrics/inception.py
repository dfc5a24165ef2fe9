"""InceptionV3's pool features, 2,048 of a picture, for FID and KID.

The network of "Rethinking the Inception Architecture" (arXiv:1512.00567) as the FID weights of
2015-12-05 have it: average pools do not count what was padded, and the last block pools by the
maximum, where the paper takes means. Names are those of the weights' PyTorch form
(`pt_inception-2015-12-05`).
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from memo_jax.judges.layers import FixedNorm, conv, max_pool
from memo_jax.judges.loading import batch_size, compiled
from memo_jax.metrics.resize import bilinear

SIDE = 299
WIDTH = 2048
EPSILON = 1e-3

Preparation = Literal["pytorch", "tensorflow"]
Sizes = tuple[int, int]


class Unit(nnx.Module):
    """A convolution without bias, its norm and relu."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: Sizes,
        *,
        stride: int = 1,
        padding: Sizes = (0, 0),
        rngs: Any,
    ):
        self.conv = conv(c_in, c_out, kernel, stride=stride, padding=padding, bias=False, rngs=rngs)
        self.bn = FixedNorm(c_out, epsilon=EPSILON, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 k"]:
        return jax.nn.relu(self.bn(self.conv(x)))


class Block(nnx.Module):
    """Units by name. Kernels of odd sizes keep the picture's size unless they have a stride."""

    def __init__(self, units: Mapping[str, tuple[int, int, Sizes, int]], *, rngs: Any):
        for name, (c_in, c_out, (h, w), stride) in units.items():
            padding = (h // 2, w // 2) if stride == 1 else (0, 0)
            unit = Unit(c_in, c_out, (h, w), stride=stride, padding=padding, rngs=rngs)
            setattr(self, name, unit)

    def chain(self, x: Float[Array, "n h w c"], *names: str) -> Float[Array, "n h2 w2 k"]:
        """One unit after the other."""
        for name in names:
            x = getattr(self, name)(x)
        return x


class BlockA(Block):
    """Mixed_5b to 5d: at 35 pixels."""

    def __init__(self, c: int, pooled: int, *, rngs: Any):
        super().__init__(
            {
                "branch1x1": (c, 64, (1, 1), 1),
                "branch5x5_1": (c, 48, (1, 1), 1),
                "branch5x5_2": (48, 64, (5, 5), 1),
                "branch3x3dbl_1": (c, 64, (1, 1), 1),
                "branch3x3dbl_2": (64, 96, (3, 3), 1),
                "branch3x3dbl_3": (96, 96, (3, 3), 1),
                "branch_pool": (c, pooled, (1, 1), 1),
            },
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w k"]:
        return _joined(
            self.chain(x, "branch1x1"),
            self.chain(x, "branch5x5_1", "branch5x5_2"),
            self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            self.chain(_mean_of_nine(x), "branch_pool"),
        )


class BlockB(Block):
    """Mixed_6a: from 35 to 17 pixels."""

    def __init__(self, c: int, *, rngs: Any):
        super().__init__(
            {
                "branch3x3": (c, 384, (3, 3), 2),
                "branch3x3dbl_1": (c, 64, (1, 1), 1),
                "branch3x3dbl_2": (64, 96, (3, 3), 1),
                "branch3x3dbl_3": (96, 96, (3, 3), 2),
            },
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 k"]:
        return _joined(
            self.chain(x, "branch3x3"),
            self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            max_pool(x, 3, 2),
        )


class BlockC(Block):
    """Mixed_6b to 6e: at 17 pixels, `d` channels between kernels of seven."""

    def __init__(self, c: int, d: int, *, rngs: Any):
        super().__init__(
            {
                "branch1x1": (c, 192, (1, 1), 1),
                "branch7x7_1": (c, d, (1, 1), 1),
                "branch7x7_2": (d, d, (1, 7), 1),
                "branch7x7_3": (d, 192, (7, 1), 1),
                "branch7x7dbl_1": (c, d, (1, 1), 1),
                "branch7x7dbl_2": (d, d, (7, 1), 1),
                "branch7x7dbl_3": (d, d, (1, 7), 1),
                "branch7x7dbl_4": (d, d, (7, 1), 1),
                "branch7x7dbl_5": (d, 192, (1, 7), 1),
                "branch_pool": (c, 192, (1, 1), 1),
            },
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w k"]:
        return _joined(
            self.chain(x, "branch1x1"),
            self.chain(x, "branch7x7_1", "branch7x7_2", "branch7x7_3"),
            self.chain(x, *(f"branch7x7dbl_{i}" for i in range(1, 6))),
            self.chain(_mean_of_nine(x), "branch_pool"),
        )


class BlockD(Block):
    """Mixed_7a: from 17 to 8 pixels."""

    def __init__(self, c: int, *, rngs: Any):
        super().__init__(
            {
                "branch3x3_1": (c, 192, (1, 1), 1),
                "branch3x3_2": (192, 320, (3, 3), 2),
                "branch7x7x3_1": (c, 192, (1, 1), 1),
                "branch7x7x3_2": (192, 192, (1, 7), 1),
                "branch7x7x3_3": (192, 192, (7, 1), 1),
                "branch7x7x3_4": (192, 192, (3, 3), 2),
            },
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 k"]:
        return _joined(
            self.chain(x, "branch3x3_1", "branch3x3_2"),
            self.chain(x, *(f"branch7x7x3_{i}" for i in range(1, 5))),
            max_pool(x, 3, 2),
        )


class BlockE(Block):
    """Mixed_7b and 7c: at 8 pixels; `largest` pools by the maximum."""

    def __init__(self, c: int, *, largest: bool, rngs: Any):
        self.largest = largest
        super().__init__(
            {
                "branch1x1": (c, 320, (1, 1), 1),
                "branch3x3_1": (c, 384, (1, 1), 1),
                "branch3x3_2a": (384, 384, (1, 3), 1),
                "branch3x3_2b": (384, 384, (3, 1), 1),
                "branch3x3dbl_1": (c, 448, (1, 1), 1),
                "branch3x3dbl_2": (448, 384, (3, 3), 1),
                "branch3x3dbl_3a": (384, 384, (1, 3), 1),
                "branch3x3dbl_3b": (384, 384, (3, 1), 1),
                "branch_pool": (c, 192, (1, 1), 1),
            },
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w k"]:
        one = self.chain(x, "branch3x3_1")
        two = self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2")
        pooled = max_pool(x, 3, 1, padding=1) if self.largest else _mean_of_nine(x)
        return _joined(
            self.chain(x, "branch1x1"),
            self.chain(one, "branch3x3_2a"),
            self.chain(one, "branch3x3_2b"),
            self.chain(two, "branch3x3dbl_3a"),
            self.chain(two, "branch3x3dbl_3b"),
            self.chain(pooled, "branch_pool"),
        )


class InceptionV3(nnx.Module):
    """Pictures in [-1, 1] -> pool features."""

    def __init__(self, *, rngs: Any):
        self.Conv2d_1a_3x3 = Unit(3, 32, (3, 3), stride=2, rngs=rngs)
        self.Conv2d_2a_3x3 = Unit(32, 32, (3, 3), rngs=rngs)
        self.Conv2d_2b_3x3 = Unit(32, 64, (3, 3), padding=(1, 1), rngs=rngs)
        self.Conv2d_3b_1x1 = Unit(64, 80, (1, 1), rngs=rngs)
        self.Conv2d_4a_3x3 = Unit(80, 192, (3, 3), rngs=rngs)
        self.Mixed_5b = BlockA(192, 32, rngs=rngs)
        self.Mixed_5c = BlockA(256, 64, rngs=rngs)
        self.Mixed_5d = BlockA(288, 64, rngs=rngs)
        self.Mixed_6a = BlockB(288, rngs=rngs)
        self.Mixed_6b = BlockC(768, 128, rngs=rngs)
        self.Mixed_6c = BlockC(768, 160, rngs=rngs)
        self.Mixed_6d = BlockC(768, 160, rngs=rngs)
        self.Mixed_6e = BlockC(768, 192, rngs=rngs)
        self.Mixed_7a = BlockD(768, rngs=rngs)
        self.Mixed_7b = BlockE(1280, largest=False, rngs=rngs)
        self.Mixed_7c = BlockE(2048, largest=True, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n 2048"]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(max_pool(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(max_pool(x, 3, 2))))
        x = self.Mixed_6a(x)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return jnp.mean(x, axis=(1, 2))


class InceptionFeatures:
    """Features of frames of any size."""

    def __init__(
        self, network: nnx.Module, *, preparation: Preparation = "pytorch", batch: int | None = None
    ):
        """`batch` frames go through at once.

        `preparation` is how frames become pictures of 299: "pytorch" as pytorch-fid has it,
        "tensorflow" as the first FID program and torch-fidelity have it.
        """
        self.batch = batch or batch_size(32, on_cpu=4)
        self.preparation = preparation
        self._run = compiled(network)

    def __call__(self, frames: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n 2048"]:
        """float32; n may be 0."""
        out = np.empty((len(frames), WIDTH), np.float32)
        for start in range(0, len(frames), self.batch):
            part = prepared(frames[start : start + self.batch], self.preparation)
            # The last batch repeats its end, so that one shape is compiled once.
            whole = np.concatenate([part, part[-1:].repeat(self.batch - len(part), axis=0)])
            out[start : start + len(part)] = np.asarray(self._run(whole))[: len(part)]
        return out


def prepared(
    frames: UInt8[np.ndarray, "n h w 3"], preparation: Preparation
) -> Float[np.ndarray, "n 299 299 3"]:
    """Frames as the network takes them."""
    if preparation == "tensorflow":
        return (bilinear(frames, SIDE, "corner") - 128) / 128
    return bilinear(frames, SIDE, "half-pixel") * np.float32(2 / 255) - 1


def _joined(*maps: Float[Array, "n h w _"]) -> Float[Array, "n h w c"]:
    return jnp.concatenate(maps, axis=-1)


def _mean_of_nine(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Means of 3 x 3 windows; at the border of what is there."""
    return nnx.avg_pool(
        x, (3, 3), strides=(1, 1), padding=((1, 1), (1, 1)), count_include_pad=False
    )
