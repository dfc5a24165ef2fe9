"""The attention front-end: its blocks of queries change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import relative_error

from memo_jax.models import attention


def qkv(b=2, n=13, m=7, heads=2, d=4, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(b, n, heads, d), (b, m, heads, d), (b, m, heads, d)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def plainly(q, k, v):
    """Softmax attention in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhnm,bmhd->bnhd", weights / weights.sum(-1, keepdims=True), v)


# Rows of 13 queries with 56 bytes of scores each: whole samples, one row at a time, blocks that
# divide 13 and that do not.
@pytest.mark.parametrize("limit", [10**9, 13 * 56, 5 * 56, 56, 1])
def test_blocks_of_queries_change_nothing(monkeypatch, limit):
    monkeypatch.setattr(attention, "_BLOCK_BYTES", limit)
    q, k, v = qkv()
    assert relative_error(jax.jit(attention.attend)(q, k, v), plainly(q, k, v)) <= 1e-5


def test_blocks_change_no_gradient(monkeypatch):
    def gradients(q, k, v):
        return jax.grad(lambda *qkv: jnp.sum(attention.attend(*qkv) ** 2), (0, 1, 2))(q, k, v)

    dense = gradients(*qkv())
    monkeypatch.setattr(attention, "_BLOCK_BYTES", 5 * 56)
    for blocked, whole in zip(gradients(*qkv()), dense, strict=True):
        assert relative_error(blocked, np.asarray(whole)) <= 1e-5


def test_large_scores_do_not_overflow():
    q, k, v = qkv()
    assert (
        relative_error(attention.attend(100 * q, 100 * k, v), plainly(100 * q, 100 * k, v)) < 1e-4
    )


def test_bfloat16_in_bfloat16_out():
    q, k, v = qkv(dtype=jnp.bfloat16)
    out = attention.attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    assert relative_error(out, plainly(q, k, v)) <= 2e-2


def test_a_kernel_is_chosen_within_its_block_only():
    with attention.use_kernel("xla"):
        chosen = attention._kernel.get()
    assert (chosen, attention._kernel.get()) == ("xla", "auto")
