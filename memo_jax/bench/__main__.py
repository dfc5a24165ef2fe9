"""`python -m memo_jax.bench`: how fast generation is here, or how fast beside PyTorch."""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from memo_jax.bench import compare, differences, generation, machine, pairs, profile, random_models
from memo_jax.command import Parser, keep_compilations, run
from memo_jax.diffusion.presets import EXACT, PRESETS, changed, with_preset
from memo_jax.errors import UserError, one_line
from memo_jax.pipeline import Pipeline
from memo_jax.pipeline.memory import CHOICES
from memo_jax.pipeline.pipeline import DTYPES
from memo_jax.weights.folder import Model
from memo_jax.weights.sources import load_model


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(prog="memo_jax.bench", description="How fast generation is on this machine.")
    p.add_argument("--model", default="tiny", help="a preset, a model folder, or a hub id")
    p.add_argument(
        "--size", choices=("full",), help="random weights of the published size, no model needed"
    )
    p.add_argument("--dtype", choices=sorted(DTYPES), help="what matmuls run in")
    p.add_argument("--steps", type=int, help="Euler steps (the model's own: 20)")
    p.add_argument("--guidance", type=float, help="strength of guidance (3.5); 1 or less is none")
    p.add_argument("--seconds", type=float, default=0.0, help="of video; four chunks at least")
    p.add_argument("--chunk", type=int, default=1, help="clips per call of the device")
    p.add_argument("--preset", default=EXACT, help="exact, or one of the approximations")
    p.add_argument("--memory", default="auto", choices=CHOICES, help="low: less device memory")
    p.add_argument(
        "--preset-differences",
        action="store_true",
        help="instead: how far each preset's frames are from the exact ones",
    )
    p.add_argument("--json", metavar="FILE", help="also write the figures here")
    p.add_argument(
        "--profile", action="store_true", help="then run a chunk once more and list its kernels"
    )
    p.add_argument("--quiet", action="store_true", help="no progress")
    beside = p.add_argument_group("beside PyTorch, on CPUs")
    beside.add_argument(
        "--compare", choices=("torch",), help="time PyTorch's networks and ours in turns"
    )
    beside.add_argument("--small", action="store_true", help="at half the height and width")
    beside.add_argument(
        "--pairs",
        default=",".join(pairs.PAIRS),
        help="which networks, separated by commas; all by default",
    )
    beside.add_argument("--rounds", type=int, default=5, help="turns of each")
    return p


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
    """
    args = parser().parse_args(arguments)
    _check(args)
    description = machine.description()
    if said := machine.warning(description["others"]):
        _tell(args, said)
    if args.preset_differences:
        found = _differences(args)
    else:
        found = _beside_torch(args) if args.compare else _generation(args)
    found["machine"] = description
    if args.json:
        write(args.json, found)


def _generation(args: argparse.Namespace) -> dict[str, Any]:
    dtype = args.dtype or _usual_dtype(args)
    pipe = _pipeline(args, dtype)
    measured = generation.measure(pipe, seconds=args.seconds, quiet=args.quiet)
    found = generation.report(
        pipe,
        measured,
        model="random weights, full size" if args.size else args.model,
        dtype=dtype,
        preset=args.preset,
    )
    print("\n".join(generation.lines(found)))
    if args.profile:
        found["profile"] = profile.profiled(generation.one_chunk(pipe))
        print("\n".join(profile.lines(found["profile"])))
    return found


def _differences(args: argparse.Namespace) -> dict[str, Any]:
    dtype = args.dtype or _usual_dtype(args)
    model = _model(args, dtype)
    sampler = model.spec.sampler
    clips = (
        max(1, math.ceil(args.seconds * sampler.fps / sampler.clip_frames)) if args.seconds else 4
    )
    found = differences.measure(model, clips=clips, tell=lambda line: _tell(args, line))
    found |= {"model": "random weights" if args.size else args.model, "dtype": dtype}
    print("\n".join(differences.lines(found)))
    return found


def _beside_torch(args: argparse.Namespace) -> dict[str, Any]:
    keep_compilations()  # its compiling is no figure here, and takes minutes
    sizes = pairs.SMALL if args.small else pairs.FULL
    return compare.compare(
        sizes, pairs=args.pairs.split(","), rounds=args.rounds, quiet=args.quiet, tell=print
    )


def _usual_dtype(args: argparse.Namespace) -> str:
    """Full size is bfloat16 everywhere: it is what fits, and what it is for."""
    return "float32" if jax.default_backend() == "cpu" and not args.size else "bfloat16"


def _model(args: argparse.Namespace, dtype: str) -> Model:
    if args.size:
        return random_models.random_model(dtype=DTYPES[dtype], tell=lambda line: _tell(args, line))
    return load_model(args.model, DTYPES[dtype])


def _pipeline(args: argparse.Namespace, dtype: str) -> Pipeline:
    model = _model(args, dtype)
    sampler = changed(
        with_preset(model.spec.sampler, args.preset), steps=args.steps, guidance=args.guidance
    )
    return Pipeline(model, sampler=sampler, memory=args.memory, chunk=args.chunk)


def _check(args: argparse.Namespace) -> None:
    """What can be refused before anything is loaded."""
    if args.steps is not None and not 1 <= args.steps <= 1000:
        raise UserError(f"--steps {args.steps}: expected 1 to 1000")
    if args.guidance is not None and not math.isfinite(args.guidance):
        raise UserError(f"--guidance {args.guidance}: expected a number such as 3.5")
    if not 0 <= args.seconds <= 36000:
        raise UserError(f"--seconds {args.seconds}: expected 0 to 36000")
    if not 1 <= args.rounds <= 1000:
        raise UserError(f"--rounds {args.rounds}: expected 1 to 1000")
    if not 1 <= args.chunk <= 1000:
        raise UserError(f"--chunk {args.chunk}: expected 1 to 1000 clips")
    if args.json and not os.path.isdir(os.path.dirname(args.json) or "."):
        raise UserError(f"--json {args.json!r}: its folder does not exist; make it first")
    if args.json and os.path.isdir(args.json):
        raise UserError(f"--json {args.json!r} is a folder; give the name of a file in it")
    if args.preset not in PRESETS:
        raise UserError(f"--preset {args.preset!r}: expected {', '.join(PRESETS)}")
    if args.preset_differences and (args.compare or args.profile or args.preset != EXACT):
        raise UserError(
            "--preset-differences is of all presets and of nothing else; leave out --preset, "
            "--compare and --profile"
        )
    if args.compare and args.profile:
        raise UserError("--profile is of generation, --compare of networks; give one of them")
    if args.compare:
        compare.check(args.pairs.split(","))


def _tell(args: argparse.Namespace, line: str) -> None:
    if not args.quiet:
        print(line, file=sys.stderr, flush=True)


def write(path: str, found: dict[str, Any]) -> None:
    """Write figures as JSON, whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"--json {path!r} cannot be written: {one_line(error)}") from error


if __name__ == "__main__":
    run("memo_jax.bench", main)
