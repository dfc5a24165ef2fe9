"""One clip over several devices: which part is whose, and what they hand each other.

A program within `jax.shard_map` over the axes "guidance" and "frames", traced within `spread_over`,
is one device's: it has one branch of guidance, or all, and a share of the clip's frames, in their
order. Where frames meet, it trades them for a share of the positions of all frames. Everywhere else
the functions here give back what they are given, so that networks are written once.
"""

import contextlib
import contextvars
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from memo_jax.errors import UserError

GUIDANCE, FRAMES = "guidance", "frames"


@dataclass(frozen=True)
class Split:
    """Over how many devices branches of guidance (1 or 2), and frames, are split."""

    guidance: int = 1
    frames: int = 1

    @property
    def devices(self) -> int:
        """All of them."""
        return self.guidance * self.frames

    def __str__(self) -> str:
        return f"guidance={self.guidance},frames={self.frames}"


ONE = Split()
"""One device, which has all."""


def split_of(text: str | None) -> Split:
    """What `--mesh guidance=2,frames=4` says; one that is not named is 1.

    Raises:
      UserError: it says something else.
    """
    fields: dict[str, int] = {}
    for part in [] if text is None else text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        known = {GUIDANCE: r"[12]", FRAMES: r"[1-9]\d{0,5}"}.get(name)
        if known is None or name in fields or not re.fullmatch(known, number):
            raise UserError(
                f"--mesh {text!r}: expected guidance=1 or 2 and frames=1 or more, say "
                "guidance=2,frames=4"
            )
        fields[name] = int(number)
    return Split(**fields)


_split: contextvars.ContextVar[Split] = contextvars.ContextVar("split", default=ONE)


@contextlib.contextmanager
def spread_over(split: Split) -> Iterator[None]:
    """Within the block, programs are traced for one of the devices that `split` says."""
    token = _split.set(split)
    try:
        yield
    finally:
        _split.reset(token)


def by_position(x: Float[Array, "b f s c"]) -> Float[Array, "b f2 s2 c"]:
    """All frames at this device's share of positions, of its own frames at all positions."""
    if _split.get().frames == 1:
        return x
    return jax.lax.all_to_all(x, FRAMES, split_axis=2, concat_axis=1, tiled=True)


def by_frame(x: Float[Array, "b f s c"]) -> Float[Array, "b f2 s2 c"]:
    """The inverse of `by_position`."""
    if _split.get().frames == 1:
        return x
    return jax.lax.all_to_all(x, FRAMES, split_axis=1, concat_axis=2, tiled=True)


def own_frames(x: Shaped[Array, "b f ..."]) -> Shaped[Array, "b f2 ..."]:
    """This device's share of frames that it has all of."""
    return _share(x, FRAMES, _split.get().frames, axis=1)


def all_frames(x: Shaped[Array, "b f ..."]) -> Shaped[Array, "b f2 ..."]:
    """All frames, of each device's own."""
    if _split.get().frames == 1:
        return x
    return jax.lax.all_gather(x, FRAMES, axis=1, tiled=True)


def branches_apart() -> bool:
    """Whether this device has one branch of guidance, and another the other."""
    return _split.get().guidance > 1


def own_branch(x: Any) -> Any:
    """This device's rows of an array [null..., condition...] of both branches."""
    return _share(x, GUIDANCE, _split.get().guidance, axis=0)


def all_branches(x: Shaped[Array, "b ..."]) -> Shaped[Array, "b2 ..."]:
    """The rows [null..., condition...] of both branches, of each device's own."""
    if not branches_apart():
        return x
    return jax.lax.all_gather(x, GUIDANCE, axis=0, tiled=True)


def between_branches(
    run: Callable[[Array], Array], x: Shaped[Array, "b f ..."]
) -> Shaped[Array, "b f ..."]:
    """`run(x)`, which acts frame by frame, of frames that both branches have: each runs half of
    them, where they halve."""
    count = _split.get().guidance
    if count == 1 or x.shape[1] % count:
        return run(x)
    made = run(_share(x, GUIDANCE, count, axis=1))
    return jax.lax.all_gather(made, GUIDANCE, axis=1, tiled=True)


def rows(samples: int, frames: int, first: int = 0) -> Int[Any, "{samples} {frames}"]:
    """The numbers of frames among those of all samples of both branches: sample * frames of a clip
    + frame. Of samples from `first` on, and frames that this device has."""
    split = _split.get()
    branch: Any = jax.lax.axis_index(GUIDANCE) if split.guidance > 1 else 0
    share: Any = jax.lax.axis_index(FRAMES) if split.frames > 1 else 0
    of_sample = (branch * samples + first + np.arange(samples)) * (frames * split.frames)
    of_frame = share * frames + np.arange(frames)
    return of_sample[:, None] + of_frame[None]


def _share(x: Any, name: str, count: int, *, axis: int) -> Any:
    if count == 1:
        return x
    size = x.shape[axis] // count
    start = jax.lax.axis_index(name) * size
    return jax.lax.dynamic_slice_in_dim(jnp.asarray(x), start, size, axis)
