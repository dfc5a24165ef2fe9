"""Softmax attention: one front-end, the platform's kernel behind it.

`attend` is the only softmax attention of the networks. On a GPU it is cuDNN's flash attention
where dtype and head width allow, on a TPU JAX's splash attention, on a CPU pieces that fit a core's
cache; everywhere else XLA, in blocks of queries, so that no more than a slice of the scores ever
exists.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash_kernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as splash_mask,
)
from jaxtyping import Array, Float

from memo_jax.models.platform import platform

Kernel = Literal["auto", "xla", "cached", "cudnn", "splash"]

_kernel: contextvars.ContextVar[Kernel] = contextvars.ContextVar("kernel", default="auto")

# Scores of one block on the XLA path, in bytes: large enough to keep the matmuls busy, small
# enough to stay in a cache or a corner of the device's memory.
_BLOCK_BYTES = 128 * 2**20

# The same on a CPU, where a piece is to stay in the cache from one pass over it to the next.
_CACHE_BYTES = 2 * 2**20

# Lengths that the TPU kernel takes are multiples of the first, long ones of the second, which is
# also how many queries or keys it has in hand at a time. Shorter keys leave its tiles empty.
_TILE, _LONG_TILE = 128, 512


@contextlib.contextmanager
def use_kernel(kernel: Kernel) -> Iterator[None]:
    """Within the block, trace `attend` with this kernel instead of the platform's."""
    token = _kernel.set(kernel)
    try:
        yield
    finally:
        _kernel.reset(token)


def attend(
    q: Float[Array, "b n heads d"], k: Float[Array, "b m heads d"], v: Float[Array, "b m heads d"]
) -> Float[Array, "b n heads d"]:
    """softmax(q k^T / sqrt(d)) v, the softmax in float32; the result has the dtype of `q`."""
    kernel, where = _kernel.get(), platform()
    if kernel == "cudnn" or (kernel == "auto" and where == "gpu" and _cudnn_fits(q, k)):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    if kernel == "splash" or (kernel == "auto" and where == "tpu" and _splash_fits(q, k)):
        return _splash(q, k, v, interpret=where != "tpu")
    if kernel == "cached" or (kernel == "auto" and where == "cpu"):
        return _cached(q, k, v)
    return _xla(q, k, v)


def _splash_fits(q: Float[Array, "b n heads d"], k: Float[Array, "b m heads d"]) -> bool:
    return q.dtype == jnp.bfloat16 and min(q.shape[1], k.shape[1]) >= _TILE


def _splash(q: Array, k: Array, v: Array, *, interpret: bool) -> Array:
    """`interpret` runs the kernel step by step where there is no TPU, to see what it computes."""
    n, heads, d = q.shape[1:]
    m = k.shape[1]
    q, k, v = _tiled((q * d**-0.5).astype(q.dtype)), _tiled(k), _tiled(v)
    to_q, to_k = (min(x.shape[2], _LONG_TILE) for x in (q, k))
    blocks = splash_kernel.BlockSizes(
        block_q=to_q,
        block_kv=to_k,
        block_q_dkv=to_q,
        block_kv_dkv=to_k,
        block_q_dq=to_q,
        block_kv_dq=to_k,
    )
    mask = splash_mask.FullMask((q.shape[2], k.shape[2]))
    attention = splash_kernel.make_splash_mha(
        splash_mask.MultiHeadMask([mask] * heads),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    segments = None
    if (n, m) != (q.shape[2], k.shape[2]):  # what fills up lengths is seen by its like alone
        segments = splash_kernel.SegmentIds(
            (jnp.arange(q.shape[2]) >= n).astype(jnp.int32),
            (jnp.arange(k.shape[2]) >= m).astype(jnp.int32),
        )
    out = jax.vmap(lambda q, k, v: attention(q, k, v, segment_ids=segments))(q, k, v)
    return jnp.swapaxes(out, 1, 2)[:, :n].astype(q.dtype)


def _tiled(x: Float[Array, "b n heads d"]) -> Float[Array, "b heads n2 d"]:
    """Heads before positions, and the positions filled up to what the kernel takes."""
    n = x.shape[1]
    tile = _TILE if n <= _LONG_TILE else _LONG_TILE
    return jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, -n % tile), (0, 0)))


