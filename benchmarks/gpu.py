"""Everything that is to be measured on a GPU, in one command. It has not been run on one yet.

    python benchmarks/gpu.py --json FILE

Full-size random weights in bfloat16, 512 x 512, on the first GPU; no model is needed. First the
exact sampler, 20 steps with guidance 3.5, and where its time goes: the ten kernels that take the
most, and all others together. Then samplers that make fewer evaluations: their pictures would need
a model distilled for it, their speed does not depend on the weights. `--presets` adds
approximations that this version offers by name.

A GPU with 40 GB is enough; compiling takes minutes the first time. Where the list of kernels shows
graphs instead of kernels, set XLA_FLAGS=--xla_gpu_enable_command_buffer= for it.
"""

import argparse
import dataclasses
import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from memo_jax.bench import generation, machine, profile, random_models
from memo_jax.bench.__main__ import write
from memo_jax.command import Parser, run
from memo_jax.errors import UserError
from memo_jax.pipeline import Pipeline
from memo_jax.weights.folder import Model

# Name -> (steps, guidance); 1 is no guidance, as after distilling it.
SAMPLERS = {
    "exact": (20, 3.5),
    "10 steps": (10, 3.5),
    "20 steps, guidance distilled": (20, 1.0),
    "8 steps, distilled": (8, 1.0),
    "4 steps, distilled": (4, 1.0),
}


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    p = Parser(prog="benchmarks/gpu.py", description="All that is measured on a GPU.")
    p.add_argument("--seconds", type=float, default=4.0, help="of video, for each sampler")
    p.add_argument("--chunk", type=int, default=1, help="clips per call of the device")
    p.add_argument("--presets", default="", help="approximations by name, separated by commas")
    p.add_argument("--json", metavar="FILE", help="also write the figures here")
    p.add_argument("--anywhere", action="store_true", help="also without a GPU, to try the script")
    return p


def main(arguments: Sequence[str]) -> None:
    """The script.

    Raises:
      UserError: there is no GPU, or no such preset.
    """
    args = parser().parse_args(arguments)
    if jax.default_backend() != "gpu" and not args.anywhere:
        raise UserError(
            f"no GPU: JAX is on a {jax.default_backend()}; pip install -e '.[cuda]' on a machine "
            "that has one"
        )
    presets = [name for name in args.presets.split(",") if name]
    if presets and "preset" not in inspect.signature(Pipeline).parameters:
        raise UserError(f"--presets {args.presets}: this version has no presets; leave it out")
    found: dict[str, Any] = {"kind": "gpu", "machine": machine.description(), "runs": {}}
    model = random_models.random_model(
        dtype=jnp.bfloat16, tell=lambda line: print(line, file=sys.stderr)
    )
    for name, pipe in _pipelines(model, args.chunk, presets):
        measured = generation.measure(pipe, seconds=args.seconds)
        report = generation.report(
            pipe, measured, model="random weights, full size", dtype="bfloat16", preset=name
        )
        print("\n".join(generation.lines(report)))
        if name == "exact":
            report["profile"] = profile.profiled(generation.one_chunk(pipe))
            print("\n".join(profile.lines(report["profile"])))
        print(flush=True)
        found["runs"][name] = report
        if args.json:  # after each, so that what is done stays
            write(args.json, found)


def _pipelines(model: Model, chunk: int, presets: list[str]) -> Iterator[tuple[str, Pipeline]]:
    """One at a time, the exact one first: what it needs of memory is seen by no other."""
    sampler = model.spec.sampler
    for name, (steps, guidance) in SAMPLERS.items():
        changed = dataclasses.replace(sampler, steps=steps, guidance=guidance)
        yield name, Pipeline(model, sampler=changed, chunk=chunk)
    options: dict[str, Any]
    for name in presets:
        options = {"preset": name}
        yield name, Pipeline(model, chunk=chunk, **options)


if __name__ == "__main__":
    run("benchmarks/gpu.py", main)
