"""I3D's 400 logits of a window of 16 frames, for FVD.

"Quo Vadis, Action Recognition?" (arXiv:1705.07750) trained on Kinetics-400, as FVD reads it
(arXiv:1812.01717): logits before the softmax. Frames are squeezed to 224 x 224 by PyTorch's rule
and brought to [-1, 1], as `i3d_torchscript.pt` of StyleGAN-V does with rescale and resize on.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, UInt8

from memo_jax.judges.layers import PRECISION, FixedNorm
from memo_jax.judges.loading import batch_size, compiled
from memo_jax.metrics.resize import bilinear
from memo_jax.models.layers import matrix_init

FRAMES = 16
SIDE = 224
WIDTH = 400
EPSILON = 1e-3  # of TensorFlow's original, and of its ports that agree with it

# Channels of the mixed layers: 1x1; 1x1 and 3x3x3; 1x1 and 3x3x3; 1x1 after the pool.
MIXED = {
    "mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}


class Unit(nnx.Module):
    """A convolution over time and space without bias, its norm and relu; padded as TensorFlow."""

    def __init__(
        self, c_in: int, c_out: int, size: int, *, stride: int = 1, epsilon: float, rngs: Any
    ):
        self.conv3d = nnx.Conv(
            c_in,
            c_out,
            (size,) * 3,
            strides=stride,
            padding="SAME",  # which is TensorFlow's, where the uneven pixel goes to the far end
            use_bias=False,
            dtype=jnp.float32,
            precision=PRECISION,
            kernel_init=matrix_init(rngs),
            rngs=rngs,
        )
        self.batch3d = FixedNorm(c_out, epsilon=epsilon, rngs=rngs)

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t2 h2 w2 k"]:
        return jax.nn.relu(self.batch3d(self.conv3d(x)))


class Mixed(nnx.Module):
    """Four branches side by side."""

    def __init__(self, c: int, widths: tuple[int, ...], *, epsilon: float, rngs: Any):
        def unit(c_in: int, c_out: int, size: int) -> Unit:
            return Unit(c_in, c_out, size, epsilon=epsilon, rngs=rngs)

        one, two_in, two, three_in, three, four = widths
        self.branch_0 = unit(c, one, 1)
        self.branch_1 = nnx.List([unit(c, two_in, 1), unit(two_in, two, 3)])
        self.branch_2 = nnx.List([unit(c, three_in, 1), unit(three_in, three, 3)])
        self.branch_3 = unit(c, four, 1)

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w k"]:
        branches = (
            self.branch_0(x),
            self.branch_1[1](self.branch_1[0](x)),
            self.branch_2[1](self.branch_2[0](x)),
            self.branch_3(_largest(x, (3, 3, 3), (1, 1, 1))),
        )
        return jnp.concatenate(branches, axis=-1)


class I3D(nnx.Module):
    """Windows in [-1, 1] -> logits. `epsilon` is of all norms."""

    def __init__(self, *, epsilon: float = EPSILON, rngs: Any):
        self.conv3d_1a_7x7 = Unit(3, 64, 7, stride=2, epsilon=epsilon, rngs=rngs)
        self.conv3d_2b_1x1 = Unit(64, 64, 1, epsilon=epsilon, rngs=rngs)
        self.conv3d_2c_3x3 = Unit(64, 192, 3, epsilon=epsilon, rngs=rngs)
        for name, (c, widths) in MIXED.items():
            setattr(self, name, Mixed(c, widths, epsilon=epsilon, rngs=rngs))
        self.logits = nnx.Linear(
            1024,
            WIDTH,
            dtype=jnp.float32,
            precision=PRECISION,
            kernel_init=matrix_init(rngs),
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "n t h w 3"]) -> Float[Array, "n 400"]:
        x = _largest(self.conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = self.conv3d_2c_3x3(self.conv3d_2b_1x1(x))
        x = self._mixed(_largest(x, (1, 3, 3), (1, 2, 2)), "3b", "3c")
        x = self._mixed(_largest(x, (3, 3, 3), (2, 2, 2)), "4b", "4c", "4d", "4e", "4f")
        x = self._mixed(_largest(x, (2, 2, 2), (2, 2, 2)), "5b", "5c")
        # Pairs of neighbouring times are averaged over the whole picture, then the pairs.
        x = jnp.mean((x[:, 1:] + x[:, :-1]) / 2, axis=(2, 3))
        return jnp.mean(self.logits(x), axis=1)

    def _mixed(self, x: Float[Array, "n t h w c"], *names: str) -> Float[Array, "n t h w k"]:
        for name in names:
            x = getattr(self, f"mixed_{name}")(x)
        return x


class I3DFeatures:
    """Logits of windows of frames of any size."""

    def __init__(self, network: nnx.Module, *, batch: int | None = None, side: int = SIDE):
        """`batch` windows go through at once, at `side` pixels: as published, unless given."""
        self.batch = batch or batch_size(8, on_cpu=1)
        self.side, self.width = side, WIDTH
        self._run = compiled(network)

    def prepared(
        self, window: UInt8[np.ndarray, "16 h w 3"]
    ) -> Float[np.ndarray, "16 side side 3"]:
        """A window as the network takes it."""
        return bilinear(window, self.side) * np.float32(2 / 255) - 1

    def __call__(
        self, windows: Float[np.ndarray, "n 16 side side 3"]
    ) -> Float[np.ndarray, "n 400"]:
        """float32, of `prepared` windows; n may be 0."""
        out = np.empty((len(windows), WIDTH), np.float32)
        for start in range(0, len(windows), self.batch):
            part = windows[start : start + self.batch]
            # The last batch repeats its end, so that one shape is compiled once.
            whole = np.concatenate([part, part[-1:].repeat(self.batch - len(part), axis=0)])
            out[start : start + len(part)] = np.asarray(self._run(whole))[: len(part)]
        return out


def windows_of(frames: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "k 16 h w 3"]:
    """Windows one after the other; a rest of fewer than 16 frames is left out."""
    whole = len(frames) // FRAMES * FRAMES
    return rearrange(frames[:whole], "(k t) h w c -> k t h w c", t=FRAMES)


def _largest(
    x: Float[Array, "n t h w c"], window: tuple[int, int, int], stride: tuple[int, int, int]
) -> Float[Array, "n t2 h2 w2 c"]:
    """The largest of each window; published with zeros around, which none of the values, all
    behind a relu, lies below."""
    return nnx.max_pool(x, window, strides=stride, padding="SAME")
