"""Readers: what a picture of a puppet shows, without its truth.

One small network, trained on drawn pictures (`memo_jax.puppets.train_readers`) and shipped frozen,
looks at single frames: at those of `memo_jax.puppets.world` and at those that a model generated.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree, UInt8
from safetensors.numpy import save

from memo_jax.errors import UserError
from memo_jax.models.layers import conv, group_norm, linear, normed
from memo_jax.models.types import Rngs
from memo_jax.puppets.emotion import SHOWN, number
from memo_jax.weights import build
from memo_jax.weights.readers.safetensors import open_safetensors

SIZE = 64
"""Pixels of the square that the readers see; other sizes are resampled."""

IDENTITY = 64
"""Numbers of an identity embedding."""

MAPS = 32
"""Places that the network finds."""

LANDMARKS = 20
"""The first of them, about which it looks again; `train_readers.landmarks` names them."""

UPRIGHT = 5
"""The last landmarks are the body's, which does not roll."""

MARGIN = 1
"""Pixels by which a picture is shifted at most; what comes in repeats its edge."""

VIEWS = ((0, 0), (-1, 1), (1, -1), (1, 1), (-1, -1))
"""The shifts over which a reading is the mean."""

BATCH = 128
"""Frames in a call; what does not fill one is padded."""

NUMBERS: dict[str, tuple[float, float]] = {
    "opening": (0.4, 0.33),
    "width": (0.48, 0.2),
    "rounding": (0.15, 0.27),
    "intensity": (0.68, 0.3),
    "x": (0.0, 0.026),
    "y": (0.0, 0.023),
    "roll": (0.0, 4.2),
    "scale": (1.0, 0.036),
}
"""Fields of `Truth` that are read as numbers; the network gives each less a middle, over a
spread."""

CLASSES = np.array([number(name) for name in SHOWN])
"""The classes of `memo_jax.audio.emotion.EMOTIONS` that a reading's columns stand for."""

SHIPPED = Path(__file__).parents[1] / "assets" / "readers"

_FILE = "readers.safetensors"
_SHARES = ("opening", "width", "rounding", "intensity")