def _cudnn_fits(q: Float[Array, "b n heads d"], k: Float[Array, "b m heads d"]) -> bool:
    """Whether cuDNN takes this call: half precision, narrow heads, and even lengths, without which
    it has no gradient."""
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    fits = q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    return fits and q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0 and _cudnn_works()


@functools.cache
def _cudnn_works() -> bool:
    """Whether this machine's cuDNN runs flash attention, tried once on a small input."""
    try:
        with jax.ensure_compile_time_eval():
            q = jnp.ones((1, 64, 1, 40), jnp.bfloat16)
            out = jax.nn.dot_product_attention(q, q, q, implementation="cudnn")
            return bool(jnp.all(out == 1))
    except Exception as error:  # any failure of the vendor's library means: use XLA, and say so
        print(f"cuDNN attention does not work here ({type(error).__name__}); using XLA's")
        return False


def _xla(
    q: Float[Array, "b n heads d"], k: Float[Array, "b m heads d"], v: Float[Array, "b m heads d"]
) -> Float[Array, "b n heads d"]:
    b, n, heads, _ = q.shape
    row_bytes = 4 * heads * k.shape[1]
    # Scores of a few keys (face tokens, the frames of a clip) are no more than the queries are.
    if b * n * row_bytes <= _BLOCK_BYTES or k.shape[1] <= q.shape[-1]:
        return _dense(q, k, v)
    return _per_sample(q, k, v)


def _per_sample(q: Array, k: Array, v: Array) -> Array:
    rows = max(1, _BLOCK_BYTES // (4 * q.shape[2] * k.shape[1]))

    def one(args: tuple[Array, Array, Array]) -> Array:
        q1, k1, v1 = args
        return _in_pieces(lambda q2: _dense(q2[None], k1[None], v1[None])[0], rows, q1)

    return jax.lax.map(one, (q, k, v))


def _dense(q: Array, k: Array, v: Array) -> Array:
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * scale, axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


def _cached(
    q: Float[Array, "b n heads d"], k: Float[Array, "b m heads d"], v: Float[Array, "b m heads d"]
) -> Float[Array, "b n heads d"]:
    """Several samples at a time, or head by head, or parts of a head: what the cache holds."""
    _, n, heads, d = q.shape
    m = k.shape[1]
    if m <= d:  # as in `_xla`
        return _dense(q, k, v)
    samples, rows = (_CACHE_BYTES // (4 * m * x) for x in (heads * n, 1))
    if samples:
        return _in_pieces(_unnormalised, samples, q, k, v)

    def head(qkv: tuple[Array, Array, Array]) -> Array:
        q1, k1, v1 = (x[:, None] for x in qkv)
        return _in_pieces(
            lambda q2: _unnormalised(q2[None], k1[None], v1[None])[0], max(1, rows), q1
        )

    by_head = (rearrange(x, "b n heads d -> (b heads) n d") for x in (q, k, v))
    return rearrange(
        jax.lax.map(head, tuple(by_head)), "(b heads) n 1 d -> b n heads d", heads=heads
    )


def _unnormalised(
    q: Float[Array, "b n heads d"], k: Float[Array, "b m heads d"], v: Float[Array, "b m heads d"]
) -> Float[Array, "b n heads d"]:
    """The weights' sum is one more column of the product, and what is divided is the product: two
    passes less over the scores, in the gradient too."""
    q = (q * q.shape[-1] ** -0.5).astype(q.dtype)
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32)
    # The largest cancels out, in the gradient too.
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest).astype(v.dtype)
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
    out = jnp.einsum("bhnm,bmhd->bhnd", weights, v, preferred_element_type=jnp.float32)
    return rearrange(out[..., :-1] / out[..., -1:], "b h n d -> b n h d").astype(q.dtype)


def _in_pieces(f: Callable[..., Array], limit: int, *rows: Array) -> Array:
    """`f` of at most `limit` rows at a time.

    Each piece is computed again for the gradient: a loop would keep every piece's scores for it.
    """
    count = rows[0].shape[0]
    if count <= limit:
        return f(*rows)
    pieces = -(-count // limit)
    size = -(-count // pieces)
    cut = [
        jnp.pad(x, [(0, pieces * size - count)] + [(0, 0)] * (x.ndim - 1)).reshape(
            pieces, size, *x.shape[1:]
        )
        for x in rows
    ]
    out = jax.lax.map(lambda piece: jax.checkpoint(f)(*piece), cut)
    return out.reshape(pieces * size, *out.shape[2:])[:count]
