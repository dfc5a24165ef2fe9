"""Softmax attention: one front-end, the platform's kernel behind it.

`attend` is the only softmax attention of the networks. On a GPU it is cuDNN's flash attention
where dtype and head width allow; everywhere else XLA, in blocks of queries, so that no more than
a slice of the scores ever exists.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Kernel = Literal["auto", "xla", "cudnn"]

_kernel: contextvars.ContextVar[Kernel] = contextvars.ContextVar("kernel", default="auto")

# Scores of one block on the XLA path, in bytes: large enough to keep the matmuls busy, small
# enough to stay in a cache or a corner of the device's memory.
_BLOCK_BYTES = 128 * 2**20


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
    kernel = _kernel.get()
    if kernel == "cudnn" or (kernel == "auto" and _cudnn_fits(q, k)):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    return _xla(q, k, v)


def _cudnn_fits(q: Float[Array, "b n heads d"], k: Float[Array, "b m heads d"]) -> bool:
    """Whether cuDNN takes this call: half precision, narrow heads, and even lengths, without which
    it has no gradient."""
    if jax.default_backend() != "gpu" or q.dtype not in (jnp.bfloat16, jnp.float16):
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
    def one(args: tuple[Array, Array, Array]) -> Array:
        q1, k1, v1 = args
        n, heads, d = q1.shape
        block = max(1, min(n, _BLOCK_BYTES // (4 * heads * k1.shape[0])))
        blocks = -(-n // block)
        padded = jnp.pad(q1, ((0, blocks * block - n), (0, 0), (0, 0)))
        out = jax.lax.map(
            lambda rows: _dense(rows[None], k1[None], v1[None])[0],
            padded.reshape(blocks, block, heads, d),
        )
        return out.reshape(blocks * block, heads, d)[:n]

    return jax.lax.map(one, (q, k, v))


def _dense(q: Array, k: Array, v: Array) -> Array:
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * scale, axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v)
