"""`python -m memo_jax.plan`: what training or generating takes on a TPU that is not there.

    python -m memo_jax.plan --config configs/stage2b.py --topology v5p:4x4x4 --batch 64

compiles the training step for that topology with the TPU compiler, on any Linux machine, and
prints what every device needs and does.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from memo_jax.aot import search
from memo_jax.aot.chips import chip_of
from memo_jax.aot.report import Report
from memo_jax.aot.worker import ENVIRONMENT, check_compiler
from memo_jax.command import Parser, read_config, run
from memo_jax.diffusion.presets import EXACT, PRESETS
from memo_jax.errors import UserError, one_line
from memo_jax.models.exchange import split_of
from memo_jax.models.remat import Remat
from memo_jax.train.config import TrainConfig
from memo_jax.weights.cache import cache_folder

NAME = "memo_jax.plan"

TOO_BIG = 1

# How a process ends that finds no memory: killed by the kernel, or by itself (segmentation fault,
# abort), as its own signal or as a shell's number.
_NO_MEMORY = {-9, -11, -6, 134, 137, 139}


class CompilerDied(Exception):
    """The compiler's process ended before it answered."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(prog=NAME, description="What training or generating takes on a TPU.")
    p.add_argument("--topology", required=True, help="chip and shape: v5e:16x16, v5p:4x4x4")
    p.add_argument("--config", help="a training config (configs/stage2b.py)")
    p.add_argument("--generate", action="store_true", help="plan generation on one device instead")
    p.add_argument(
        "--mesh",
        metavar="guidance=2,frames=4",
        help="on the first of the topology's that make every clip together (--generate)",
    )
    p.add_argument(
        "--memory", choices=["normal", "low"], default="normal", help="as memo_jax.sample has it"
    )
    p.add_argument(
        "--preset", choices=list(PRESETS), default=EXACT, help="of the sampler (--generate)"
    )
    p.add_argument(
        "--model",
        default="full",
        help="full: the released size, no weights needed; or a preset, a model folder, a hub id",
    )
    p.add_argument("--batch", type=int, help="clips of a step on all devices; the config's")
    p.add_argument("--data-axis", type=int, help="the mesh's first axis; 0: what the other leaves")
    p.add_argument("--fsdp-axis", type=int, help="over how many devices parameters are cut")
    p.add_argument("--remat", choices=get_args(Remat), help="what is computed again")
    p.add_argument("--accumulate", type=int, help="parts that a batch is taken in")
    p.add_argument("--past-frames", type=int, help="of every sample; the most of the config's")
    p.add_argument("--chunk", type=int, default=1, help="clips of one call (--generate)")
    p.add_argument("--search", action="store_true", help="find the largest batch that fits")
    p.add_argument("--json", help="write the numbers to this file, too")
    p.add_argument("--effort", type=float, default=-1.0, help="the compiler's: -1 quick, 0 usual")
    how = p.add_mutually_exclusive_group()
    how.add_argument(
        "--whole", action="store_true", help="compile the whole, however much memory it takes"
    )
    how.add_argument("--pieces", action="store_true", help="compile pieces and compose the answer")
    p.add_argument("--quiet", action="store_true", help="no progress")
    return p


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
      SystemExit: 1 where the program does not fit.
    """
    args = parser().parse_args(arguments)
    config = _checked(args)
    check_compiler()
    report: Report | None
    if args.search:
        report = search.largest(lambda clips: _at(args, config, clips), lambda s: _tell(args, s))
        if report is None:
            report = _at(args, config, 1)
    else:
        report = plan(args, config)
    print(report)
    if args.search and report.fits:
        each = report.clips // report.devices
        print(f"largest batch that fits: {each} clips on each device, --batch {report.clips}")
    if args.json:
        _write(args.json, report)
    if not report.fits:
        print("it does not fit; to make it smaller:")
        for line in search.advice(report, config):
            print(f"  {line}")
        raise SystemExit(TOO_BIG)


def plan(args: argparse.Namespace, config: dict[str, Any] | None) -> Report:
    """The report, of the whole where the compiler bears it, else of its pieces.

    Raises:
      UserError: whatever the user can mend.
    """
    how = "whole" if args.whole else "pieces" if args.pieces else "auto"
    try:
        return _asked(args, config, how)
    except CompilerDied as death:
        if how != "auto":
            raise UserError(f"{death}; try --pieces, or a machine with more memory") from death
        _tell(args, f"{death}; compiling its pieces apart")
    try:
        return _asked(args, config, "pieces")
    except CompilerDied as death:
        raise UserError(f"{death}, even on pieces; try a machine with more memory") from death


def _at(args: argparse.Namespace, config: dict[str, Any] | None, clips: int) -> Report:
    """The report with so many clips on each device."""
    if config is None:
        return plan(argparse.Namespace(**{**vars(args), "chunk": clips}), None)
    devices = _devices(args.topology)
    batch = clips * devices * config["accumulate"]
    return plan(args, {**config, "batch_size": batch})


def _devices(topology: str) -> int:
    """JAX devices of a topology."""
    count = chip_of(topology).devices
    for side in topology.partition(":")[2].split("x"):
        count *= int(side)
    return count


def _checked(args: argparse.Namespace) -> dict[str, Any] | None:
    """The training config's fields with the command line's, or None for generation.

    Raises:
      UserError: there is none, or one that makes no sense.
    """
    chip_of(args.topology)
    sides = args.topology.partition(":")[2].split("x")
    if not all(side.isdigit() and int(side) for side in sides):
        raise UserError(f"--topology {args.topology!r}: expected CHIP:SHAPE, say v5p:4x4x4")
    if not -1 <= args.effort <= 1:
        raise UserError(f"--effort {args.effort}: expected -1 to 1")
    if args.chunk < 1:
        raise UserError(f"--chunk {args.chunk}: expected 1 or more")
    if args.json and not os.path.isdir(os.path.dirname(args.json) or "."):
        raise UserError(f"--json {args.json!r}: its folder does not exist; make it first")
    split_of(args.mesh)
    if args.mesh and (args.search or not args.generate):
        raise UserError("--mesh is of one video, planned by --generate without --search")
    if not args.generate and (args.memory != "normal" or args.preset != EXACT):
        raise UserError("--memory and --preset are of --generate; training has --remat")
    if args.generate:
        if args.config:
            raise UserError("--generate plans the sampler, --config training; give one of them")
        return None
    if not args.config:
        raise UserError("no --config (configs/stage2b.py) and no --generate; give one of them")
    fields = read_config(args.config).to_dict()
    fields.pop("run", None)
    given = {
        "batch_size": args.batch,
        "data_axis": args.data_axis,
        "fsdp_axis": args.fsdp_axis,
        "remat": args.remat,
        "accumulate": args.accumulate,
        "past_frames": None if args.past_frames is None else (args.past_frames,),
    }
    fields |= {name: value for name, value in given.items() if value is not None}
    return TrainConfig.from_dict(fields).to_dict()


def _asked(args: argparse.Namespace, config: dict[str, Any] | None, how: str) -> Report:
    """What a worker answers.

    Raises:
      UserError: what the worker says the user can mend.
      CompilerDied: it did not answer.
    """
    named = ("stage", "fsdp_axis", "remat", "accumulate", "optimizer")
    request = {
        "model": args.model,
        "topology": args.topology,
        "config": config,
        "chunk": args.chunk,
        "mesh": args.mesh,
        "memory": args.memory,
        "preset": args.preset,
        "past_frames": 0,
        "effort": args.effort,
        "how": how,
        "kept": str(cache_folder() / "plans"),
        "settings": {"mesh": args.mesh, "memory": args.memory, "preset": args.preset},
    }
    if args.mesh is None:
        del request["settings"]["mesh"]
    if config is not None:
        past = max(TrainConfig.from_dict(config).past_choices)
        request["past_frames"] = past
        request["settings"] = {name: config[name] for name in named} | {"past_frames": past}
    with tempfile.TemporaryDirectory() as folder:
        ask, answer, errors = (Path(folder) / name for name in ("ask", "answer", "errors"))
        ask.write_text(json.dumps(request))
        with errors.open("wb") as said:
            code = _run(args, [str(ask), str(answer)], said)
        if not answer.exists():
            raise _death(code, errors.read_text(errors="replace"))
        found = json.loads(answer.read_text())
    if "error" in found:
        raise UserError(found["error"])
    return Report.from_dict(found)


def _run(args: argparse.Namespace, files: list[str], errors: Any) -> int:
    """Run a worker, showing how far it is; its exit code."""
    command = [sys.executable, "-m", "memo_jax.aot.worker", *files]
    environment = {**os.environ, **ENVIRONMENT}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                _tell(args, line.rstrip())
        except BaseException:
            process.kill()
            raise
    return process.returncode


def _death(code: int, errors: str) -> Exception:
    """What the end of a worker means."""
    if code in _NO_MEMORY or "mmap error" in errors or "MemoryError" in errors:
        return CompilerDied(
            f"the TPU compiler found no memory on this machine (exit {code}); "
            "a full training step takes it 20 GB and more"
        )
    # JAX says more after the error itself.
    said = [line for line in errors.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
    last = one_line(said[-1]) if said else "no message"
    return UserError(f"the TPU compiler's process ended with exit {code}: {last[:300]}")


def _tell(args: argparse.Namespace, line: str) -> None:
    if not args.quiet:
        print(line, file=sys.stderr, flush=True)


def _write(path: str, report: Report) -> None:
    """Write the numbers, whole or not at all."""
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"--json {path!r} cannot be written: {one_line(error)}") from error


if __name__ == "__main__":
    run(NAME, main)
