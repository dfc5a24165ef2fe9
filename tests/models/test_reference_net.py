"""The Reference Net against recorded features, and whose face each image sees."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from golden_case import relative_error

from memo_jax.config import ReferenceNetConfig
from memo_jax.models.reference_net import ReferenceFeatures, ReferenceNet
from memo_jax.weights import load_torch


@pytest.mark.parametrize("name", ["d_reference_net", "d_reference_net_l2"])
def test_recorded_features(name, golden, compiled):
    case = golden(name)
    batch = case.config["batch"]
    net = load_torch("reference_net", case.config["kwargs"], case.w())
    latents = rearrange(case.inp("latents"), "(b n) c h w -> b n h w c", b=batch)
    features = compiled(net)(latents, case.inp("context"))
    named, recorded = features.named(), case.under("out/")
    assert set(named) == set(recorded)
    for key, want in recorded.items():
        assert relative_error(named[key], want) <= 1e-4, key

    again = ReferenceFeatures.from_named(named, batch)
    assert again.map_sizes == features.map_sizes
    for key, entry in features.entries.items():
        assert np.array_equal(again.entries[key], entry)
        assert np.array_equal(again.portrait(key), entry[:, 0])
        assert np.array_equal(again.past(key), entry[:, 1:])


SMALL = ReferenceNetConfig(
    block_out_channels=(32,),
    down_attention=(True,),
    up_attention=(True,),
    layers_per_block=1,
    num_heads=2,
    cross_attention_dim=16,
    norm_num_groups=8,
)


@pytest.fixture(scope="module")
def features(random_module, compiled):
    """`features(face_rows, latents, faces)` of one random net."""
    nets = {}
    for rows in ("own", "mixed"):
        config = dataclasses.replace(SMALL, face_rows=rows)
        net = random_module(lambda rngs, config=config: ReferenceNet(config, rngs=rngs))
        nets[rows] = compiled(net)
    return lambda rows, latents, faces: nets[rows](latents, faces).entries


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return [rng.normal(size=s).astype(np.float32) for s in ((2, 4, 8, 8, 4), (2, 3, 16))]


def worst(got, want):
    assert set(got) == set(want)
    return max(relative_error(got[key], np.asarray(want[key])) for key in want)


def test_own_rows_make_samples_independent(features, inputs):
    together = features("own", *inputs)
    for i in range(2):
        alone = features("own", *(x[i : i + 1] for x in inputs))
        assert worst(alone, {k: v[i : i + 1] for k, v in together.items()}) <= 1e-6


def test_mixed_rows_see_faces_by_row_modulo_batch(features, inputs):
    latents, faces = inputs
    got = features("mixed", latents, faces)
    assert worst(got, features("own", latents, faces)) > 1e-3
    # With four images to a sample, row n mod 2 alternates; each row alone has its face so.
    for i, n in ((0, 1), (1, 0), (1, 3)):
        row = 4 * i + n
        face = faces[row % 2 : row % 2 + 1]
        alone = features("own", np.repeat(latents[i : i + 1, n : n + 1], 4, 1), face)
        want = {key: np.asarray(entry[0, 0]) for key, entry in alone.items()}
        assert worst({key: entry[i, n] for key, entry in got.items()}, want) <= 1e-6


def test_mixed_rows_of_one_sample_are_its_own(features, inputs):
    one = [x[:1] for x in inputs]
    assert worst(features("mixed", *one), features("own", *one)) == 0


def test_bfloat16_stays_near(features, inputs, random_module, compiled):
    net = random_module(lambda rngs: ReferenceNet(SMALL, dtype=jnp.bfloat16, rngs=rngs))
    got = compiled(net)(*inputs).entries
    assert all(entry.dtype == jnp.bfloat16 for entry in got.values())
    assert worst(got, features("own", *inputs)) <= 5e-2
