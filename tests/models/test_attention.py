"""The attention front-end: the pieces it works in change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import relative_error

from memo_jax.models import attention
from memo_jax.models.platform import on_platform


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


# Rows of 13 queries with 56 bytes of scores each, 28 to a head: whole samples, heads, one row at a
# time, blocks that divide 13 and that do not.
PIECES = [
    *(("xla", "_BLOCK_BYTES", limit) for limit in (10**9, 13 * 56, 5 * 56, 56, 1)),
    *(
        ("cached", "_CACHE_BYTES", limit)
        for limit in (10**9, 2 * 13 * 56, 13 * 56, 13 * 28, 5 * 28, 1)
    ),
]


@pytest.mark.parametrize(("kernel", "name", "limit"), PIECES)
def test_pieces_change_nothing(monkeypatch, kernel, name, limit):
    monkeypatch.setattr(attention, name, limit)
    q, k, v = qkv(b=3)
    with attention.use_kernel(kernel):
        assert relative_error(jax.jit(attention.attend)(q, k, v), plainly(q, k, v)) <= 1e-5


@pytest.mark.parametrize(
    ("kernel", "name", "limit"),
    [
        ("xla", "_BLOCK_BYTES", 5 * 56),
        ("cached", "_CACHE_BYTES", 10**9),
        ("cached", "_CACHE_BYTES", 13 * 56),
        ("cached", "_CACHE_BYTES", 5 * 28),
    ],
)
def test_pieces_change_no_gradient(monkeypatch, kernel, name, limit):
    def gradients(kernel):
        def squares(*qkv):
            with attention.use_kernel(kernel):
                return jnp.sum(attention.attend(*qkv) ** 2)

        return jax.jit(jax.grad(squares, (0, 1, 2)))(*qkv(b=3))

    dense = gradients("xla")
    monkeypatch.setattr(attention, name, limit)
    for found, whole in zip(gradients(kernel), dense, strict=True):
        assert relative_error(found, np.asarray(whole)) <= 1e-5


def test_a_cpu_never_holds_all_scores():
    """Of 1024 x 1024 scores in 2 heads; the program's temporary memory tells."""
    shape = jax.ShapeDtypeStruct((1, 1024, 2, 40), jnp.float32)
    compiled = jax.jit(attention.attend).lower(shape, shape, shape).compile()
    scores = 4 * 2 * 1024 * 1024
    assert compiled.memory_analysis().temp_size_in_bytes < scores


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


# Lengths that are and are not what the kernel takes: what fills them up must not be seen.
@pytest.mark.parametrize(("n", "m", "d"), [(256, 384, 40), (160, 200, 16)])
def test_the_tpus_kernel_and_its_gradients_are_xlas(n, m, d):
    def gradients(kernel, dtype):
        def weighted(q, k, v):
            with attention.use_kernel(kernel):
                out = attention.attend(q, k, v)
            return jnp.einsum("bnhd,d->", out.astype(jnp.float32), jnp.arange(1.0, d + 1))

        return jax.value_and_grad(weighted, (0, 1, 2))(*qkv(1, n, m, 2, d, dtype))

    with jax.numpy_dtype_promotion("standard"):  # JAX's kernel promotes
        total, found = gradients("splash", jnp.bfloat16)
    expected, wanted = gradients("xla", jnp.float32)
    assert relative_error(total, np.asarray(expected)) <= 2e-2
    for a, b in zip(found, wanted, strict=True):
        assert relative_error(a.astype(jnp.float32), np.asarray(b)) <= 2e-2


def test_the_platform_that_is_compiled_for_decides_the_kernel(monkeypatch):
    asked = []

    def kernel(q, k, v, interpret):
        asked.append(interpret)
        return q

    monkeypatch.setattr(attention, "_splash", kernel)
    q, k, v = qkv(n=128, m=128, dtype=jnp.bfloat16)
    with on_platform("tpu"):
        attention.attend(q, k, v)
        assert asked == [False]
        attention.attend(q[:, :8], k, v)
        attention.attend(*qkv(n=128, m=128))
    attention.attend(q, k, v)
    assert asked == [False]


def test_a_kernel_is_chosen_within_its_block_only():
    with attention.use_kernel("xla"):
        chosen = attention._kernel.get()
    assert (chosen, attention._kernel.get()) == ("xla", "auto")
