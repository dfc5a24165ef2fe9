"""The TPU compiler at work: on a whole program, or on pieces of one."""

import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from memo_jax.aot import hlo
from memo_jax.aot.slices import Compiled, Piece
from memo_jax.weights.cache import sha256

# Without the second, every product with a gathered matrix becomes a loop of small sends, which
# takes twice the time to compile.
OPTIONS = {
    "exec_time_optimization_effort": -1.0,
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": "100000",
}


_READING = sha256(Path(hlo.__file__))  # another way to count bytes finds other numbers


def options(effort: float) -> dict[str, Any]:
    """The compiler's options; `effort` is -1 (quick) to 1."""
    return {**OPTIONS, "exec_time_optimization_effort": effort}


class Pieces:
    """Compiles pieces for the devices of a mesh, those that are the same once.

    `kinds` counts the different ones.
    """

    def __init__(
        self,
        mesh: Mesh,
        effort: float,
        tell: Callable[[str], None] = lambda line: None,
        kept: Path | None = None,
        *,
        mapped: bool = True,
        total: int = 0,
    ):
        """`kept` is a folder where what was compiled once is found again; `mapped` says that the
        pieces are of a program within `shard_map`, `total` how many there will be."""
        self.kinds = 0
        self._mapped, self._asked, self._total = mapped, 0, total
        self._mesh, self._options, self._tell, self._kept = mesh, options(effort), tell, kept
        self._known: dict[str, Compiled] = {}

    def __call__(self, piece: Piece) -> Compiled:
        """What the compiler says of a piece."""
        self._asked += 1
        traced = self._traced(piece)
        # Functions that a program names by their place in memory are told apart by their text.
        text = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr))
        asked = f"{self._where()} {self._options} {_READING} {text}"
        key = hashlib.sha256(asked.encode()).hexdigest()[:32]
        if key not in self._known:
            self.kinds += 1
            found = self._known[key] = self._found(key) or self._compiled(traced)
            self._keep(key, found)
            self._tell(
                f"piece {self._asked}{f' of {self._total}' if self._total else ''}, "
                f"{piece.weight} products: {found.seconds:.1f} s, "
                f"{found.temporary / 2**30:.2f} GiB temporary"
            )
        return self._known[key]

    def _where(self) -> str:
        device = self._mesh.devices.flat[0]
        return f"{device.device_kind} {device.client.platform_version} {jax.__version__}"

    def _found(self, key: str) -> Compiled | None:
        if self._kept is None:
            return None
        try:
            return Compiled(**json.loads((self._kept / f"{key}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _keep(self, key: str, found: Compiled) -> None:
        if self._kept is None:
            return
        part = self._kept / f"{key}.{os.getpid()}"
        part.write_text(json.dumps(dataclasses.asdict(found)))
        part.replace(self._kept / f"{key}.json")

    def _traced(self, piece: Piece) -> Any:
        if not self._mapped:
            here = NamedSharding(self._mesh, P())
            given = [
                jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype, sharding=here) for v in piece.reads
            ]
            return jax.jit(piece.function(), out_shardings=here).trace(*given)
        # Every device's own values, side by side along a new first axis.
        spec = P(tuple(self._mesh.axis_names))
        place, run = NamedSharding(self._mesh, spec), piece.function()
        own = jax.shard_map(
            lambda *given: [y[None] for y in run(*(x[0] for x in given))],
            mesh=self._mesh,
            in_specs=spec,
            out_specs=spec,
            check_vma=False,
        )
        shapes = [
            jax.ShapeDtypeStruct((self._mesh.size, *v.aval.shape), v.aval.dtype, sharding=place)
            for v in piece.reads
        ]
        return jax.jit(own, out_shardings=place).trace(*shapes)

    def _compiled(self, traced: Any) -> Compiled:
        begun = time.perf_counter()
        compiled = traced.lower().compile(compiler_options=self._options)
        memory = compiled.memory_analysis()
        return Compiled(
            temporary=memory.temp_size_in_bytes,
            results=memory.output_size_in_bytes,
            moved=hlo.moved(hlo.parse(compiled.as_text())),
            seconds=time.perf_counter() - begun,
            code=memory.generated_code_size_in_bytes,
        )
