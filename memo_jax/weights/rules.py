"""Rules that rename and re-lay tensors between PyTorch and JAX, and the engine that applies them.

A table of rules is read left to right to import and right to left to export. Applying one is
total: every name on both sides is accounted for, or one error lists all that is not.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import einops
import numpy as np

from memo_jax.errors import UserError


class ConversionError(UserError):
    """Tensors and a module do not fit. `problems` holds one line for each thing amiss."""

    def __init__(self, what: str, problems: Sequence[str]):
        self.what = what
        self.problems = tuple(problems)
        super().__init__(f"{what}: {len(self.problems)} problem(s)\n  " + "\n  ".join(problems))

    @property
    def summary(self) -> str:
        """The error in one line, for a command's stderr."""
        shown = "; ".join(self.problems[:3])
        more = len(self.problems) - 3
        return f"{self.what}: {shown}" + (f"; and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Rule:
    """One row of a table.

    `torch` and `jax` are names in which `{i}` stands for a run of digits, the same on both sides.
    `layout` is an einops pattern from PyTorch's axes to ours; empty means the same axes.
    `optional` says why a file may lack the tensor (it is then zeros); empty means it may not.
    """

    torch: str
    jax: str
    layout: str = ""
    optional: str = ""

    @cached_property
    def _torch_pattern(self) -> re.Pattern[str]:
        return _pattern(self.torch)

    @cached_property
    def _jax_pattern(self) -> re.Pattern[str]:
        return _pattern(self.jax)

    def jax_name(self, torch_name: str) -> str | None:
        """Our name for a PyTorch name, or None if the rule is about another."""
        match = self._torch_pattern.fullmatch(torch_name)
        return self.jax.format(**match.groupdict()) if match else None

    def torch_name(self, jax_name: str) -> str | None:
        """PyTorch's name for one of ours, or None if the rule is about another."""
        match = self._jax_pattern.fullmatch(jax_name)
        return self.torch.format(**match.groupdict()) if match else None

    def to_jax(self, tensor: np.ndarray) -> np.ndarray:
        return einops.rearrange(tensor, self.layout) if self.layout else tensor

    def to_torch(self, tensor: np.ndarray) -> np.ndarray:
        if not self.layout:
            return tensor
        left, right = self.layout.split("->")
        return einops.rearrange(tensor, f"{right} -> {left}")


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[0-9]+)", re.escape(name)))


def under(torch: str, jax: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """`rules` moved below a prefix on each side (`down_blocks.{i}.resnets.{j}`).

    An empty `jax` prefix drops a level of names that PyTorch has and we do not.
    """
    path = f"{jax}/" if jax else ""
    return tuple(
        replace(rule, torch=f"{torch}.{rule.torch}", jax=f"{path}{rule.jax}") for rule in rules
    )


def linear(torch: str, jax: str = "", bias: bool = True) -> tuple[Rule, ...]:
    """A dense layer. `jax` is our path where it is not PyTorch's with slashes."""
    jax = jax or torch.replace(".", "/")
    kernel = Rule(f"{torch}.weight", f"{jax}/kernel", "o i -> i o")
    return (kernel, Rule(f"{torch}.bias", f"{jax}/bias")) if bias else (kernel,)


def conv2d(torch: str, jax: str = "") -> tuple[Rule, ...]:
    """A 2-d convolution with bias."""
    jax = jax or torch.replace(".", "/")
    kernel = Rule(f"{torch}.weight", f"{jax}/kernel", "o i h w -> h w i o")
    return kernel, Rule(f"{torch}.bias", f"{jax}/bias")


def conv2d_1x1(torch: str, jax: str = "") -> tuple[Rule, ...]:
    """A 1x1 convolution that is a dense layer here."""
    jax = jax or torch.replace(".", "/")
    kernel = Rule(f"{torch}.weight", f"{jax}/kernel", "o i 1 1 -> i o")
    return kernel, Rule(f"{torch}.bias", f"{jax}/bias")


def conv1d(torch: str, jax: str = "", bias: bool = True) -> tuple[Rule, ...]:
    """A 1-d convolution."""
    jax = jax or torch.replace(".", "/")
    kernel = Rule(f"{torch}.weight", f"{jax}/kernel", "o i k -> k i o")
    return (kernel, Rule(f"{torch}.bias", f"{jax}/bias")) if bias else (kernel,)


def norm(torch: str, jax: str = "") -> tuple[Rule, ...]:
    """A group or layer norm with scale and bias."""
    jax = jax or torch.replace(".", "/")
    return Rule(f"{torch}.weight", f"{jax}/scale"), Rule(f"{torch}.bias", f"{jax}/bias")


def import_tensors(
    what: str,
    rules: Sequence[Rule],
    tensors: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """PyTorch tensors renamed and re-laid for a module whose parameters have `shapes`.

    Raises:
      ConversionError: a tensor with no rule or several, a parameter written twice, never, or in
        another shape. It lists all of them.
    """
    out: dict[str, np.ndarray] = {}
    problems, told = [], set()
    for name, tensor in tensors.items():
        hits = [(rule, path) for rule in rules if (path := rule.jax_name(name)) is not None]
        if len(hits) != 1:
            problems.append(f"unknown tensor {name}" if not hits else f"{name} has two rules")
            continue
        rule, path = hits[0]
        if path not in shapes:
            problems.append(f"unknown tensor {name} (this config has no {path})")
            continue
        if path in out:
            problems.append(f"{path} is written twice, last by {name}")
            continue
        try:
            value = rule.to_jax(np.asarray(tensor))
        except einops.EinopsError:
            told.add(path)
            problems.append(f"{name} has shape {tuple(tensor.shape)}, expected axes {rule.layout}")
            continue
        if value.shape != tuple(shapes[path]):
            told.add(path)
            problems.append(f"{name} gives {path} shape {value.shape}, expected {shapes[path]}")
            continue
        out[path] = value
    for path in sorted(set(shapes) - set(out) - told):
        name, owner = _torch_side(rules, path)
        if owner is not None and owner.optional:
            out[path] = np.zeros(shapes[path], np.float32)
        else:
            problems.append(f"missing tensor {name} (for {path})")
    if problems:
        raise ConversionError(what, problems)
    return out


def export_tensors(
    what: str, rules: Sequence[Rule], params: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The inverse of `import_tensors`, to the bit.

    Raises:
      ConversionError: a parameter with no rule, or two parameters with one name.
    """
    out: dict[str, np.ndarray] = {}
    problems = []
    for path, value in params.items():
        name, rule = _torch_side(rules, path)
        if rule is None:
            problems.append(f"no rule for parameter {path}")
        elif name in out:
            problems.append(f"{name} is written twice, last by {path}")
        else:
            out[name] = np.ascontiguousarray(rule.to_torch(np.asarray(value)))
    if problems:
        raise ConversionError(what, problems)
    return out


def _torch_side(rules: Sequence[Rule], path: str) -> tuple[str, Rule | None]:
    for rule in rules:
        name = rule.torch_name(path)
        if name is not None:
            return name, rule
    return "(no rule)", None
