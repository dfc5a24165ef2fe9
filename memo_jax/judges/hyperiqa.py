"""HyperIQA: how good a picture looks, from 0 to 100, with nothing to compare it with.

Su and others, CVPR 2020, in the published PyTorch form trained on KonIQ-10k. What the picture
shows decides by which small network its distortions are judged.
"""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, UInt8
from PIL import Image

from memo_jax.judges.layers import PRECISION, conv, linear
from memo_jax.judges.loading import check_pictures, compiled, load_network
from memo_jax.judges.resnet import Backbone
from memo_jax.judges.tables import HYPERIQA

CROP = 224
CROPS = 10  # whose scores are averaged
HEIGHT, WIDTH = 512, 384  # upright, as published, whatever the picture's shape
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

CELLS = 7  # side of the backbone's last map
CONTENT = 112  # channels that the judging network's weights are made from
LOCAL = 16
TARGET = (224, 112, 56, 28, 14)  # widths of the judging network; its last layer gives one number


class HyperNet(nnx.Module):
    """Normalised crops -> scores; `HyperNet` and `TargetNet` of the published code in one."""

    def __init__(self, *, rngs: Any):
        self.backbone = Backbone(local=LOCAL, width=TARGET[0], rngs=rngs)
        widths = (2048, 1024, 512, CONTENT)
        self.reduce = nnx.List([linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.kernels = nnx.List(
            [
                conv(CONTENT, a * b // CELLS**2, (3, 3), padding=(1, 1), rngs=rngs)
                for a, b in itertools.pairwise(TARGET)
            ]
        )
        self.biases = nnx.List([linear(CONTENT, width, rngs=rngs) for width in TARGET[1:]])
        self.last_kernel = linear(CONTENT, TARGET[-1], rngs=rngs)
        self.last_bias = linear(CONTENT, 1, rngs=rngs)

    def __call__(self, crops: UInt8[Array, "n 224 224 3"]) -> Float[Array, "n"]:
        """Scores of RGB crops."""
        x = crops.astype(jnp.float32) / 255
        mean, deviation = (jnp.asarray(v)[None, None, None] for v in (MEAN, DEVIATION))
        content, q = self.backbone((x - mean) / deviation)
        for dense in self.reduce:
            content = jax.nn.relu(dense(content))
        whole = jnp.mean(content, axis=(1, 2))
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            made = rearrange(kernel(content), "n h w c -> n (c h w)")
            made = rearrange(made, "n (o i) -> n o i", i=q.shape[-1])
            q = jnp.einsum("noi,ni->no", made, q, precision=PRECISION) + bias(whole)
            q = jax.nn.sigmoid(q)
        return jnp.sum(self.last_kernel(whole) * q, axis=-1) + self.last_bias(whole)[:, 0]


class Quality:
    """Scores pictures."""

    def __init__(self, network: nnx.Module):
        self._run = compiled(network)

    def score(self, picture: np.ndarray, seed: int = 0) -> float:
        """The mean score of ten crops: 0 is bad and 100 is good, by training and not by a limit.

        The published code draws new crops at every run. Here `seed` alone draws them (NumPy's
        PCG64), so that a picture's score is the same whenever it is asked for, and pictures that
        are compared are seen through the same crops.

        Args:
          picture: uint8 [h,w,3], RGB. As published it is resized to 384 x 512 (width x height), of
            which 224 x 224 are seen at a time.
          seed: of the crops' places.

        Raises:
          UserError: a picture of another shape or type.
        """
        picture = np.asarray(picture)
        check_pictures("the picture's values", picture, ("h", "w", 3))
        return float(np.mean(np.asarray(self._run(crops(picture, seed))), dtype=np.float64))


def crops(picture: UInt8[np.ndarray, "h w 3"], seed: int) -> UInt8[np.ndarray, "10 224 224 3"]:
    """The places of a picture that are judged."""
    whole = np.asarray(Image.fromarray(picture).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    rng = np.random.default_rng(seed)
    tops = rng.integers(0, HEIGHT - CROP + 1, CROPS)
    lefts = rng.integers(0, WIDTH - CROP + 1, CROPS)
    return np.stack([whole[y : y + CROP, x : x + CROP] for y, x in zip(tops, lefts, strict=True)])


def load(path: str | Path) -> Quality:
    """A Quality with published weights (`koniq_pretrained.pkl`).

    Raises:
      UserError: no such file, or its tensors are not HyperIQA's.
    """
    return Quality(load_network("HyperIQA", path, lambda rngs: HyperNet(rngs=rngs), HYPERIQA))
