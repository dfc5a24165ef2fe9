"""The conversion command.

    python -m tools.convert_weights import  SRC [SRC ...] DST      PyTorch -> a native model folder
    python -m tools.convert_weights init    DST --sd15 ...         where training starts
    python -m tools.convert_weights export  SRC DST                native, or a run -> PyTorch
    python -m tools.convert_weights verify  A B                    the same names, shapes, values?
    python -m tools.convert_weights inspect SRC                    what is this?

README.md beside this file is the guide.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from memo_jax.command import Parser, run
from memo_jax.errors import UserError
from memo_jax.train.run import RunFolder, is_run, run_model, trained, write_trained
from memo_jax.weights import hub
from memo_jax.weights.comparing import compare
from memo_jax.weights.describing import describe
from memo_jax.weights.exporting import export_model
from memo_jax.weights.importing import import_model
from memo_jax.weights.sources import preset_folder, presets
from memo_jax.weights.starting import start_model

NAME = "convert_weights"
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
DIFFERENT = 1


def main(arguments: Sequence[str]) -> None:
    """The command."""
    args = _parser().parse_args(arguments)
    args.command(args)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=NAME, description="Weights between PyTorch and memo_jax.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    add = commands.add_parser("import", help="PyTorch weights -> a native model folder")
    add.set_defaults(command=_import)
    add.add_argument("sources", nargs="+", metavar="SRC", help="folder, file or hub id")
    add.add_argument("folder", type=Path, metavar="DST", help="a new native folder")
    add.add_argument("--dtype", choices=DTYPES, help="of all weights; as stored unless given")
    add.add_argument("--name", help="of the model; the folder's unless given")
    add.add_argument("--local-dir", type=Path, help="where to download hub ids to, not the cache")
    add.add_argument(
        "--file", action="append", help="path in a hub id's repository, in place of the usual files"
    )

    add = commands.add_parser("init", help="SD1.5 and AnimateDiff -> where training starts")
    add.set_defaults(command=_init)
    add.add_argument("folder", type=Path, metavar="DST", help="a new native folder")
    source = "folder, file or hub id"
    add.add_argument("--sd15", required=True, help=f"Stable Diffusion 1.5: {source}")
    add.add_argument("--animatediff", help=f"motion modules: {source}; fresh unless given")
    add.add_argument("--vae", help=f"autoencoder in place of SD1.5's own: {source}")
    add.add_argument("--wav2vec2", help=source)
    add.add_argument("--emotion2vec", help=source)
    add.add_argument("--emotion-classifier", help=source)
    add.add_argument("--seed", type=int, default=0, help="of all that is fresh; 0 unless given")
    add.add_argument(
        "--keep-motion",
        action="store_true",
        help="AnimateDiff's last projections as they are, not zero; the start is then not SD1.5's",
    )
    add.add_argument("--name", help="of the model; the folder's unless given")

    add = commands.add_parser("export", help="native -> the published PyTorch layout")
    add.set_defaults(command=_export)
    add.add_argument("source", metavar="SRC", help="a native model folder, or a training run")
    add.add_argument("folder", type=Path, metavar="DST", help="a new folder")
    add.add_argument("--dtype", choices=DTYPES, help="of all weights; as stored unless given")
    add.add_argument("--shard-size", default="10GB", help="largest file; 10GB unless given")
    add.add_argument("--only", nargs="+", default=[], metavar="COMPONENT", help="these alone")

    add = commands.add_parser("verify", help="whether two models are the same")
    add.set_defaults(command=_verify)
    add.add_argument("a", metavar="A", help="folder or file in any form, or a run")
    add.add_argument("b", metavar="B", help="folder or file in any form, or a run")
    add.add_argument("--tolerance", type=float, default=0.0, help="largest |a - b| that passes; 0")

    add = commands.add_parser("inspect", help="what a file or folder is")
    add.set_defaults(command=_inspect)
    add.add_argument("source", metavar="SRC", help="folder or file in any form, a preset, or a run")
    add.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _import(args: argparse.Namespace) -> None:
    if len(args.sources) == 1 and is_run(Path(args.sources[0])):
        write_trained(Path(args.sources[0]), args.folder)
        return
    began = time.monotonic()
    known: dict[str, tuple[str, str]] = {}
    paths = []
    for source in args.sources:
        paths.append(_path(source, args.local_dir, args.file))
        if paths[-1] != Path(source):
            known |= hub.licences(source)
    spec = import_model(
        paths,
        args.folder,
        name=args.name,
        dtype=DTYPES.get(args.dtype),
        licences=known,
        tell=_tell,
    )
    _tell(f"{args.folder}: {len(spec.parts)} component(s) in {time.monotonic() - began:.0f} s")
    if spec.notes:
        _tell(f"note: {spec.notes}")


def _init(args: argparse.Namespace) -> None:
    others = [
        (component, _path(source))
        for component, source in (
            ("emotion2vec", args.emotion2vec),
            ("emotion_classifier", args.emotion_classifier),
        )
        if source
    ]
    start_model(
        args.folder,
        sd15=_path(args.sd15),
        animatediff=_path(args.animatediff) if args.animatediff else None,
        vae=_path(args.vae) if args.vae else None,
        wav2vec2=_path(args.wav2vec2) if args.wav2vec2 else None,
        others=others,
        seed=args.seed,
        keep_motion=args.keep_motion,
        name=args.name,
        tell=_tell,
    )
    _tell(f"{args.folder}: every parameter's origin is in initialised.txt")


def _export(args: argparse.Namespace) -> None:
    run = Path(args.source) if is_run(Path(args.source)) else None
    export_model(
        RunFolder.of(run).model if run else _path(args.source),
        args.folder,
        found=trained(run) if run else None,
        dtype=DTYPES.get(args.dtype),
        shard_size=_size(args.shard_size),
        only=args.only,
        tell=_tell,
    )


def _verify(args: argparse.Namespace) -> None:
    result = compare(_path(args.a), _path(args.b))
    wide = max([len(module.name) for module in result.modules] + [6])
    print(f"{'module':{wide}}  tensors    equal   parameters   max |diff|  cosine")
    for m in result.modules:
        print(
            f"{m.name:{wide}}  {m.tensors:7d}  {m.equal:7d}  {m.parameters:11,d}  "
            f"{m.largest:11.3g}  {m.cosine:.9f}" + (f"  {m.worst}" if m.worst else "")
        )
    for problem in result.problems:
        print(problem)
    for setting in result.settings:
        print(f"other setting: {setting}")
    if result.same:
        print("the same to the bit")
    elif result.within(args.tolerance):
        print(f"the same within {args.tolerance:g}")
    else:
        print("not the same")
        sys.exit(DIFFERENT)


def _inspect(args: argparse.Namespace) -> None:
    print(describe(_path(args.source), as_json=args.json))


def _path(source: str, local_dir: Path | None = None, files: Sequence[str] | None = None) -> Path:
    """A file, folder, preset, what a run has made, or what a hub id stands for once it is here."""
    path = Path(source)
    if source in presets():
        return preset_folder(source)
    if is_run(path):
        return run_model(path, _tell)
    if not path.exists() and hub.is_hub_id(source):
        return hub.fetch(source, local_dir=local_dir, files=files)
    return path


def _size(text: str) -> int | str:
    number = text[:-2] if text[-2:].upper() in ("KB", "MB", "GB") else text
    if not number.isdigit() or int(number) < 1:
        raise UserError(f"--shard-size {text!r}: expected a size such as 5GB")
    return text if number != text else int(text)


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    run(NAME, main)
