"""One network's parameters as an Orbax checkpoint, read and written a group at a time.

Weights of several gigabytes come from memory-mapped files and go to one; what is in memory at
any moment is one group of them.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

from memo_jax.errors import UserError
from memo_jax.weights.build import path_name

GROUP_BYTES = 1 << 28

# Writing less than this takes no time worth a progress bar.
BAR = 1 << 30


def save(
    path: Path,
    values: Mapping[str, np.ndarray],
    change: Callable[[str, np.ndarray], np.ndarray] = lambda name, value: value,
) -> None:
    """Write {parameter path: array}; `change` is applied to each as its turn comes."""
    total = sum(map(nbytes, values.values()))
    with tqdm(desc=path.name, total=total, unit="B", unit_scale=True, disable=total < BAR) as bar:
        registry = ocp.type_handlers.create_type_handler_registry(
            (np.ndarray, _Grouped(change, bar.update)),
            (jax.Array, ocp.type_handlers.ArrayHandler()),  # unused; Orbax warns without
        )
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=registry))
        checkpointer.save(path.absolute(), _nested(values))
    # Orbax's note of success names the folder it wrote to, which need not be where it ends up.
    (path / "commit_success.txt").unlink(missing_ok=True)


def restore(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The named parameters (all unless named) as numpy arrays, on whatever devices they were saved.

    Raises:
      UserError: it is no checkpoint, or is damaged.
    """
    path = path.absolute()  # Orbax refuses others
    tree = _metadata(path)
    if names is not None:
        tree = _nested({name: _at(tree, name) for name in names})
    if not tree:  # of which Orbax makes a mistake
        return {}
    on_host = ocp.RestoreArgs(restore_type=np.ndarray)
    arguments = ocp.args.PyTreeRestore(
        tree, restore_args=jax.tree.map(lambda _: on_host, tree), partial_restore=True
    )
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    return dict(_leaves(_readable(path, lambda: checkpointer.restore(path, arguments))))


def shapes(path: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every parameter; raises as `restore`."""
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for name, leaf in _leaves(_metadata(path.absolute()))
    }


def nbytes(leaf: Any) -> int:
    """Bytes of an array, or of what a shape and dtype stand for."""
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize


def groups(leaves: Mapping[str, Any], limit: int = GROUP_BYTES) -> Iterator[list[str]]:
    """Names of arrays (or shapes) in order, each group of at most `limit` bytes or of one name."""
    group: list[str] = []
    total = 0
    for name, leaf in leaves.items():
        if group and total + nbytes(leaf) > limit:
            yield group
            group, total = [], 0
        group.append(name)
        total += nbytes(leaf)
    if group:
        yield group


class _Grouped(ocp.type_handlers.NumpyHandler):
    """Orbax's handler of numpy arrays, which copies all of them before it writes the first."""

    def __init__(
        self,
        change: Callable[[str, np.ndarray], np.ndarray],
        written: Callable[[int], object],
    ):
        super().__init__(deepcopy_host_arrays=False)
        self._change = change
        self._written = written

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> Sequence[Any]:
        args = args or [ocp.SaveArgs()] * len(values)
        for group in groups({str(i): value for i, value in enumerate(values)}):
            chosen = [int(i) for i in group]
            changed = [self._change(infos[i].name.replace(".", "/"), values[i]) for i in chosen]
            for future in await super().serialize(
                changed, [infos[i] for i in chosen], [args[i] for i in chosen]
            ):
                future.result()
            self._written(sum(values[i].nbytes for i in chosen))
        return []


@functools.lru_cache(maxsize=16)
def _cached_metadata(path: Path, changed: int) -> Any:
    # Of the handler, because a checkpointer warns where a part of a larger checkpoint is read.
    return ocp.PyTreeCheckpointHandler().metadata(path).tree


def _metadata(path: Path) -> Any:
    """The tree of what is stored. Read once for all groups: it takes as long as a group."""
    return _readable(path, lambda: _cached_metadata(path, path.stat().st_mtime_ns))


def _readable(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # Orbax and tensorstore raise many kinds for damaged files
        raise UserError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); copy the model again"
        ) from error


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{path name: leaf} as nested dicts with the keys that Orbax writes, which are strings."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *parents, last = name.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return nested


def _at(tree: Any, name: str) -> Any:
    for part in name.split("/"):
        tree = tree[part]
    return tree


def _leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, child in tree.items():
            yield from _leaves(child, (*path, key))
    else:
        yield path_name(path), tree