class Step(nnx.Module):
    """A convolution of 3 by 3, a norm over the picture, ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, rngs: Rngs):
        self.conv = conv(c_in, c_out, 3, stride=stride, dtype=jnp.float32, rngs=rngs)
        self.norm = group_norm(c_out, 8, 1e-5, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        return jax.nn.relu(normed(self.norm, self.conv(x)))


class Seen(NamedTuple):
    """What the network gives: numbers in the order of `NUMBERS`, logits in the order of `SHOWN`,
    identity embeddings of length 1; numbers at first sight; and the maps' places, x and y as shares
    of the picture."""

    numbers: Float[Array, "b 8"]
    logits: Float[Array, "b 8"]
    identity: Float[Array, "b d"]
    first: Float[Array, "b 8"]
    places: Float[Array, "b m 2"]


class ReaderNet(nnx.Module):
    """Pictures in [0, 1] -> numbers, logits of the shown emotions, identity embeddings.

    At first sight convolutions and maps tell about where things are: each map's weighted mean place
    follows one. At second sight patches about the landmarks, turned and sized as the head seems to
    be, tell how far off that is: there a fraction of a pixel is plain to see.
    """

    def __init__(self, *, rngs: Rngs):
        f32 = jnp.float32
        self.stem = Step(12, 48, 2, rngs=rngs)
        self.face = nnx.List([Step(48, 64, 2, rngs=rngs), Step(64, 64, 1, rngs=rngs)])
        # Four cells of a map for each of the 8 x 8 places.
        self.maps = linear(64, 4 * MAPS, dtype=f32, rngs=rngs)
        self.whole = Step(64, 64, 2, rngs=rngs)
        self.dense = linear(16 * 64 + 2, 96, dtype=f32, rngs=rngs)
        self.hidden = linear(96 + 2 * MAPS, 128, dtype=f32, rngs=rngs)
        self.first = linear(128, len(NUMBERS), dtype=f32, rngs=rngs)
        self.patches = nnx.List(
            [linear(3 * len(_GRID), 16, dtype=f32, rngs=rngs) for _ in range(LANDMARKS)]
        )
        self.second = linear(128 + 2 * MAPS + 16 * LANDMARKS, 128, dtype=f32, rngs=rngs)
        self.numbers = linear(128, len(NUMBERS), dtype=f32, rngs=rngs)
        self.emotion = linear(128, len(SHOWN), dtype=f32, rngs=rngs)
        self.who = nnx.List([Step(48, 32, 2, rngs=rngs), Step(32, 64, 2, rngs=rngs)])
        self.identity = linear(16 * 64, IDENTITY, dtype=f32, rngs=rngs)

    def __call__(self, pictures: Float[Array, "b 64 64 3"], at: Float[Array, "b 2"]) -> Seen:
        """`at` is where the pictures' corners lie in what is asked about, x and y in pixels: a
        network that sees one of four pixels errs a little differently for every such shift."""
        # Twelve channels at half size: convolutions of three channels are slow on a CPU.
        x = rearrange(pictures * 2 - 1, "b (h i) (w j) c -> b h w (i j c)", i=2, j=2)
        face = who = self.stem(x)
        for step in self.face:
            face = step(face)
        seen = _places(rearrange(self.maps(face), "b h w (i j m) -> b m (h i) (w j)", i=2, j=2))
        places = seen + at[:, None] / SIZE
        whole = rearrange(self.whole(face), "b h w c -> b (h w c)")
        whole = jax.nn.relu(self.dense(jnp.concatenate([whole, at], axis=-1)))
        # About -1 to 1 each, as a head moves.
        moved = rearrange(8 * (places - 0.5), "b m xy -> b (m xy)")
        h = jax.nn.relu(self.hidden(jnp.concatenate([whole, moved], axis=-1)))
        first = self.first(h)
        patches = _patches(pictures, jax.lax.stop_gradient(seen[:, :LANDMARKS]), first)
        parts = [layer(patches[:, k]) for k, layer in enumerate(self.patches)]
        h = jnp.concatenate([h, moved, *(jax.nn.relu(part) for part in parts)], axis=-1)
        h = jax.nn.relu(self.second(h))
        numbers = jax.lax.stop_gradient(first) + self.numbers(h)
        for step in self.who:
            who = step(who)
        z = self.identity(rearrange(who, "b h w c -> b (h w c)"))
        z = z * jax.lax.rsqrt(jnp.sum(jnp.square(z), axis=-1, keepdims=True) + 1e-12)
        return Seen(numbers, self.emotion(h), z, first, places)


def _places(maps: Float[Array, "b m h w"]) -> Float[Array, "b m 2"]:
    """Where each map has its weight: the mean place under a softmax over all cells."""
    weights = jax.nn.softmax(rearrange(maps, "b m h w -> b m (h w)"), axis=-1)
    along = (np.arange(maps.shape[-1]) + 0.5) / maps.shape[-1]
    y, x = np.meshgrid(along, along, indexing="ij")
    cells = jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=1), weights.dtype)
    return weights @ cells


def _patches(
    pictures: Float[Array, "b 64 64 3"], places: Float[Array, "b l 2"], numbers: Float[Array, "b 8"]
) -> Float[Array, "b l p"]:
    """The pictures about places, turned and sized by the numbers' roll and scale, each patch less
    its mean and over its contrast. No gradient goes through."""
    known = dict(zip(NUMBERS, jax.lax.stop_gradient(numbers).T, strict=True))
    roll, scale = (NUMBERS[name][0] + NUMBERS[name][1] * known[name] for name in ("roll", "scale"))
    rolls = np.arange(places.shape[1]) < places.shape[1] - UPRIGHT
    turn = jnp.radians(roll[:, None] * rolls[None])
    c, s = jnp.cos(turn), jnp.sin(turn)
    axes = scale[:, None, None, None] * jnp.stack(
        [jnp.stack([c, s], -1), jnp.stack([-s, c], -1)], -2
    )
    points = SIZE * places[:, :, None] - 0.5 + jnp.asarray(_GRID)[None, None] @ axes
    points = jnp.clip(points, 0, SIZE - 1.001)
    low = jnp.floor(points)
    (x, y), (right, down) = (rearrange(v, "b l p xy -> xy b (l p) 1") for v in (low, points - low))
    flat = rearrange(pictures, "b h w c -> b (h w) c")
    corner = (SIZE * y + x).astype(jnp.int32)
    a, b, c, d = (
        jnp.take_along_axis(flat, corner + step, axis=1) for step in (0, 1, SIZE, SIZE + 1)
    )
    values = (1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * c + right * d)
    values = rearrange(values, "b (l p) c -> b l (p c)", l=places.shape[1])
    values = values - jnp.mean(values, axis=-1, keepdims=True)
    contrast = jnp.sqrt(jnp.mean(jnp.square(values), axis=-1, keepdims=True))
    return values / (contrast + 0.02)


# Pixels about a patch's middle.
_GRID = np.stack(np.meshgrid(np.arange(8) - 3.5, np.arange(8) - 3.5), axis=-1).reshape(-1, 2)
_GRID = _GRID.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Reading:
    """What frames show; fields as in `memo_jax.puppets.truth.Truth`, float32.

    Attributes:
      opening: of the mouth, 0 closed to 1.
      width: of the mouth, 0 narrow to 1 spread.
      rounding: of the lips, 0 to 1.
      intensity: of the emotion, 0 to 1.
      x: the head's place right of its rest, as a share of the picture.
      y: below its rest.
      roll: degrees, clockwise as seen.
      scale: of the head, 1 at rest.
      emotion: probability of each of `SHOWN`; `CLASSES` are their numbers.
      identity: of length 1; the product of two frames' is near 1 for the same person.
    """

    opening: Float[np.ndarray, " n"]
    width: Float[np.ndarray, " n"]
    rounding: Float[np.ndarray, " n"]
    intensity: Float[np.ndarray, " n"]
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    roll: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]
    emotion: Float[np.ndarray, "n 8"]
    identity: Float[np.ndarray, "n d"]

    def __len__(self) -> int:
        return len(self.opening)

    @property
    def shown(self) -> np.ndarray:
        """The most probable emotion of each frame, a class of `EMOTIONS`."""
        return CLASSES[self.emotion.argmax(axis=1)]


class Readers:
    """The frozen network with its weights."""

    def __init__(self, graph: nnx.GraphDef, params: PyTree):
        self._graph = graph
        self._params = params

    @classmethod
    def of(cls, values: Mapping[str, np.ndarray], origin: str = "readers") -> "Readers":
        """Readers with parameters by path name, of any float type.

        Raises:
          UserError: another network's.
        """
        graph, shapes = build.abstract(lambda rngs: ReaderNet(rngs=rngs))
        found = {name: value.shape for name, value in values.items()}
        if found != {name: leaf.shape for name, leaf in shapes.items()}:
            raise UserError(
                f"{origin} holds other weights than this version's readers have; train them anew "
                "with python -m memo_jax.puppets.train_readers"
            )
        params = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
        return cls(graph, build.unflatten(params))

    @classmethod
    def load(cls, folder: str | Path = SHIPPED) -> "Readers":
        """The readers that are shipped, or those that training wrote to a folder.

        Raises:
          UserError: nothing whole is there.
        """
        path = Path(folder, _FILE)
        if not path.is_file():
            raise UserError(
                f"{str(folder)!r} holds no {_FILE}; give a folder that "
                "python -m memo_jax.puppets.train_readers wrote"
            )
        with open_safetensors(path) as tensors:
            return cls.of(tensors, str(path))

    def read(self, frames: np.ndarray) -> Reading:
        """What RGB frames, uint8 [n, size, size, 3], show, each for itself.

        Frames of another size are averaged to 64 pixels.

        Raises:
          UserError: frames of another kind.
        """
        frames = np.asarray(frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise UserError(
                f"frames are {frames.dtype} {list(frames.shape)}, expected uint8 [n, size, size, 3]"
            )
        if frames.shape[1] != frames.shape[2] or not frames.shape[1]:
            raise UserError(f"frames are {frames.shape[2]}x{frames.shape[1]}, expected squares")
        parts = []
        for at in range(0, len(frames), BATCH):
            some = _sized(frames[at : at + BATCH])
            filled = np.pad(some, ((0, BATCH - len(some)), (0, 0), (0, 0), (0, 0)))
            parts.append([np.asarray(a)[: len(some)] for a in self._outputs(filled)])
        if not parts:
            parts = [[np.zeros((0, k), np.float32) for k in (len(NUMBERS), len(SHOWN), IDENTITY)]]
        numbers, logits, who = (np.concatenate(part) for part in zip(*parts, strict=True))
        columns = {
            name: middle + spread * column
            for (name, (middle, spread)), column in zip(NUMBERS.items(), numbers.T, strict=True)
        }
        columns |= {name: np.clip(columns[name], 0.0, 1.0) for name in _SHARES}
        return Reading(**columns, emotion=logits, identity=who)

    def _outputs(self, frames: UInt8[np.ndarray, "b 64 64 3"]) -> tuple[Array, Array, Array]:
        return _apply(self._graph, self._params, frames)


def write_readers(folder: Path, values: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Path:
    """Parameters by path name as float16, with notes on how they came to be; whole or not at all.

    Raises:
      UserError: the folder cannot be written.
    """
    halves = {name: np.ascontiguousarray(value, np.float16) for name, value in values.items()}
    data = save(halves, {"readers": json.dumps(dict(about))})
    path = folder / _FILE
    unfinished = folder / f".{_FILE}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{str(folder)!r} cannot be written: {error.strerror}") from error
    return path


@partial(jax.jit, static_argnums=0)
def _apply(graph: nnx.GraphDef, params: PyTree, frames: Array) -> tuple[Array, Array, Array]:
    net: Any = nnx.merge(graph, params)
    edge = (MARGIN, MARGIN)
    padded = jnp.pad(frames, ((0, 0), edge, edge, (0, 0)), mode="edge")

    def view(at: Int[Array, " 2"]) -> tuple[Array, Array, Array]:
        start = (0, MARGIN + at[1], MARGIN + at[0], 0)
        shifted = jax.lax.dynamic_slice(padded, start, frames.shape)
        where = jnp.broadcast_to(at.astype(jnp.float32), (len(frames), 2))
        seen = net(shifted.astype(jnp.float32) / 255, where)
        return seen.numbers, jax.nn.softmax(seen.logits, axis=-1), seen.identity

    numbers, shares, who = (jnp.mean(x, axis=0) for x in jax.lax.map(view, jnp.array(VIEWS)))
    return numbers, shares, who * jax.lax.rsqrt(jnp.sum(jnp.square(who), axis=-1, keepdims=True))


def _sized(frames: np.ndarray) -> np.ndarray:
    if frames.shape[1] == SIZE:
        return frames
    size = (SIZE, SIZE)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
