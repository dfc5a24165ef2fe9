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
    `shared` marks the several rules of a tensor that PyTorch has once and we more than once: our
    parameters are filled alike, and must still be alike to go back.
    """

    torch: str
    jax: str
    layout: str = ""
    optional: str = ""
    shared: bool = False

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

    def torch_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """PyTorch's shape of a parameter that has `shape` here."""
        return self.to_torch(np.broadcast_to(np.zeros((), np.uint8), shape)).shape


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
        if not hits:
            problems.append(f"unknown tensor {name}")
        elif len(hits) > 1 and not all(rule.shared for rule, _ in hits):
            problems.append(f"{name} has two rules")
            continue
        for rule, path in hits:
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
                shape = tuple(tensor.shape)
                problems.append(f"{name} has shape {shape}, expected axes {rule.layout}")
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


@dataclass(frozen=True)
class Owner:
    """The rule of a PyTorch tensor, and our parameters: one, or several that share the tensor."""

    rule: Rule
    ours: tuple[str, ...]

    def tensor(self, name: str, values: Sequence[np.ndarray]) -> np.ndarray:
        """The PyTorch tensor from the values of `ours`.

        Raises:
          ConversionError: they share it but are not the same.
        """
        first, *copies = (np.asarray(value) for value in values)
        if not all(np.array_equal(first, copy) for copy in copies):
            raise ConversionError(
                name, [f"PyTorch has one where these have several: {', '.join(self.ours)}"]
            )
        return np.ascontiguousarray(self.rule.to_torch(first))


def torch_names(what: str, rules: Sequence[Rule], paths: Iterable[str]) -> dict[str, Owner]:
    """PyTorch's names for parameters, in their order.

    Raises:
      ConversionError: a parameter with no rule, or two with one name that is not shared.
    """
    out: dict[str, Owner] = {}
    problems = []
    for path in paths:
        name, rule = _torch_side(rules, path)
        if rule is None:
            problems.append(f"no rule for parameter {path}")
        elif name not in out:
            out[name] = Owner(rule, (path,))
        elif rule.shared:
            out[name] = Owner(rule, (*out[name].ours, path))
        else:
            problems.append(f"{name} is written twice, last by {path}")
    if problems:
        raise ConversionError(what, problems)
    return out


def export_tensors(
    what: str, rules: Sequence[Rule], params: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The inverse of `import_tensors`, to the bit; raises as `torch_names` and `Owner.tensor`."""
    return {
        name: owner.tensor(name, [params[path] for path in owner.ours])
        for name, owner in torch_names(what, rules, params).items()
    }


def _torch_side(rules: Sequence[Rule], path: str) -> tuple[str, Rule | None]:
    for rule in rules:
        name = rule.torch_name(path)
        if name is not None:
            return name, rule
    return "(no rule)", None
