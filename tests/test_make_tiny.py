"""`tools/make_tiny.py` makes beginnings of ablations: what is kept and what is learnt again."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from memo_jax.errors import UserError
from memo_jax.weights.build import flatten
from memo_jax.weights.sources import load_model

PATH = Path(__file__).parents[1] / "tools" / "make_tiny.py"
SPEC = importlib.util.spec_from_file_location("make_tiny", PATH)
make_tiny = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_tiny)


@pytest.fixture(scope="module")
def fresh():
    return make_tiny.make(seed=0)


def params(model):
    return {
        f"{name}/{path}": np.asarray(value, np.float32)
        for name, module in model.modules.items()
        for path, value in flatten(nnx.state(module)).items()
    }


def test_what_is_found_stays_fresh_and_the_rest_is_kept(fresh):
    model, kept, left = make_tiny.keep(fresh, "tiny", "audio_proj/|audio_modules|motion_modules")
    found, initial, trained = params(model), params(fresh), params(load_model("tiny", jnp.float32))
    again = {p for p in found if "audio_proj/" in p or "audio_mod" in p or "motion_mod" in p}
    assert 0 < len(again) < len(found)
    for path, value in found.items():
        expected = initial if path in again else trained
        assert np.array_equal(value, expected[path]), path
    assert kept + left == sum(value.size for value in found.values())
    assert left == sum(found[path].size for path in again)


def test_cross_attention_keeps_what_fits():
    model, kept, left = make_tiny.keep(make_tiny.make(seed=0, audio_attention="cross"), "tiny")
    assert model.spec.parts["diffusion_net"].config.audio_attention == "cross"
    assert 0 < left < 0.1 * kept


@pytest.mark.parametrize("pattern", ["audoi", "("])
def test_a_pattern_that_says_nothing_is_told(fresh, pattern):
    with pytest.raises(UserError, match="--fresh"):
        make_tiny.keep(fresh, "tiny", pattern)
