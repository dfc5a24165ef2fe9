"""From a program to a report: compiled as a whole, or in pieces."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from memo_jax.aot import count, hlo
from memo_jax.aot.chips import Chip
from memo_jax.aot.compiling import Pieces, options
from memo_jax.aot.programs import Planned, own_flops
from memo_jax.aot.report import Report, listed
from memo_jax.aot.slices import compose, pieces_to_compile
from memo_jax.errors import one_line

Told = Callable[[str], None]


def as_whole(planned: Planned, chip: Chip, effort: float, **said: Any) -> Report:
    """The report of a program that is compiled as it would run."""
    begun = time.perf_counter()
    given = sum(planned.given.values())
    try:
        compiled = planned.traced.lower().compile(compiler_options=options(effort))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _report(planned, chip, begun, (0.0, 0.0), 0.0, {}, refused=_words(error), **said)
    memory = compiled.memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    code = memory.generated_code_size_in_bytes
    program = hlo.parse(compiled.as_text())
    found = hlo.collectives(program)
    sizes = needed - given, code
    said["largest"] = hlo.largest(program)
    said["pairs"] = hlo.pairs(program, planned.positions)
    return _report(planned, chip, begun, sizes, hlo.moved(program), found, **said)


def in_pieces(
    planned: Planned,
    chip: Chip,
    effort: float,
    tell: Told = lambda line: None,
    kept: Path | None = None,
    **said: Any,
) -> Report:
    """The report of a program whose pieces are compiled apart, or found in the folder `kept`.

    Raises:
      ValueError: it leaves it to the compiler how it is cut over devices.
    """
    begun = time.perf_counter()
    names = {eqn.primitive.name for eqn in planned.jaxpr.eqns if count.heavy(eqn)}
    mapped = names == {"shard_map"}
    if planned.mesh.size > 1 and not mapped:
        raise ValueError("only a program written for one device of many can be composed")
    total = pieces_to_compile(planned.jaxpr)
    pieces = Pieces(planned.mesh, effort, tell, kept, mapped=mapped, total=total)
    sums = compose(planned.jaxpr, pieces, planned.size(), planned.donated_values())
    found = count.collectives(planned.jaxpr, dict(planned.mesh.shape))
    counted, sizes = (sums.pieces, pieces.kinds), (sums.peak, sums.code)
    return _report(
        planned, chip, begun, sizes, sums.moved, found, composed=True, pieces=counted, **said
    )


def _report(
    planned: Planned,
    chip: Chip,
    begun: float,
    sizes: tuple[float, float],
    moved: float,
    found: count.Collectives,
    *,
    composed: bool = False,
    **said: Any,
) -> Report:
    return Report(
        chip=chip,
        devices=planned.mesh.size,
        clips=planned.clips,
        positions=planned.positions,
        composed=composed,
        given=planned.given,
        temporary=sizes[0],
        code=sizes[1],
        usable=chip.usable,
        flops=own_flops(planned.traced, planned.mesh),
        model_flops=planned.model_flops,
        moved=moved,
        collectives=listed(found),
        seconds=time.perf_counter() - begun,
        **said,
    )


def _words(error: Exception) -> str:
    text = one_line(error)
    return text[text.index("RESOURCE_EXHAUSTED") :][:300]
