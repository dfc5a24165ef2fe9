"""Reading the text of a compiled program: what it sends between devices, what it moves in memory.

Loops count as often as they run. Bytes are those of values, without the padding of layouts.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from memo_jax.aot.count import Collectives, add

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "bf16": 16, "token": 0}
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^ +(ROOT )?%?[\w.\-]+ = [(a-z]")
_NAME = re.compile(r"%([\w.\-]+)")
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# These move nothing, or what they move their neighbours are counted for.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all "
    "partition-id replica-id copy-done iota custom-call-done async-start".split()
)
# Of an operand of which a fusion takes a slice after these, it reads the slice.
_ONE_TO_ONE = frozenset("bitcast convert copy reshape transpose".split())


@dataclass
class Op:
    """One instruction: its result, what it does, to what, and the rest of the line."""

    name: str
    result: str
    kind: str
    operands: list[str]
    rest: str


@dataclass
class Program:
    """The computations of a compiled program by name."""

    computations: dict[str, list[Op]] = field(default_factory=dict)
    entry: str = ""
    uncounted_loops: int = 0


def parse(text: str) -> Program:
    """The program that `compiled.as_text()` shows."""
    program = Program()
    ops: list[Op] = []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header and " = " not in line.split("(", 1)[0]:
            ops = program.computations.setdefault(header[2], [])
            program.entry = header[2] if header[1] else program.entry
        elif _LINE.match(line):
            ops.append(_op(line))
    return program


def collectives(program: Program) -> Collectives:
    """{(kind, devices of a group): (how many, bytes of their whole values)} of one device."""
    found: Collectives = {}
    for times, computation in _runs(program, program.entry, fused=True):
        operands = {op.name: op.result for op in computation}
        for op in computation:
            kind = op.kind.removesuffix("-start")
            group = _group(op.rest)
            if kind not in _KINDS or group == 1:
                continue
            if kind == "reduce-scatter":
                size = sum(_nbytes(operands[name]) for name in op.operands)
            elif op.kind == "all-gather-start" or kind == "collective-permute":
                # Of (operand, result, flags) the result; of the plain form the result itself.
                parts = [_one(m) for m in _SHAPE.finditer(op.result)]
                size = parts[1] if op.kind.endswith("-start") else sum(parts)
            else:
                size = _nbytes(op.result)
            add(found, {(kind, group): (1, size)}, times)
    return found


def moved(program: Program) -> float:
    """Bytes that one device's operations read from and write to its memory. What stays within a
    fusion or in the fast memory beside the core costs nothing."""
    total = 0.0
    for times, computation in _runs(program, program.entry, fused=False):
        results = {op.name: op.result for op in computation}
        for op in computation:
            total += times * _traffic(program, op, results)
    return total


def largest(program: Program, count: int = 3) -> list[tuple[str, float]]:
    """The largest values that a program makes in its memory, each shape once, with their bytes."""
    found: dict[str, float] = {}
    for _, computation in _runs(program, program.entry, fused=False):
        for op in computation:
            if op.kind in _FREE or op.kind.endswith("-done"):
                continue
            for match in _SHAPE.finditer(op.result):
                if "S(" not in (match[3] or ""):
                    found[f"{match[1]}[{match[2]}]"] = _one(match)
    return sorted(found.items(), key=lambda item: -item[1])[:count]


def pairs(program: Program, positions: int) -> list[str]:
    """Shapes with a number for every pair of positions, as attention's scores are when they are
    made whole: those of which two dimensions are multiples of `positions`. Of all values, what
    stays within a fusion or in fast memory too."""
    return sorted(
        {
            f"{match[1]}[{match[2]}]"
            for computation in program.computations.values()
            for op in computation
            for match in _SHAPE.finditer(op.result)
            if sum(size > 0 and size % positions == 0 for size in _sizes(match)) > 1
        }
    )


def _traffic(program: Program, op: Op, results: dict[str, str]) -> float:
    if op.kind in _FREE or op.kind.endswith("-done"):
        return 0.0
    if op.kind == "copy-start":  # its result is (the copy, what is copied, a flag)
        return sum(_slow(m[0]) for m in list(_SHAPE.finditer(op.result))[:2])
    if op.kind in ("slice-start", "dynamic-slice-start"):  # (operands, the slice, a flag)
        cut = list(_SHAPE.finditer(op.result))[len(op.operands)]
        from_slow = _slow(results.get(op.operands[0], "")) > 0
        return _slow(cut[0]) + from_slow * _one(cut)
    written = _slow(op.result)
    if op.kind == "dynamic-slice":
        return 2 * written
    if op.kind == "dynamic-update-slice":
        return 2 * _slow(results.get(op.operands[1], ""))
    read = [_slow(results.get(name, "")) for name in op.operands]
    if op.kind == "fusion":
        called = _called(op.rest, "calls")
        written = _updated(program.computations.get(called, []), written)
        parameters = _parameters(program, called)
        read = [
            min(size, _read(program, called, parameters[i])) if i in parameters else size
            for i, size in enumerate(read)
        ]
    return written + sum(read)


def _parameters(program: Program, computation: str) -> dict[int, Op]:
    """A computation's parameters by number."""
    found = {}
    for op in program.computations.get(computation, []):
        if op.kind == "parameter" and (number := re.match(r"(\d+)\)", op.rest)):
            found[int(number[1])] = op
    return found


