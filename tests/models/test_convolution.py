"""A CPU's convolution and its gradients, against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memo_jax.models.convolution import convolve
from memo_jax.models.platform import on_platform

NUMBERS = ("NHWC", "HWIO", "NHWC")
SAME, FAR, NONE = ((1, 1), (1, 1)), ((0, 1), (0, 1)), ((0, 0), (0, 0))
WIDE = ((3, 3), (3, 3))  # beyond the kernel


def drawn(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def xla(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NUMBERS)


@pytest.mark.parametrize("channels", [(5, 7), (7, 5)], ids=["more", "fewer"])
@pytest.mark.parametrize(
    ("height", "width", "stride", "padding"),
    [
        *((size, size, 1, SAME) for size in (1, 2, 3, 4)),
        *((size, size, 2, SAME) for size in (1, 2, 3, 4)),
        *((size, size, 2, FAR) for size in (2, 3, 4)),
        (2, 8, 1, SAME),
        (3, 5, 2, SAME),
        (4, 4, 1, NONE),
        (6, 7, 1, SAME),
        (6, 7, 2, SAME),
        (7, 6, 2, FAR),
        (6, 6, 1, NONE),
        (6, 6, 1, FAR),
        (6, 6, 1, WIDE),
    ],
)
def test_values_and_gradients(height, width, stride, padding, channels):
    x, kernel = drawn(3, height, width, channels[0]), drawn(3, 3, *channels)
    strides = (stride, stride)

    def ours(x, kernel):
        return convolve(x, kernel, strides, padding, dimension_numbers=NUMBERS)

    assert ("conv_general_dilated" in str(jax.make_jaxpr(ours)(x, kernel))) == (height > 4)
    expected, back = jax.vjp(lambda *args: xla(*args, strides, padding), x, kernel)
    found, our_back = jax.vjp(ours, x, kernel)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5)
    gradient = drawn(*expected.shape)
    for one, other in zip(our_back(gradient), back(gradient), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    ("where", "size", "kernel"), [("cpu", 4, 1), ("tpu", 2, 3), ("gpu", 2, 3), ("tpu", 8, 3)]
)
def test_the_rest_is_left_to_xla(where, size, kernel):
    x, weights = drawn(1, size, size, 2), drawn(kernel, kernel, 2, 2)
    pads = ((kernel // 2,) * 2,) * 2
    with on_platform(where):
        traced = jax.make_jaxpr(
            lambda *args: convolve(*args, (1, 1), pads, dimension_numbers=NUMBERS)
        )(x, weights)
    assert "conv_general_dilated" in str(traced) and "custom_vjp" not in str(traced)
