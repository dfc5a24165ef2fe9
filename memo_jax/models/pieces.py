"""Parts of a batch, and a memory in rows, of which a piece at a time is as it is worked on.

Pieces are rounds of a loop. Were they not, compilers would be free to make every layer's float32,
or its tiles, first and to use them afterwards, and some do: that takes as much again as was saved.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

# A memory is a pytree of arrays [n, ...] whose rows are as `MemoryRows`'s: sample by sample,
# position by position.
Memory = Any

# Of a piece in float32. Large enough that a loop's rounds cost nothing beside the work in them.
PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Part:
    """Samples that are the `index`-th of `count` equal parts of a batch."""

    index: int
    count: int

    def rows(self, leaf: Any) -> Any:
        """The part's rows of an array of the whole batch's."""
        size = leaf.shape[0] // self.count
        return leaf[self.index * size : (self.index + 1) * size]


def renewed(
    renew: Callable[[Float[Array, "1 p s2 c"], Memory], Memory],
    past: Float[Array, "b p s c"],
    memory: Memory,
) -> Memory:
    """`renew(past, memory)`, which acts position by position.

    `renew` is given some positions of one sample, and their memory; what it makes of that in
    float32 exists for those alone.
    """
    size, rounds = _sizes(past, memory, len(past))

    def one(i: Int[Array, ""], kept: Memory) -> Memory:
        rows = _rows(kept, i, rounds)
        new = renew(_positions(past, i, size), rows)
        return jax.tree.map(
            lambda leaf, own: jax.lax.dynamic_update_slice_in_dim(leaf, own, i * len(own), axis=0),
            kept,
            new,
        )

    return jax.lax.fori_loop(0, rounds, one, memory)


def read(
    reader: Callable[[Float[Array, "1 f s2 c"], Memory], Float[Array, "1 f s2 c2"]],
    x: Float[Array, "b f s c"],
    memory: Memory,
    part: Part | None = None,
) -> Float[Array, "b f s c2"]:
    """`reader(x, memory)`, which acts position by position; or where the memory is of a whole
    batch, `reader(x, part.rows(memory))`.

    `reader` is given some positions of one sample, and their memory.
    """
    part = Part(0, 1) if part is None else part
    samples = part.count * len(x)
    size, rounds = _sizes(x, memory, samples)
    own = rounds // part.count

    def one(i: Int[Array, ""]) -> Array:
        # Bound to this round: some compilers slice in float32, and would keep a copy for all.
        i, bound = jax.lax.optimization_barrier((i, memory))
        rows = _rows(bound, part.index * own + i, rounds)
        return reader(_positions(x, i, size), rows)[0]

    parts = jax.lax.map(one, jnp.arange(own))
    return rearrange(parts, "(b pieces) f s c -> b f (pieces s) c", b=len(x))


def _sizes(x: Float[Array, "b f s c"], memory: Memory, samples: int) -> tuple[int, int]:
    """Positions of a piece, and pieces of the whole memory. A sample has two at least where it can:
    a loop of one round is none to a compiler."""
    positions = x.shape[2]
    each = sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(memory))
    most = max(1, min(PIECE_BYTES * samples * positions // max(each, 1), positions // 2))
    size = next(n for n in range(most, 0, -1) if positions % n == 0)
    return size, samples * (positions // size)


def _positions(
    x: Float[Array, "b f s c"], i: Int[Array, ""], size: int
) -> Float[Array, "1 f {size} c"]:
    """Piece number i of all samples' pieces."""
    each = x.shape[2] // size
    _, f, _, c = x.shape
    return jax.lax.dynamic_slice(x, (i // each, 0, i % each * size, 0), (1, f, size, c))


def _rows(memory: Memory, i: Int[Array, ""], pieces: int) -> Memory:
    """The memory of piece i."""

    def own(leaf: Array) -> Array:
        size = leaf.shape[0] // pieces
        return jax.lax.dynamic_slice_in_dim(leaf, i * size, size, axis=0)

    return jax.tree.map(own, memory)