def _read(program: Program, computation: str, value: Op) -> float:
    """Bytes that a fused computation reads of one of its values: slices where it takes nothing
    else of it, however deep in fusions within."""
    ops = program.computations[computation]
    whole = _nbytes(value.result)
    if value is ops[-1]:
        return whole
    total = 0.0
    for user in (op for op in ops if value.name in op.operands):
        if user.kind in ("dynamic-slice", "slice", "gather") and user.operands[0] == value.name:
            total += whole * _elements(user.result) / max(_elements(value.result), 1)
        elif user.kind == "dynamic-update-slice" and user.operands[0] == value.name:
            continue
        elif user.kind in _ONE_TO_ONE:
            share = _read(program, computation, user) / max(_nbytes(user.result), 1)
            total += whole * share
        elif user.kind == "fusion":
            called = _called(user.rest, "calls")
            inner = _parameters(program, called)
            at = [i for i, name in enumerate(user.operands) if name == value.name]
            total += sum(_read(program, called, inner[i]) if i in inner else whole for i in at)
        else:
            total += whole
    return min(total, whole)


def _updated(inner: list[Op], written: float) -> float:
    """Bytes written by a fusion that ends in putting a slice into a larger array."""
    results = {op.name: op for op in inner}
    last = inner[-1] if inner else None
    while last is not None and last.kind == "bitcast":
        last = results.get(last.operands[0])
    if last is None or last.kind != "dynamic-update-slice":
        return written
    update = results.get(last.operands[1], last)
    return min(written, _nbytes(update.result))


def _runs(
    program: Program, name: str, *, fused: bool, times: float = 1
) -> Iterator[tuple[float, list[Op]]]:
    """Every computation that runs, and how often; those within fusions only where `fused`."""
    computation = program.computations.get(name, [])
    yield times, computation
    for op in computation:
        if op.kind == "while":
            trips = _trips(program, op)
            yield from _runs(program, _called(op.rest, "body"), fused=fused, times=times * trips)
        elif op.kind == "conditional":
            inner = re.search(r"branch_computations=\{([^}]*)\}", op.rest)
            names = _NAME.findall(inner[1]) if inner else []
            for branch in names or [_called(op.rest, "true_computation")]:
                yield from _runs(program, branch, fused=fused, times=times)
        elif op.kind == "call" or (op.kind == "async-start") or (fused and op.kind == "fusion"):
            called = _called(op.rest, "calls") or _called(op.rest, "to_apply")
            yield from _runs(program, called, fused=fused, times=times)


def _trips(program: Program, op: Op) -> int:
    known = re.search(r'known_trip_count"?:\{"n":"(\d+)"', op.rest)
    if known:
        return int(known[1])
    bounds = [
        int(number[1])
        for inner in program.computations.get(_called(op.rest, "condition"), [])
        if inner.kind == "constant" and (number := re.match(r"(\d+)\)", inner.rest))
    ]
    if len(bounds) == 1:
        return bounds[0]
    program.uncounted_loops += 1
    return 1


def _op(line: str) -> Op:
    left, _, right = line.strip().partition(" = ")
    end = _closing(right, 0) if right.startswith("(") else right.index(" ")
    result, after = right[: end + 1], right[end + 1 :].lstrip()
    kind, _, inside = after.partition("(")
    close = _closing("(" + inside, 0) - 1
    rest = inside if kind in ("parameter", "constant") else inside[close + 1 :]
    return Op(
        name=left.removeprefix("ROOT ").lstrip("%"),
        result=result,
        kind=kind.strip(),
        operands=_NAME.findall(inside[:close]),
        rest=rest,
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text)


def _called(rest: str, what: str) -> str:
    found = re.search(rf"\b{what}=%?([\w.\-]+)", rest)
    return found[1] if found else ""


def _group(rest: str) -> int:
    """Devices that take part in one instance of a collective; 0 where it is not said."""
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", found[2]))
    return 0


def _nbytes(result: str) -> float:
    return sum(_one(match) for match in _SHAPE.finditer(result))


def _elements(result: str) -> float:
    return sum(math.prod(_sizes(m)) for m in _SHAPE.finditer(result))


def _slow(result: str) -> float:
    """Bytes of a result that lie in the large memory: layouts name others as S(1), S(2)..."""
    return sum(_one(m) for m in _SHAPE.finditer(result) if "S(" not in (m[3] or ""))


def _one(match: re.Match[str]) -> float:
    kind = match[1]
    digits = re.search(r"\d+", kind)
    bits = _BITS.get(kind, 8 if kind.startswith("f8") else int(digits[0]) if digits else 8)
    return math.prod(_sizes(match)) * bits / 8


def _sizes(match: re.Match[str]) -> list[int]:
    return [int(n.lstrip("<=")) for n in match[2].split(",") if n]
