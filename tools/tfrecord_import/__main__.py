"""The import command; docs/tfrecord.md is the guide.

python -m tools.tfrecord_import --describe 'GLOB'
python -m tools.tfrecord_import --input 'GLOB' --map map.json --output DIR
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from memo_jax.command import INTERRUPTED, Parser, keep_compilations, run
from memo_jax.data.store import Store
from memo_jax.errors import UserError, one_line
from tools.tfrecord_import import describe
from tools.tfrecord_import.clips import CROPS, FORMATS, Converter, Options
from tools.tfrecord_import.importing import import_set, look
from tools.tfrecord_import.mapping import read_map
from tools.tfrecord_import.senses import Senses
from tools.tfrecord_import.sources import Bridge, Files, Source

NAME = "tfrecord_import"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(prog=NAME, description="TFRecord sets of talking heads as memo_jax's records.")
    p.add_argument("--input", action="append", metavar="GLOB", help="files to import; repeatable")
    p.add_argument("--describe", action="append", metavar="GLOB", help="show what files hold")
    p.add_argument("--map", type=Path, help="which feature is what (.json); written by --describe")
    p.add_argument("--output", type=Path, help="the data set; one begun is gone on with")
    p.add_argument("--model", default="tiny", help="whose ear and eye: a preset, or a model folder")
    p.add_argument("--size", type=int, help="pixels of the square; the model's unless given")
    p.add_argument("--crop", choices=CROPS, default="centre", help="what of the frames is taken")
    p.add_argument("--format", choices=FORMATS, default="jpeg", help="of pictures made anew")
    p.add_argument("--min-frames", type=int, default=16, help="of a clip")
    p.add_argument("--tensorflow", type=Path, metavar="DIR", help="read through tensorflow-io")
    p.add_argument("--face-models", type=Path, help="folder with the published ONNX face models")
    p.add_argument("--vocals", type=Path, help="the ONNX file that separates the voice")
    p.add_argument("--bad-share", type=float, default=0.01, help="of records that may make no clip")
    p.add_argument("--shard-size", type=int, default=64, help="records of an input in one shard")
    p.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1), help="that convert")
    p.add_argument("--quiet", action="store_true", help="no progress bar and no notes")
    return p


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
    """
    args = parser().parse_args(arguments)
    if (args.describe is None) == (args.input is None):
        raise UserError("give either --describe GLOB, or --input GLOB --map FILE --output DIR")
    if args.describe is not None:
        _describe(args)
        return
    if args.map is None or args.output is None:
        raise UserError("--input needs --map FILE and --output DIR; --describe proposes a map")
    try:
        _import(args)
    except KeyboardInterrupt:
        print(f"{NAME}: interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except OSError as error:  # such as a full disk
        raise UserError(
            f"{args.output} cannot be written ({one_line(error)}); the same command goes on"
        ) from error


def _import(args: argparse.Namespace) -> None:
    begun = time.perf_counter()
    record_map = read_map(args.map)
    if record_map.form == "tensorflow-io" and args.tensorflow is None:
        raise UserError("the map's sound is of form 'tensorflow-io', which needs --tensorflow DIR")
    audio = record_map.fields["audio"].feature if record_map.form == "tensorflow-io" else None
    source: Source = Files() if args.tensorflow is None else Bridge(args.tensorflow, audio)
    try:
        inputs = source.inputs(args.input)
        look(source, inputs, record_map)
        keep_compilations()
        senses = Senses(args.model, args.face_models, args.vocals)
        size = senses.spec.sampler.image_size if args.size is None else args.size
        options = Options(size, args.crop, args.format, args.min_frames)
        tally = import_set(
            args.output,
            source,
            inputs,
            Converter(record_map, senses, options),
            {
                "map": record_map.to_dict(),
                "model": senses.spec.to_json(),
                "onnx": [str(args.face_models), str(args.vocals)],
                "options": dataclasses.asdict(options),
            },
            bad_share=args.bad_share,
            shard_size=args.shard_size,
            threads=args.threads,
            quiet=args.quiet,
        )
    finally:
        source.close()
    for note in [] if args.quiet else senses.notes:
        print(f"note: {note}", file=sys.stderr)
    store = Store(args.output)
    print(
        f"{args.output}: {len(store)} clips, {store.hours * 60:.1f} minutes, of {len(inputs)} "
        f"file(s) in {time.perf_counter() - begun:.0f} s; {tally}"
    )


def _describe(args: argparse.Namespace) -> None:
    if args.map is not None and args.map.exists():
        raise UserError(f"--map {str(args.map)!r} exists already; give a new file for the proposal")
    source: Source = Files() if args.tensorflow is None else Bridge(args.tensorflow)
    try:
        inputs = source.inputs(args.describe)
        found, count = describe.survey(source, inputs)
    finally:
        source.close()
    size = sum(file.size for file in inputs) / 1e6
    print(f"{len(inputs)} file(s), {size:.1f} MB; the first {count} record(s) have")
    print(describe.table(found, count))
    chosen, notes = describe.proposal(found)
    text = json.dumps(chosen, indent=1)
    print(f"\na map to begin with:\n{text}")
    for note in notes:
        print(f"check {note}")
    if args.map is not None:
        args.map.write_text(f"{text}\n", "utf-8")
        print(f"written to {args.map}")


if __name__ == "__main__":
    run(NAME, main)
