"""Operations and messages of traced programs, against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from memo_jax.aot import count


def flops(f, *shapes):
    return count.flops(jax.make_jaxpr(f)(*(jnp.zeros(shape) for shape in shapes)))


def test_a_product_is_two_operations_for_each_multiplication():
    assert flops(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops(jax.vmap(jnp.matmul), (2, 3, 5), (2, 5, 7)) == 2 * 2 * 3 * 5 * 7


def test_a_convolution_counts_every_tap_of_every_result():
    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    forward = 2 * (4 * 4 * 8) * (3 * 3 * 4)
    assert flops(conv, (1, 8, 8, 4), (3, 3, 4, 8)) == forward
    # The gradients of either operand take as many as the convolution itself, stride or not.
    both = jax.grad(lambda x, w: jnp.sum(conv(x, w) ** 2), (0, 1))
    assert flops(both, (1, 8, 8, 4), (3, 3, 4, 8)) == 3 * forward


def test_loops_count_as_often_as_they_run():
    def looped(a, bs):
        return jax.lax.scan(lambda c, b: (c @ b, jax.lax.map(lambda r: r @ b, c[None])), a, bs)

    assert flops(looped, (3, 5), (6, 5, 5)) == 6 * 2 * (2 * 3 * 5 * 5)


def test_what_is_computed_again_counts_again():
    def layer(x, w):
        return jnp.sin(jnp.sin(x @ w) @ w)

    plain = jax.grad(lambda x, w: jnp.sum(layer(x, w)), (0, 1))
    again = jax.grad(lambda x, w: jnp.sum(jax.checkpoint(layer)(x, w)), (0, 1))
    one = 2 * 4 * 8 * 8
    assert flops(plain, (4, 8), (8, 8)) == 6 * one
    assert flops(again, (4, 8), (8, 8)) > 7 * one


def test_of_branches_the_larger_counts():
    def branched(a):
        return jax.lax.cond(a[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, a)

    assert flops(branched, (4, 4)) == 2 * 2 * 4**3


def test_a_loop_of_unknown_length_is_refused():
    def endless(a):
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, a)

    with pytest.raises(ValueError, match="unknown length"):
        flops(endless, (4, 4))


def test_messages_are_counted_with_the_bytes_of_their_whole_values():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))

    def own(w, x):
        def layer(x, _):
            whole = jax.lax.all_gather(w, "fsdp", tiled=True)
            return x @ whole, None

        x, _ = jax.lax.scan(layer, x, length=5)
        part = jax.lax.psum_scatter(x, "fsdp", tiled=True)
        return jax.lax.psum(jnp.sum(part), ("data", "fsdp"))

    program = jax.shard_map(own, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    jaxpr = jax.make_jaxpr(program)(jnp.zeros((8, 8)), jnp.zeros((8, 8)))
    # As if the mesh were larger: a message among one device is none.
    found = count.collectives(jaxpr, {"data": 2, "fsdp": 4})
    assert found == {
        ("all-gather", 4): (5, 5 * 8 * 8 * 4),
        ("reduce-scatter", 4): (1, 8 * 8 * 4),
        ("all-reduce", 8): (1, 4),
    }
    assert count.collectives(jaxpr, {"data": 1, "fsdp": 1}) == {}


def test_a_value_gathered_twice_is_gathered_once_but_not_where_it_is_computed_again():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))

    def layer(w, x):
        whole = jax.lax.all_gather(w.astype(jnp.bfloat16), "fsdp", tiled=True)
        return jnp.sin(x @ whole.astype(jnp.float32))

    def twice(w, x):
        return jnp.sum(jax.checkpoint(layer)(w, x) + layer(w, 2 * x))

    def messages(f):
        program = jax.shard_map(f, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
        jaxpr = jax.make_jaxpr(program)(jnp.zeros((8, 8)), jnp.zeros((8, 8)))
        return count.collectives(jaxpr, {"data": 1, "fsdp": 4})

    assert messages(twice)["all-gather", 4] == (1, 8 * 8 * 2)
    assert messages(jax.grad(twice))["all-gather", 4] == (2, 2 * 8 * 8 * 2)
