"""Modules with a case's weights, loaded through the real rule tables, and run as one program."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx
from golden_case import relative_error

from memo_jax.weights.build import abstract, flatten, unflatten
from memo_jax.weights.rules import import_tensors


@pytest.fixture(scope="session")
def load():
    """`load(make, rules, tensors)` gives the block that `make(rngs)` describes. Whole networks
    come from `memo_jax.weights.load_torch`."""

    def load(make, rules, tensors):
        graphdef, shapes = abstract(make)
        shapes = {path: leaf.shape for path, leaf in shapes.items()}
        values = import_tensors("block", rules, tensors, shapes)
        return nnx.merge(graphdef, unflatten({k: jnp.asarray(v) for k, v in values.items()}))

    return load


@pytest.fixture(scope="session")
def random_module():
    """`random_module(make, seed)` draws every parameter: nothing is hidden by a zero."""

    def random_module(make, seed=0):
        graphdef, shapes = abstract(make)
        rng = np.random.default_rng(seed)
        values = {}
        for path, leaf in shapes.items():
            n = rng.normal(size=leaf.shape).astype(np.float32)
            if path.endswith("/scale"):
                n = 1 + 0.1 * n
            elif path.endswith("/kernel"):
                n = n / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
            values[path] = jnp.asarray(n)
        return nnx.merge(graphdef, unflatten(values))

    return random_module


@pytest.fixture(scope="session")
def compiled():
    """`compiled(module, call)(x)` is `call(module, x)` as one program: op by op takes minutes.

    Compiled without LLVM's optimisations, which cost more than they save at these sizes.
    """

    def compiled(module, call=lambda module, *args: module(*args)):
        graphdef, state = nnx.split(module)
        run = jax.jit(
            lambda state, *args: call(nnx.merge(graphdef, state), *args),
            compiler_options={"xla_backend_optimization_level": 0},
        )
        return lambda *args: run(state, *args)

    return compiled


@pytest.fixture(scope="session")
def reconfigured():
    """`reconfigured(make, module)` is `make(rngs)` with the parameters of `module`."""

    def reconfigured(make, module):
        graphdef, _ = abstract(make)
        return nnx.merge(graphdef, unflatten(flatten(nnx.state(module))))

    return reconfigured


@pytest.fixture(scope="session")
def memory_error():
    """`memory_error(memory, recorded)` is the worst error over recorded `<path>/KV` and `/Z`."""

    def memory_error(memory, recorded, prefix=""):
        fields = {"KV": "kv", "Z": "z"}
        errors = []
        for name, want in recorded.items():
            path, key = name.rsplit("/", 1)
            errors.append(relative_error(getattr(memory.layers[prefix + path], fields[key]), want))
        return max(errors)

    return memory_error


@pytest.fixture(scope="session")
def last():
    """Channels of an image or a clip (`b c f h w`) moved to the end."""
    return lambda x: rearrange(x, "... c f h w -> ... f h w c")


@pytest.fixture(scope="session")
def first():
    """The inverse of `last`."""
    return lambda x: rearrange(np.asarray(x), "... f h w c -> ... c f h w")


@pytest.fixture(scope="session")
def dot_flops():
    """`dot_flops(function, *args)`: floating-point operations of all dots in `function(*args)`,
    those in loops each time; nothing is computed."""
    return lambda function, *args: _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lhs = equation.invars[0].aval.shape
            depth = math.prod(lhs[axis] for axis in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(_count(inner) for inner in _inner(equation.params))
    return total


def _inner(params):
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else [value]:
            part = getattr(part, "jaxpr", part)  # a closed jaxpr holds one
            if hasattr(part, "eqns"):
                yield part
