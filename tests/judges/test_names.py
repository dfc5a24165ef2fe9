"""Published names covered exactly once, to the bit and back; files that hold no weights."""

import functools

import numpy as np
import pytest
from flax import nnx

from memo_jax.errors import UserError
from memo_jax.judges import hyperiqa, syncnet, tables, transnet
from memo_jax.weights.build import CountingRngs, abstract
from memo_jax.weights.rules import export_tensors, import_tensors

JUDGES = {
    "transnetv2": (transnet.TransNet, tables.TRANSNET, transnet.load),
    "syncnet": (syncnet.Network, tables.SYNCNET, syncnet.load),
    "hyperiqa": (hyperiqa.HyperNet, tables.HYPERIQA, hyperiqa.load),
}


@functools.cache
def shapes_of(name):
    make, _, _ = JUDGES[name]
    _, params = abstract(lambda rngs: make(rngs=rngs))
    return {path: leaf.shape for path, leaf in params.items()}


@pytest.mark.parametrize("name", JUDGES)
def test_the_published_names_and_shapes(name, manifest):
    """Views of one zero stand for the tensors: full shapes without the memory."""
    rules, shapes = JUDGES[name][1], shapes_of(name)
    zero = np.zeros((), np.float32)
    tensors = {key: np.broadcast_to(zero, shape) for key, shape in manifest(name).items()}
    assert import_tensors(name, rules, tensors, shapes).keys() == shapes.keys()
    hits = {key: [rule for rule in rules if rule.jax_name(key)] for key in tensors}
    assert all(len(found) == 1 for found in hits.values())
    assert {id(rule) for found in hits.values() for rule in found} == {id(rule) for rule in rules}


@pytest.mark.parametrize("name", JUDGES)
def test_there_and_back_to_the_bit(name, manifest):
    rules, shapes = JUDGES[name][1], shapes_of(name)
    rng = np.random.default_rng(0)
    tensors = {key: rng.random(shape, np.float32) for key, shape in manifest(name).items()}
    back = export_tensors(name, rules, import_tensors(name, rules, tensors, shapes))
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[key], value) for key, value in tensors.items())


@pytest.mark.parametrize("name", JUDGES)
def test_every_leaf_is_a_parameter(name):
    make, _, _ = JUDGES[name]
    _, state = nnx.split(nnx.eval_shape(lambda: make(rngs=CountingRngs(shapes_only=True))))
    assert all(isinstance(leaf, nnx.Param) for _, leaf in nnx.to_flat_state(state))


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"<!DOCTYPE html><title>sign in</title>", "is a web page"),
        (b"not weights", "expected weights"),
    ],
    ids=["absent", "web page", "text"],
)
def test_a_file_that_holds_no_weights(name, content, told, tmp_path):
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=told) as error:
        JUDGES[name][2](path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
