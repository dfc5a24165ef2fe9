"""Modules with a case's weights, loaded through the real rule tables."""

import jax
import pytest
from flax import nnx

from memo_jax.weights.build import abstract, unflatten
from memo_jax.weights.rules import import_tensors


@pytest.fixture(scope="session")
def load():
    """`load(make, rules, tensors)` gives the module that `make(rngs)` describes."""

    def load(make, rules, tensors):
        graphdef, shapes = abstract(make)
        shapes = {path: leaf.shape for path, leaf in shapes.items()}
        values = import_tensors("test", rules, tensors, shapes)
        return nnx.merge(graphdef, unflatten({k: jax.numpy.asarray(v) for k, v in values.items()}))

    return load


@pytest.fixture(scope="session")
def compiled():
    """`compiled(module, call)(x)` is `call(module, x)` as one program: op by op takes seconds."""

    def compiled(module, call=lambda module, x: module(x)):
        graphdef, state = nnx.split(module)
        run = jax.jit(lambda state, x: call(nnx.merge(graphdef, state), x))
        return lambda x: run(state, x)

    return compiled
