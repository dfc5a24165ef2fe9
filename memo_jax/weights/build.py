"""Making modules: as shapes only, from given parameters, or fresh from a seed."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx


class CountingRngs:
    """Stands in for `nnx.Rngs` in constructors.

    `nnx.Rngs` keeps its counter in a Variable, and under tracing every increment walks the whole
    program so far: shapes of the two full networks then take a minute instead of seconds.
    `shapes_only` tells constructors that no value they draw will be used.
    """

    def __init__(self, key: jax.Array | None = None, *, shapes_only: bool = False):
        self._key = jax.random.key(0) if key is None else key
        self._count = 0
        self.shapes_only = shapes_only

    def params(self) -> jax.Array:
        """A key not given before."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def path_name(path: tuple[Any, ...]) -> str:
    """A parameter's path as the rule tables spell it (`down_blocks/0/resnets/1/conv1/kernel`)."""
    return "/".join(str(part) for part in path)


def abstract(make: Callable[[Any], nnx.Module]) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The structure of `make(rngs)` and its parameters as shapes; nothing is computed."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(CountingRngs(shapes_only=True))))
    return graphdef, flatten(state)


def flatten(state: nnx.State) -> dict[str, Any]:
    """A module state as {path name: array}."""
    return {path_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def unflatten(values: Mapping[str, Any]) -> dict[Any, Any]:
    """{path name: array} as the nested dict that `nnx.merge` takes."""
    nested: dict[Any, Any] = {}
    for path, value in values.items():
        *parents, leaf = [int(part) if part.isdigit() else part for part in path.split("/")]
        node = nested
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return nested
