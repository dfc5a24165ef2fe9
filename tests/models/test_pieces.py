"""A memory in rows, in pieces: what it would be whole, and no more memory than it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import relative_error

from memo_jax.config import MotionConfig
from memo_jax.models import pieces
from memo_jax.models.motion import MemoryRows, MotionMemory, MotionModule
from memo_jax.models.pieces import Part

HEADS, WIDTH, PAST = 2, 32, 3
CONFIG = MotionConfig(num_heads=HEADS, max_frames=8)
POSITION = HEADS * (16 * 16 + 16) * 4  # bytes of one position's memory, float32


@pytest.fixture
def module(random_module):
    """A random motion module whose output is not zero."""
    return random_module(lambda rngs: MotionModule(WIDTH, CONFIG, dtype=jnp.float32, rngs=rngs))


def drawn(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("positions", "size"),
    [((2, 3), 1), ((3, 5), 3 * POSITION), ((2, 2), pieces.PIECE_BYTES), ((1, 1), POSITION)],
    ids=["one by one", "three of 15", "two halves", "only one"],
)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_as_whole(module, compiled, monkeypatch, positions, size, dtype):
    """Two samples, in one call and one after the other."""
    h, w = positions
    first, past = drawn(1, 2, PAST, h * w, WIDTH), drawn(2, 2, PAST, h * w, WIDTH)
    x = drawn(3, 2, 4, h, w, WIDTH)

    def run(module, first, past, x):
        made = MotionMemory(module.remember("at", first, None))
        in_rows = made.rows(HEADS, dtype)
        exact = MotionMemory({name: m.layer(HEADS) for name, m in in_rows.layers.items()})
        remembered = [module.remember("at", past, memory) for memory in (exact, in_rows)]
        apart = [module("at", x[i : i + 1], in_rows, Part(i, 2)) for i in (0, 1)]
        seen = [module("at", x, memory) for memory in (exact, None, in_rows)]
        return remembered, [*seen, jnp.concatenate(apart)]

    monkeypatch.setattr(pieces, "PIECE_BYTES", size)
    (memory, kept), (whole, without, *in_pieces) = compiled(module, run)(first, past, x)
    assert kept.keys() == memory.keys() and len(kept) == 2
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(kept))
    got, wanted = {name: m.layer(HEADS) for name, m in kept.items()}, memory
    for leaf, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert leaf.shape == other.shape
        # Half a last place of each number, where that is bfloat16; float32's rounding, of the
        # largest.
        last = 2**-8 if dtype == jnp.bfloat16 else 0
        error = np.abs(leaf.astype(np.float32) - other)
        assert (error <= np.abs(other) * last + np.abs(other).max() * 1e-6).all()
    assert relative_error(without, np.asarray(whole)) > 1e-3  # it is read
    assert all(relative_error(y, np.asarray(whole)) <= 1e-6 for y in in_pieces)


@pytest.mark.parametrize("branches", [1, 2])
def test_no_layer_is_whole_in_float32(random_module, branches):
    """Compiled: layers are renewed and then read in a loop, where memories are most of all."""
    layers, side, width = 5, 16, 128
    config = MotionConfig(num_heads=1, max_frames=8)
    module = random_module(lambda rngs: MotionModule(width, config, dtype=jnp.float32, rngs=rngs))
    graph, params = nnx.split(module)
    n, d = side**2, width
    names = jax.eval_shape(lambda x: module.remember("at", x, None), jnp.zeros((1, 1, 1, width)))
    layer = MemoryRows(
        jax.ShapeDtypeStruct((branches * n, d * d), jnp.bfloat16),
        jax.ShapeDtypeStruct((branches * n, d), jnp.bfloat16),
    )
    memories = [MotionMemory(dict.fromkeys(names, layer)) for _ in range(layers)]

    def run(memories, params, past, x):
        module = nnx.merge(graph, params)
        new = [MotionMemory(module.remember("at", past, memory)) for memory in memories]

        def step(x, _):
            for memory in new:
                x = module("at", x, memory, Part(branches - 1, branches))
            return x, None

        return new, jax.lax.scan(step, x, None, length=3)[0]

    past = jax.ShapeDtypeStruct((branches, 1, n, width), jnp.float32)
    x = jax.ShapeDtypeStruct((1, 1, side, side, width), jnp.float32)
    program = jax.jit(run, donate_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
    found = program.lower(memories, params, past, x).compile().memory_analysis()
    state = sum(2 * leaf.size for leaf in jax.tree.leaves(memories))
    one = state / layers / len(names)
    print(f"{found.temp_size_in_bytes / state:.2f} of the memory, {one / state:.2f} is one layer's")
    assert found.alias_size_in_bytes >= state
    assert found.temp_size_in_bytes <= 3 * one
