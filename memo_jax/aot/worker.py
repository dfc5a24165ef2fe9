"""One plan in a process of its own: `python -m memo_jax.aot.worker REQUEST ANSWER`, JSON files.

Of its own, because the TPU compiler wants an environment that is set before JAX is imported, and
because it ends the process where it finds no memory.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from memo_jax.errors import UserError

# The compiler asks what machine it is on; this one is none. Without the last, two cannot run.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# What the compiler takes for one product, convolution or kernel of a whole program, in bytes, as
# seen at full forwards (5 to 8 GB) and training steps (19 GB).
_BYTES_PER_PRODUCT = 4.5 * 2**20
_LEAST_BYTES = 2 * 2**30


def check_compiler() -> None:
    """Raises UserError where there is no TPU compiler."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "the TPU compiler (libtpu) is not installed; pip install -e '.[tpu]' brings it, and "
            "needs no TPU"
        )


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The report that a request asks for, as JSON can hold it.

    Request: model, topology, config (a training config's fields) or None for generation with
    `chunk` and `mesh` (or None), `memory` and `preset` as `memo_jax.sample` takes them,
    past_frames, effort, how ("whole", "pieces" or "auto"), kept (a folder), settings.

    Raises:
      UserError: whatever the user can mend.
    """
    # Here, so that the environment may be set by who imports this module.
    from memo_jax.aot import count, planning, programs
    from memo_jax.aot.chips import chip_of, described
    from memo_jax.models.exchange import split_of
    from memo_jax.train.config import TrainConfig

    chip, devices = chip_of(request["topology"]), described(request["topology"])
    spec = programs.model_spec(request["model"])
    if request["config"] is None:
        what = f"generation of {request['chunk']} clips, {spec.name}"
        split = split_of(request["mesh"])
        planned = programs.generation(
            spec,
            devices,
            chunk=request["chunk"],
            split=split,
            low=request["memory"] == "low",
            preset=request["preset"],
        )
    else:
        config = TrainConfig.from_dict(request["config"])
        what = f"training step of stage {config.stage}, {spec.name}"
        planned = programs.training(spec, config, devices, request["past_frames"])
    how = request["how"]
    if how == "auto":
        weight = sum(map(count.heavy, planned.jaxpr.eqns))
        enough = _LEAST_BYTES + weight * _BYTES_PER_PRODUCT < memory_available()
        how = "whole" if enough else "pieces"
    said = {"what": what, "topology": request["topology"], "settings": request["settings"]}
    if how == "whole":
        return planning.as_whole(planned, chip, request["effort"], **said).to_dict()
    kept = Path(request["kept"])
    kept.mkdir(parents=True, exist_ok=True)
    report = planning.in_pieces(
        planned, chip, request["effort"], lambda line: print(line, flush=True), kept, **said
    )
    return report.to_dict()


def memory_available() -> float:
    """Bytes that this machine could give to a new program."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def main(arguments: list[str]) -> None:
    """Answer the request in the first file with the second."""
    request = json.loads(Path(arguments[0]).read_text())
    try:
        found = answer(request)
    except UserError as error:
        found = {"error": str(error)}
    Path(arguments[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
