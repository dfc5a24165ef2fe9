"""Counting what a traced program computes and sends, before any compiler has seen it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax

# {(kind, devices of a group): (how many, bytes each device has of all results)}
Collectives = dict[tuple[str, int], tuple[int, float]]

_KINDS = {
    "all_gather": "all-gather",
    "all_gather_invariant": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "psum": "all-reduce",
    "psum_invariant": "all-reduce",
    "pmax": "all-reduce",
    "pmin": "all-reduce",
    "all_to_all": "all-to-all",
    "ppermute": "collective-permute",
}


def flops(jaxpr: Any) -> float:
    """Operations (2 for a multiplication with addition) of all matrix products and convolutions,
    loops as often as they run, kernels with their padding.

    Raises:
      ValueError: a loop whose length is not known before it runs.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total += _dot(eqn)
        elif name == "conv_general_dilated":
            total += _conv(eqn)
        elif name == "cond":
            total += max(flops(inner) for inner in inside(eqn))
        else:
            total += repeats(eqn) * sum(flops(inner) for inner in inside(eqn))
    return total


def heavy(eqn: Any) -> int:
    """How many matrix products, convolutions and kernels are written in an equation; those in a
    kernel are one."""
    name = eqn.primitive.name
    if name in ("dot_general", "conv_general_dilated", "pallas_call"):
        return 1
    return sum(heavy(e) for inner in inside(eqn) for e in inner.eqns)


def collectives(jaxpr: Any, sizes: Mapping[str, int]) -> Collectives:
    """What a program sends between devices, by its own words: `sizes` are those of mesh axes.

    The same value gathered twice is gathered once, as compilers see to, but not across what is
    computed again on purpose.
    """
    return _collectives(jaxpr, sizes, {v: (v,) for v in jaxpr.invars}, set())


def _collectives(
    jaxpr: Any, sizes: Mapping[str, int], names: dict[Any, tuple[Any, ...]], seen: set[Any]
) -> Collectives:
    """`names` tell values apart that may be equal; `seen` are the gathered ones."""
    found: Collectives = {}
    for i, eqn in enumerate(jaxpr.eqns):
        given = [None if hasattr(v, "val") else names.get(v) for v in eqn.invars]
        name = eqn.primitive.name
        kind = _KINDS.get(name)
        if name == "convert_element_type" and given[0]:
            names[eqn.outvars[0]] = (*given[0], str(eqn.params["new_dtype"]))
        if kind:
            axes = eqn.params.get("axes", eqn.params.get("axis_name"))
            axes = axes if isinstance(axes, tuple | list) else (axes,)
            group = math.prod(sizes[axis] for axis in axes)
            what = (kind, given[0])
            if group == 1 or (kind == "all-gather" and given[0] and what in seen):
                continue
            seen.add(what)
            whole = eqn.invars if kind == "reduce-scatter" else eqn.outvars
            add(found, {(kind, group): (len(whole), sum(nbytes(v.aval) for v in whole))})
            continue
        # Loops and what is computed again have values of their own.
        apart = name in ("scan", "while") or eqn.params.get("differentiated", False)
        below: list[Collectives] = []
        for inner in inside(eqn):
            passed = given if len(given) == len(inner.invars) else [None] * len(inner.invars)
            known = {
                v: (*g, (id(jaxpr), i)) if apart else g
                for v, g in zip(inner.invars, passed, strict=True)
                if g
            }
            below.append(_collectives(inner, sizes, known, set() if apart else seen))
        if name == "cond" and below:
            below = [max(below, key=lambda c: sum(size for _, size in c.values()))]
        for more in below:
            add(found, more, repeats(eqn))
    return found


def add(total: Collectives, more: Collectives, times: float = 1) -> None:
    """Count `more` `times` over into `total`."""
    for key, (count, size) in more.items():
        before = total.get(key, (0, 0.0))
        total[key] = (before[0] + int(count * times), before[1] + size * times)


def inside(eqn: Any) -> Iterator[Any]:
    """The programs within an equation."""
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def repeats(eqn: Any) -> float:
    """How often what is inside an equation runs."""
    name = eqn.primitive.name
    if name == "scan":
        return eqn.params["length"]
    if name == "pallas_call":
        return math.prod(eqn.params["grid_mapping"].grid)
    if name == "while" and any(heavy(e) for inner in inside(eqn) for e in inner.eqns):
        raise ValueError("a loop of unknown length cannot be counted; write it as a scan")
    return 1


def nbytes(aval: Any) -> float:
    """Bytes of an array; a random key is its words."""
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended):
        return 8.0 * math.prod(aval.shape)
    return float(math.prod(aval.shape) * aval.dtype.itemsize)


def _dot(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)


def _conv(eqn: Any) -> float:
    """Of windows that lie whole within the input: zeros of padding and of dilation count too, as
    chips compute them, but not those between the rows of a dilated input."""
    numbers, kernel = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape
    _, k_in, *spatial = numbers.rhs_spec
    taps = math.prod(kernel[i] for i in spatial) * kernel[k_in]
    dilated = math.prod(eqn.params["lhs_dilation"])
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * taps / dilated
