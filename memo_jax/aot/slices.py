"""A traced program cut into pieces that are compiled apart, and what the whole needs by them.

A piece is a run of the program's own equations. The pieces of equal text are compiled once. What
lies between pieces is known from where values are made and last used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from memo_jax.aot import count

# Programs with more heavy equations are cut again; pieces have at least, and at most, so many.
_WHOLE, _LEAST, _MOST = 40, 3, 24
# The Reference Net's layers hand on a picture and what they saw of it.
_OPEN = 2
_ALONE = ("remat2", "checkpoint")
_NESTED = (*_ALONE, "scan", "shard_map", "jit", "pjit", "closed_call", "core_call")


@dataclass
class Piece:
    """Equations that follow each other, what they read and what is read of them later."""

    equations: list[Any]
    reads: list[Any] = field(default_factory=list)
    makes: list[Any] = field(default_factory=list)

    @property
    def weight(self) -> int:
        """How many heavy equations it has."""
        return sum(count.heavy(eqn) for eqn in self.equations)

    def function(self) -> Callable[..., list[Any]]:
        """The piece as a function of what it reads."""

        def run(*values: Any) -> list[Any]:
            known = dict(zip(self.reads, values, strict=True))
            for eqn in self.equations:
                given = [v.val if hasattr(v, "val") else known[v] for v in eqn.invars]
                with eqn.ctx.manager:
                    params = eqn.primitive.get_bind_params(eqn.params)
                    out = eqn.primitive.bind(*given, **params)
                made = out if eqn.primitive.multiple_results else [out]
                known.update(zip(eqn.outvars, made, strict=True))
            return [known[v] for v in self.makes]

        return run


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of one piece, on one device: bytes of its temporary values, of its
    results and of its code, bytes moved in memory, and how long it took."""

    temporary: float
    results: float
    moved: float
    seconds: float
    code: float = 0.0


@dataclass
class Composed:
    """What the pieces add up to, on one device.

    Attributes:
      peak: the most bytes that exist at once, beside what the program is given.
      moved: bytes read and written in memory.
      code: bytes of all pieces' code; equal pieces do not share theirs.
      pieces: how many ran.
    """

    peak: float = 0.0
    moved: float = 0.0
    code: float = 0.0
    pieces: int = 0


Compile = Callable[[Piece], Compiled]


def cut(jaxpr: Any) -> list[Piece]:
    """The program's equations as pieces, in their order."""
    eqns = list(jaxpr.eqns)
    last = _last_uses(jaxpr)
    groups: list[list[Any]] = []
    current: list[Any] = []
    weight = 0
    open_values: set[Any] = set()
    for i, eqn in enumerate(eqns):
        if stands_alone(eqn):
            groups += [current, [eqn]]
            current, weight, open_values = [], 0, set()
            continue
        current.append(eqn)
        weight += count.heavy(eqn)
        open_values |= {v for v in eqn.outvars if last.get(v, -1) > i}
        open_values = {v for v in open_values if last[v] > i}
        # Where few values go on is where a layer or a part of one ends.
        if weight >= _LEAST and (len(open_values) <= _OPEN or weight >= _MOST):
            groups.append(current)
            current, weight, open_values = [], 0, set()
    groups.append(current)
    return _wired(jaxpr, [group for group in groups if group])


def stands_alone(eqn: Any) -> bool:
    """Whether an equation is a piece by itself, or is cut again."""
    weight = count.heavy(eqn)
    return weight > 0 and (eqn.primitive.name in _ALONE or _is_nested(eqn))


def _is_nested(eqn: Any) -> bool:
    return eqn.primitive.name in _NESTED and count.heavy(eqn) > _WHOLE


def compose(
    jaxpr: Any,
    compile_piece: Compile,
    size: Callable[[Any], float] = lambda v: count.nbytes(v.aval),
    donated: Sequence[Any] = (),
) -> Composed:
    """What running the pieces one after the other takes.

    Args:
      jaxpr: the program; what it is given is counted by who gives it.
      compile_piece: of pieces with heavy equations; light ones are taken to need nothing but
        their results, since the compiler fuses them.
      size: bytes of one device's part of a value.
      donated: what it is given and need not be kept: light pieces put results in its place.
    """
    total = Composed()
    sizes: dict[Any, float] = {}
    pieces = cut(jaxpr)
    given = {*jaxpr.invars, *jaxpr.constvars}
    last = {v: i for i, piece in enumerate(pieces) for v in piece.reads}
    for v in jaxpr.outvars:
        if not hasattr(v, "val"):
            last[v] = len(pieces)
    alive: set[Any] = set()
    for i, piece in enumerate(pieces):
        held = sum(sizes[v] for v in alive)
        dying = [v for v in piece.reads if v not in given and last[v] == i]
        plain = sum(size(v) for v in piece.makes)
        reads = sum(sizes.get(v, 0.0) or size(v) for v in piece.reads)
        ratio = 1.0
        if piece.weight == 0:
            free = sum(sizes[v] for v in dying)
            free += sum(size(v) for v in piece.reads if v in donated and last[v] == i)
            inner, moved = max(0.0, plain - free), reads + plain
        elif len(piece.equations) == 1 and _is_nested(piece.equations[0]):
            # What it gives is made inside, but what a loop gives of each round is not.
            below, times = _nested(piece.equations[0], compile_piece)
            kept = _stacked(piece.equations[0])
            inner = below.peak + sum(size(v) for v in piece.makes if v in kept)
            moved = times * below.moved
            total.pieces += below.pieces - 1
            total.code += below.code
        else:
            compiled = compile_piece(piece)
            ratio = max(1.0, compiled.results / plain) if plain else 1.0
            inner, moved = compiled.results + compiled.temporary, compiled.moved
            total.code += compiled.code
        total.peak = max(total.peak, held + inner)
        total.moved += moved
        total.pieces += 1
        sizes |= {v: ratio * size(v) for v in piece.makes}
        alive = {v for v in {*alive, *piece.makes} if last.get(v, -1) > i}
    return total


def pieces_to_compile(jaxpr: Any) -> int:
    """How often `compose` will ask its compiler."""
    asked: list[Piece] = []

    def ask(piece: Piece) -> Compiled:
        asked.append(piece)
        return Compiled(0.0, 0.0, 0.0, 0.0)

    compose(jaxpr, ask)
    return len(asked)


def _nested(eqn: Any, compile_piece: Compile) -> tuple[Composed, float]:
    (inner,) = count.inside(eqn)
    return compose(inner, compile_piece), count.repeats(eqn)


def _stacked(eqn: Any) -> set[Any]:
    return set(eqn.outvars[eqn.params["num_carry"] :] if eqn.primitive.name == "scan" else ())


def _last_uses(jaxpr: Any) -> dict[Any, int]:
    last: dict[Any, int] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        last |= {v: i for v in eqn.invars if not hasattr(v, "val")}
    return last | {v: len(jaxpr.eqns) for v in jaxpr.outvars if not hasattr(v, "val")}


def _wired(jaxpr: Any, groups: list[list[Any]]) -> list[Piece]:
    """Pieces that know what goes in and out."""
    needed = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    pieces: list[Piece] = []
    for group in reversed(groups):
        made = [v for eqn in group for v in eqn.outvars]
        own = set(made)
        reads: dict[Any, None] = {}
        for eqn in group:
            reads |= {v: None for v in eqn.invars if not hasattr(v, "val") and v not in own}
        pieces.append(Piece(group, list(reads), [v for v in made if v in needed]))
        needed = (needed - own) | set(reads)
    return pieces[::-1]
