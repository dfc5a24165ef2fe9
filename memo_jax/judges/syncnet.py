"""SyncNet: do the lips move with the sound, and by how many frames are they apart?

"Out of time: automated lip sync in the wild" (Chung and Zisserman, 2016), in the published
PyTorch form (`syncnet_v2.model`). Sync-C is its confidence and Sync-D its distance.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, UInt8

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.errors import UserError
from memo_jax.judges.layers import PRECISION, FixedNorm, conv, linear, max_pool
from memo_jax.judges.loading import batch_size, check_pictures, compiled, load_network
from memo_jax.judges.mfcc import mfcc
from memo_jax.judges.tables import SYNCNET
from memo_jax.models.layers import matrix_init

FPS = 25
SIDE = 224
FRAMES = 5  # of the lips, seen at once
ROWS = 20  # of cepstra, seen at once: the same 200 ms
ROWS_A_FRAME = 4
SAMPLES_A_FRAME = SAMPLE_RATE // FPS
REACH = 15  # offsets searched on both sides, in frames
WIDTH = 1024
APART = 1e-6  # PyTorch's pairwise_distance adds it to every difference


class Sync(NamedTuple):
    """How a video's lips go with its sound.

    `offset_frames` above 0: the picture is late, the lips of frame i fit the sound of frame
    i - offset. `confidence` (Sync-C) is the median distance over the offsets less the least,
    `distance` (Sync-D) the least.
    """

    offset_frames: int
    confidence: float
    distance: float


class FramesConv(nnx.Module):
    """A 7 x 7 convolution of stride 2 that spans five neighbouring frames."""

    def __init__(self, c_out: int, *, rngs: Any):
        shape = (7, 7, FRAMES, 3, c_out)
        self.kernel = nnx.Param(matrix_init(rngs)(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(c_out))

    def __call__(self, frames: Float[Array, "t h w 3"]) -> Float[Array, "n h2 w2 c"]:
        """One result for each run of five frames, n = t - 4."""
        n = len(frames) - FRAMES + 1
        # The five frames as 15 channels, so that two axes do for three.
        x = jnp.concatenate([frames[i : i + n] for i in range(FRAMES)], axis=-1)
        y = jax.lax.conv_general_dilated(
            x,
            rearrange(self.kernel[...], "h w t i o -> h w (t i) o"),
            window_strides=(2, 2),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=PRECISION,
        )
        return y + self.bias[...][None, None, None]


class Head(nnx.Module):
    """Features of a stream -> its place in the space that both streams share."""

    def __init__(self, *, rngs: Any):
        self.hidden = linear(512, 512, rngs=rngs)
        self.norm = FixedNorm(512, rngs=rngs)
        self.out = linear(512, WIDTH, rngs=rngs)

    def __call__(self, x: Float[Array, "n 512"]) -> Float[Array, "n d"]:
        return self.out(jax.nn.relu(self.norm(self.hidden(x))))


class Stream(nnx.Module):
    """Six convolutions, each with its norm and relu, and a head."""

    def __init__(self, convs: list[nnx.Module], widths: list[int], *, rngs: Any):
        self.convs = nnx.List(convs)
        self.norms = nnx.List([FixedNorm(width, rngs=rngs) for width in widths])
        self.head = Head(rngs=rngs)

    def step(self, i: int, x: Float[Array, "n h w c"]) -> Float[Array, "m h2 w2 k"]:
        """Convolution `i`, its norm and relu."""
        return jax.nn.relu(self.norms[i](self.convs[i](x)))

    def end(self, x: Float[Array, "n 1 1 c"]) -> Float[Array, "n d"]:
        """The head, once one position is left."""
        return self.head(rearrange(x, "n 1 1 c -> n c"))


class Sound(Stream):
    """Cepstra of 200 ms -> a place (`netcnnaud`, `netfcaud`)."""

    def __init__(self, *, rngs: Any):
        widths = [64, 192, 384, 256, 256, 512]
        convs = [
            conv(c_in, c_out, (3, 3), padding=(1, 1), rngs=rngs)
            for c_in, c_out in zip([1, *widths[:4]], widths[:5], strict=True)
        ]
        super().__init__([*convs, conv(256, 512, (5, 4), rngs=rngs)], widths, rngs=rngs)

    def __call__(self, cepstra: Float[Array, "n 20 13"]) -> Float[Array, "n d"]:
        x = self.step(0, rearrange(cepstra, "n t k -> n k t 1"))
        x = max_pool(self.step(1, x), 3, (1, 2))
        x = self.step(4, self.step(3, self.step(2, x)))
        return self.end(self.step(5, max_pool(x, 3, 2)))


class Lips(Stream):
    """Frames of a face -> a place for each run of five (`netcnnlip`, `netfclip`).

    Only the first kernel spans frames, so a stretch of video is read once, not five times.
    """

    def __init__(self, *, rngs: Any):
        convs = [
            FramesConv(96, rngs=rngs),
            conv(96, 256, (5, 5), stride=2, padding=(1, 1), rngs=rngs),
            *(conv(256, 256, (3, 3), padding=(1, 1), rngs=rngs) for _ in range(3)),
            conv(256, 512, (6, 6), rngs=rngs),
        ]
        super().__init__(convs, [96, 256, 256, 256, 256, 512], rngs=rngs)

    def __call__(self, frames: UInt8[Array, "t 224 224 3"]) -> Float[Array, "n d"]:
        """RGB frames; the network itself was trained on BGR from 0 to 255."""
        x = max_pool(self.step(0, frames[..., ::-1].astype(jnp.float32)), 3, 2)
        x = max_pool(self.step(1, x), 3, 2, padding=1)
        x = self.step(4, self.step(3, self.step(2, x)))
        return self.end(self.step(5, max_pool(x, 3, 2)))


class Network(nnx.Module):
    """Both streams; the class `S` of the published code."""

    def __init__(self, *, rngs: Any):
        self.sound = Sound(rngs=rngs)
        self.lips = Lips(rngs=rngs)


class SyncNet:
    """Judges a face that speaks against its sound."""

    def __init__(self, network: Network, *, batch: int | None = None):
        """`batch` places of either stream are found at once."""
        self.batch = batch or batch_size(32, on_cpu=8)
        self._lips = compiled(network, lambda net, frames: net.lips(frames))
        self._sound = compiled(network, lambda net, cepstra: net.sound(cepstra))

    def judge(self, crops: np.ndarray, samples: np.ndarray) -> Sync:
        """How the lips in `crops` go with `samples`.

        Args:
          crops: uint8 [n,224,224,3], RGB, the face as SyncNet's own pipeline crops it, at 25 fps.
          samples: float [t], mono in [-1, 1] at 16 kHz, beginning with the first crop. Of the two
            the longer one is cut.

        Raises:
          UserError: crops of another shape or type, or less than six frames (240 ms) of either.
        """
        return search(*self.places(crops, samples))

    def places(
        self, crops: np.ndarray, samples: np.ndarray
    ) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, "k d"]]:
        """Where the lips and the sound of frame after frame are, k = frames - 5; raises as `judge`.

        The published code leaves out the last run of five frames, and so do we.
        """
        crops, samples = np.asarray(crops), np.asarray(samples)
        check_pictures("the crops of a face", crops, ("n", SIDE, SIDE, 3))
        if samples.ndim != 1 or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            raise UserError(
                f"the sound is {samples.dtype} {list(samples.shape)}, expected finite floats [t] "
                "in [-1, 1] at 16 kHz"
            )
        frames = min(len(crops), len(samples) // SAMPLES_A_FRAME)
        count = frames - FRAMES
        if count < 1:
            raise UserError(
                f"{len(crops)} frames and {len(samples) / SAMPLE_RATE:.2f} s of sound are too "
                f"short to judge lip sync; expected at least {FRAMES + 1} frames at {FPS} fps and "
                "as much sound"
            )
        cepstra = mfcc(samples)
        lips, sound = [], []
        for start in range(0, count, self.batch):
            many = min(self.batch, count - start)
            # The last batch repeats its end, so that one shape is compiled once.
            at = np.minimum(start + np.arange(self.batch + FRAMES - 1), frames - 1)
            lips.append(np.asarray(self._lips(crops[at]))[:many])
            first = np.minimum(start + np.arange(self.batch), count - 1) * ROWS_A_FRAME
            heard = cepstra[first[:, None] + np.arange(ROWS)]
            sound.append(np.asarray(self._sound(heard))[:many])
        return np.concatenate(lips), np.concatenate(sound)


def search(
    lips: Float[np.ndarray, "k d"], sound: Float[np.ndarray, "k d"], reach: int = REACH
) -> Sync:
    """The offset at which lips and sound are nearest on average.

    As published, frames whose partner lies beyond an end are measured against zeros, so that a
    short video's far offsets are far by that alone.
    """
    padded = np.pad(sound, ((reach, reach), (0, 0)))
    apart = [
        np.linalg.norm(lips - padded[i : i + len(lips)] + np.float32(APART), axis=1)
        for i in range(2 * reach + 1)
    ]
    means = np.stack(apart).mean(axis=1, dtype=np.float64)
    best = int(np.argmin(means))
    least = float(means[best])
    return Sync(reach - best, float(np.median(means)) - least, least)


def load(path: str | Path) -> SyncNet:
    """A SyncNet with published weights (`syncnet_v2.model`).

    Raises:
      UserError: no such file, or its tensors are not SyncNet's.
    """
    network = load_network("SyncNet", path, lambda rngs: Network(rngs=rngs), SYNCNET)
    assert isinstance(network, Network)
    return SyncNet(network)
