"""The spatial block: recorded outputs, whose portrait each frame sees, and what is not computed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import relative_error

from memo_jax.models.spatial import SpatialBlock
from memo_jax.weights.tables.unet import SPATIAL_BLOCK


@pytest.fixture(scope="module")
def case(golden):
    return golden("c_spatial_block")


@pytest.fixture(scope="module")
def block(case, load):
    kwargs = case.config["kwargs"]
    return load(
        lambda rngs: SpatialBlock(
            kwargs["dim"],
            kwargs["cross_attention_dim"],
            kwargs["num_attention_heads"],
            dtype=jnp.float32,
            rngs=rngs,
        ),
        SPATIAL_BLOCK,
        case.w(),
    )


@pytest.mark.parametrize("mask", [None, "mask_half", "mask_arbitrary"])
def test_recorded_outputs(case, block, compiled, mask):
    """Every recorded row has face tokens of its own, so each stands for a sample of one frame;
    row n was recorded with the portrait of sample n mod b."""
    rows = np.arange(len(case.inp("hidden")))
    # The recorded masks say which rows do not see the portrait.
    use = None if mask is None else ~case.inp(mask)
    cache = block.cache(case.inp("context"), case.inp("ref")[rows % case.config["batch"]])
    run = compiled(block, lambda m, x, cache: m(x, cache, use_reference=use)[0])
    got = run(case.inp("hidden")[:, None], cache)[:, 0]
    assert relative_error(got, case.out(mask or "no_mask")) <= 1e-5


def test_a_recorded_batch_of_one(case, block, compiled):
    rows = slice(0, case.config["frames"])
    cache = block.cache(case.inp("context")[rows], np.repeat(case.inp("ref")[:1], rows.stop, 0))
    run = compiled(block, lambda m, x, cache: m(x, cache)[0])
    got = run(case.inp("hidden")[rows, None], cache)[:, 0]
    assert relative_error(got, case.out("no_mask_b1")) <= 1e-5


BATCH, FRAMES, TOKENS, WIDTH = 3, 2, 6, 32


@pytest.fixture(scope="module")
def inputs(block):
    rng = np.random.default_rng(0)
    shapes = [(BATCH, FRAMES, TOKENS, WIDTH), (BATCH, TOKENS, WIDTH), (BATCH, 4, 16)]
    x, reference, faces = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return x, block.cache(faces, reference)


@pytest.fixture(scope="module")
def outputs(block, inputs, compiled):
    """`outputs(use, mixed)` with `use` known when the program is made."""

    def outputs(use, mixed=False, inputs=inputs):
        use = None if use is None else np.array(use)
        return compiled(
            block, lambda m, x, cache: m(x, cache, use_reference=use, mixed_rows=mixed)[0]
        )(*inputs)

    return outputs


def test_known_and_traced_choices_agree_in_every_order(block, inputs, outputs, compiled):
    traced = compiled(block, lambda m, x, cache, use: m(x, cache, use_reference=use)[0])
    with_portrait, without = outputs(None), outputs([False] * BATCH)
    assert relative_error(with_portrait, np.asarray(without)) > 1e-3
    for use in itertools.product([False, True], repeat=BATCH):
        known = outputs(use)
        assert relative_error(known, np.asarray(traced(*inputs, jnp.array(use)))) <= 1e-6
        chosen = np.where(np.array(use)[:, None, None, None], with_portrait, without)
        assert relative_error(known, chosen) <= 1e-6


def test_own_rows_make_samples_independent(inputs, outputs):
    together = outputs(None)
    for i in range(BATCH):
        alone = outputs(None, inputs=jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], inputs))
        assert relative_error(alone[0], np.asarray(together[i])) <= 1e-6


def test_mixed_rows_take_the_portrait_of_row_modulo_batch(inputs, outputs):
    x, cache = inputs
    rows = np.arange(BATCH * FRAMES)
    # Each row a sample of its own, with its own sample's faces and the other's portrait.
    apart = type(cache)(
        cache.face_k[rows // FRAMES],
        cache.face_v[rows // FRAMES],
        cache.reference_k[rows % BATCH],
        cache.reference_v[rows % BATCH],
    )
    want = outputs(None, inputs=(x.reshape(-1, 1, TOKENS, WIDTH), apart))
    got = outputs(None, mixed=True)
    assert relative_error(got, np.asarray(want).reshape(got.shape)) <= 1e-6
    assert relative_error(got, np.asarray(outputs(None))) > 1e-3


def test_mixed_rows_of_one_sample_are_its_own(inputs, outputs):
    one = jax.tree.map(lambda leaf: leaf[:1], inputs)
    assert np.array_equal(outputs(None, mixed=True, inputs=one), outputs(None, inputs=one))


def test_a_sample_without_portrait_costs_no_attention_to_it(block, inputs, dot_flops):
    def flops(use):
        return dot_flops(lambda: block(*inputs, use_reference=use)[0])

    one_sample = 2 * 2 * FRAMES * TOKENS * TOKENS * WIDTH  # scores and values, 2 flops each
    everyone = flops(None)
    for use in itertools.product([False, True], repeat=BATCH):
        assert flops(np.array(use)) == everyone - (BATCH - sum(use)) * one_sample
