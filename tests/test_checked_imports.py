"""The checks of tests/checked_imports.py see wrong shapes, and leave pytree dataclasses alone."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checked_imports import _Loader
from flax import nnx
from jaxtyping import TypeCheckError

SOURCE = '''"""A module."""
from __future__ import annotations
import functools
import jax
from flax import nnx, struct
from jaxtyping import Array, Float

@struct.dataclass
class Memory:
    kv: Float[Array, "n d"]

def add(x: Float[Array, "b c"], y: Float[Array, "b c"], z: Unknown = 0) -> Float[Array, "b c"]:
    return x + y

@functools.partial(jax.jit, static_argnames="wrong")
def jitted(x: Float[Array, "b c"], wrong: bool) -> Float[Array, "b c"]:
    return x.T if wrong else x

class Layer(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(rngs.params.normal((3, 3)))

    def __call__(self, x: Float[Array, "b 3"]) -> Float[Array, "b 3"]:
        return x @ self.weight[...]
'''


LAZY = "from __future__ import annotations\n"
PLAIN = SOURCE.replace(LAZY, "").replace("z: Unknown", "z")


@pytest.fixture(scope="module", params=[SOURCE, PLAIN], ids=["lazy", "plain"])
def module(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "checked_example.py"
    path.write_text(request.param)
    with pytest.MonkeyPatch.context() as patch:
        module = type(sys)("checked_example")
        patch.setitem(sys.modules, "checked_example", module)  # dataclasses look there
        exec(_Loader("checked_example", str(path)).get_code("checked_example"), module.__dict__)
        assert not (path.parent / "__pycache__").exists()
        yield module


def test_arguments_and_results_are_checked(module):
    assert module.add(jnp.ones((2, 3)), jnp.ones((2, 3))).shape == (2, 3)
    with pytest.raises(TypeCheckError):
        module.add(jnp.ones((2, 3)), jnp.ones((2, 1)))
    with pytest.raises(TypeCheckError):
        module.jitted(jnp.ones((2, 3)), wrong=True)
    assert module.jitted(jnp.ones((2, 3)), wrong=False).shape == (2, 3)


def test_numpy_counts_as_an_array(module):
    assert module.add(np.ones((2, 3)), np.ones((2, 3))).shape == (2, 3)


def test_modules_work_under_transforms(module):
    layer = module.Layer(rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)
    run = jax.jit(jax.grad(lambda s, x: nnx.merge(graph, s)(x).sum()))
    assert run(state, jnp.ones((2, 3)))["weight"].shape == (3, 3)
    with pytest.raises(TypeCheckError):
        layer(jnp.ones((2, 4)))


def test_pytree_dataclasses_are_not_checked(module):
    memory = module.Memory(kv=jnp.ones((2, 3)))
    assert jax.tree.map(lambda _: "leaf", memory).kv == "leaf"
    assert jax.eval_shape(lambda: memory).kv.shape == (2, 3)
