"""Puts a trained `tiny` into the package: the bundled preset.

    python tools/bundle_tiny.py RUN memo_jax/assets/models/tiny --guidance 2 --steps 4

RUN is the last run of configs/tiny/stage2b.py. Kernels are stored in bfloat16, all else as it is.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from memo_jax.command import Parser, run
from memo_jax.train.run import is_run, run_model
from memo_jax.weights.folder import Model, write_model
from memo_jax.weights.sources import load_model

ORIGIN = "trained from nothing on drawn faces (python -m memo_jax.puppets) by configs/tiny"
NOTES = (
    "tiny was trained on the drawn faces of memo_jax.puppets alone: it makes those speak; for "
    "photographs bring MEMO's own weights"
)


def bundled(model: Model, guidance: float, steps: int) -> Model:
    """The model as it is stored, and as it tells of itself."""
    modules = {}
    for name, module in model.modules.items():
        graphdef, state = nnx.split(module)
        small = jax.tree.map(
            lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim > 1 else leaf,
            nnx.to_pure_dict(state),
        )
        modules[name] = nnx.merge(graphdef, small)
    parts = {
        name: dataclasses.replace(part, origin=ORIGIN) for name, part in model.spec.parts.items()
    }
    sampler = dataclasses.replace(model.spec.sampler, guidance=guidance, steps=steps)
    spec = dataclasses.replace(model.spec, name="tiny", sampler=sampler, parts=parts, notes=NOTES)
    return Model(spec, modules)


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run, or a model folder")
    parser.add_argument("folder", type=Path, help="where to write; must not exist")
    parser.add_argument("--guidance", type=float, required=True, help="that it is to sample with")
    parser.add_argument("--steps", type=int, required=True, help="of its sampler")
    args = parser.parse_args(arguments)
    path, source = Path(args.run), args.run
    if is_run(path):
        source = str(run_model(path, lambda line: print(line, file=sys.stderr)))
    model = load_model(source, jnp.float32)
    args.folder.parent.mkdir(parents=True, exist_ok=True)  # git keeps no empty folder
    write_model(args.folder, bundled(model, args.guidance, args.steps))
    size = sum(file.stat().st_size for file in args.folder.rglob("*") if file.is_file())
    print(f"{args.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run("bundle_tiny.py", main)
