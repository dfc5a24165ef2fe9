"""Whether two models are the same, module by module, whatever forms they are in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from memo_jax.weights import checkpoint
from memo_jax.weights.components import COMPONENTS
from memo_jax.weights.found import Found, find
from memo_jax.weights.rules import torch_names


@dataclass
class Module:
    """What two forms of one module differ in, over all its tensors.

    `largest` is max |a - b|; the sums make the cosine.
    """

    name: str
    tensors: int = 0
    equal: int = 0
    parameters: int = 0
    largest: float = 0.0
    worst: str = ""
    dot: float = 0.0
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @property
    def cosine(self) -> float:
        """Of the two as one long vector; 1 where both vanish."""
        scale = float(np.sqrt(self.squares[0] * self.squares[1]))
        return self.dot / scale if scale else float(self.squares[0] == self.squares[1])

    def add(self, name: str, a: np.ndarray, b: np.ndarray) -> None:
        """Take in one tensor of each. NaN differs from everything but NaN."""
        self.tensors += 1
        self.parameters += a.size
        x, y = a.astype(np.float64), b.astype(np.float64)
        if a.dtype == b.dtype and a.tobytes() == b.tobytes():
            self.equal += 1
        else:
            away = np.abs(x - y)
            away[np.isnan(x) & np.isnan(y)] = 0
            off = float(np.nan_to_num(away, nan=np.inf).max(initial=0.0))
            if off >= self.largest:
                self.largest, self.worst = off, name
        x, y = np.nan_to_num(x), np.nan_to_num(y)
        self.dot += float(np.vdot(x, y))
        self.squares[0] += float(np.vdot(x, x))
        self.squares[1] += float(np.vdot(y, y))


@dataclass
class Comparison:
    """Two models beside each other: modules of both, what only one has or has in another shape,
    and settings that are not weights."""

    modules: list[Module] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Same names, shapes, dtypes and bits of all weights."""
        return not self.problems and all(m.equal == m.tensors for m in self.modules)

    def within(self, tolerance: float) -> bool:
        """Same names and shapes, and no value further off than `tolerance`."""
        return not self.problems and all(m.largest <= tolerance for m in self.modules)


def compare(a: Path, b: Path) -> Comparison:
    """Two models in any form that `find` knows; raises as it does."""
    first, second = ({one.component: one for one in find(path)} for path in (a, b))
    result = Comparison()
    for name in COMPONENTS:
        if name in first and name in second:
            _compare(first[name], second[name], result)
        elif name in first or name in second:
            where = a if name in first else b
            result.problems.append(f"only {where} has {name}")
    return result


def _compare(a: Found, b: Found, result: Comparison) -> None:
    names = _torch_names(a) | _torch_names(b)
    for path in sorted(set(a.shapes) ^ set(b.shapes)):
        result.problems.append(f"only {(a if path in a.shapes else b).where} has {names[path]}")
    both = [path for path in a.shapes if path in b.shapes]
    for path in list(both):
        if a.shapes[path].shape != b.shapes[path].shape:
            result.problems.append(
                f"{names[path]} has other shapes: {tuple(a.shapes[path].shape)} and "
                f"{tuple(b.shapes[path].shape)} (ours)"
            )
            both.remove(path)
    result.settings += [
        f"{a.component}.{key}: {x!r} and {y!r}"
        for key, x, y in _other(a.config.to_dict(), b.config.to_dict())
    ]
    modules: dict[str, Module] = {}
    for group in checkpoint.groups({path: a.shapes[path] for path in both}):
        x, y = a.read(group), b.read(group)
        for path in group:
            name = module_of(a.component, path)
            modules.setdefault(name, Module(name)).add(names[path], x.pop(path), y.pop(path))
    result.modules += modules.values()


def module_of(component: str, path: str) -> str:
    """The module that a parameter is counted with: a level's kind of layer, or a top layer."""
    parts = path.split("/")[:-1]
    kept = parts[:3] if parts and parts[0].endswith("blocks") else parts[:2]
    return ".".join([component, *kept])


def _torch_names(found: Found) -> dict[str, str]:
    """Our path -> PyTorch's name, for a reader of the report."""
    rules = COMPONENTS[found.component].rules(found.config)
    names = torch_names(found.component, rules, found.shapes)
    return {
        path: f"{found.component}: {name}" for name, owner in names.items() for path in owner.ours
    }


def _other(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Fields in which two configs differ, those of configs within them by path."""
    for key in a:
        x, y = a[key], b.get(key)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            yield from ((f"{key}.{inner}", *pair) for inner, *pair in _other(x, y))
        elif x != y:
            yield key, x, y
