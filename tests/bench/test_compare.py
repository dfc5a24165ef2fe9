"""Networks beside PyTorch's: that they are the same, and that what is told of them adds up."""

import importlib.util

import jax
import numpy as np
import pytest

from memo_jax.bench import compare, pairs
from memo_jax.errors import UserError

torch = pytest.importorskip("torch", reason="it is what we compare with")
pytest.importorskip("diffusers", reason="it is what we compare with")

ROUNDS = 3


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def found(sizes, told):
    """One thread: several wait for each other where other tests run."""
    before = torch.get_num_threads()
    yield compare.compare(sizes, rounds=ROUNDS, threads=1, quiet=True, tell=told.append)
    torch.set_num_threads(before)


def test_both_compute_the_same(found):
    """Through the real tables. Of the Diffusion Net: both branches of guidance, of which PyTorch's
    computes the null one twice, and ours skips the portrait; past frames there in every step, here
    once."""
    assert list(found["pairs"]) == list(pairs.PAIRS)
    for name, pair in found["pairs"].items():
        assert pair["difference"] <= 1e-4, name


def test_ratios_follow_from_the_seconds(found, told):
    print("\n".join(told))  # shown with -s; at these sizes they say nothing of speed
    assert len(told) == len(pairs.PAIRS)
    for pair in found["pairs"].values():
        ours, theirs = np.array(pair["ours_seconds"]), np.array(pair["theirs_seconds"])
        assert len(ours) == len(theirs) == ROUNDS and (ours > 0).all() and (theirs > 0).all()
        assert pair["ratio"] == pytest.approx(np.median(ours / theirs))
        low, high = pair["ratio_quartiles"]
        assert low <= pair["ratio"] <= high


def test_what_a_clip_computes_once_is_shared_by_its_steps(found):
    """It is in our seconds, but of the Diffusion Net only."""
    net = found["pairs"]["net"]
    assert [n for n, pair in found["pairs"].items() if pair["once_seconds"]] == ["net"]
    share = np.array(net["once_seconds"]) / net["steps"]
    assert net["steps"] == 2 and (share > 0).all() and (share < net["ours_seconds"]).all()


def test_a_different_network_is_seen(sizes, monkeypatch):
    """A difference is told, not hidden: other weights on one side."""
    real = pairs.to_torch

    def changed(component, module):
        weights = real(component, module)
        name = "decoder.conv_in.bias"
        return weights | {name: np.asarray(weights[name]) + 0.5}

    monkeypatch.setattr(pairs, "to_torch", changed)
    found = compare.compare(sizes, pairs=["vae"], rounds=1, threads=1, quiet=True)
    assert found["pairs"]["vae"]["difference"] > 1e-2


def test_refusals(monkeypatch):
    with pytest.raises(UserError, match="--pairs: no 'unett'; expected some of unet, vae"):
        compare.check(["unett"])
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        with pytest.raises(UserError, match="set JAX_PLATFORMS=cpu"):
            compare.check(["vae"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs torch and diffusers.*pip install -e '.\[test\]'"):
        compare.check(["vae"])
