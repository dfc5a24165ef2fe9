"""`python -m memo_jax.prepare`: folders of video become a data set that training reads.

    python -m memo_jax.prepare --input 'videos/**/*.mp4' --output DATA --model MODEL

A second run does only what is missing. Options that it does not know are Beam's.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from memo_jax.command import Parser, keep_compilations, run
from memo_jax.data.store import Store
from memo_jax.errors import UserError
from memo_jax.io.face import HaarFinder
from memo_jax.prepare import runners
from memo_jax.prepare.corpora import CORPORA
from memo_jax.prepare.cuts import CutConfig
from memo_jax.prepare.folder import REJECTS, Folder
from memo_jax.prepare.heads import Finder, HeadConfig, Prompt
from memo_jax.prepare.media import MediaConfig
from memo_jax.prepare.quality import QualityConfig
from memo_jax.prepare.review.filter import apply_review, read_review
from memo_jax.prepare.run import inputs
from memo_jax.prepare.run import run as prepare
from memo_jax.prepare.settings import FORMATS, Settings, tools
from memo_jax.prepare.sync import SyncConfig
from memo_jax.train.latents.__main__ import main as add_latents

NAME = "memo_jax.prepare"


def parser() -> argparse.ArgumentParser:
    """The command's options; defaults are those of the steps' configs."""
    p = Parser(
        prog=NAME,
        description="Makes folders of talking-head video a data set for training.",
        epilog="Further options are Beam's, for the runner. A second run does what is missing.",
        allow_abbrev=False,
    )
    own, media, cuts = Settings(), MediaConfig(), CutConfig()
    heads, quality, sync = HeadConfig(), QualityConfig(), SyncConfig()
    p.add_argument("--input", required=True, nargs="+", help="files, folders or patterns")
    p.add_argument("--output", required=True, help="the data set's folder, new or to go on in")
    p.add_argument(
        "--runner", default="direct", help=f"{', '.join(runners.RUNNERS)}, or Beam's name"
    )
    p.add_argument("--workers", type=int, default=1, help="processes of the direct runner")
    p.add_argument("--corpus", default="", choices=["", *CORPORA], help="whose layout it has")
    p.add_argument("--licence", default="", help="a note kept in every record")
    p.add_argument("--review", help="review.csv: clips marked drop are left out")
    p.add_argument("--latents", help="a new folder: the same set with the model's VAE latents")
    p.add_argument("--shard-size", type=int, default=64, help="clips in a file")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    g = p.add_argument_group("clips")
    g.add_argument("--size", type=int, default=own.size, help="pixels of the square (%(default)s)")
    g.add_argument("--fps", type=float, default=media.fps, help="0 keeps each video's own")
    g.add_argument("--images", choices=FORMATS, default=own.images, help="how pictures are kept")
    g.add_argument("--image-quality", type=int, default=own.image_quality, help="of jpeg and webp")
    g.add_argument("--shortest", type=float, default=cuts.shortest, help="seconds")
    g.add_argument("--longest", type=float, default=cuts.longest, help="seconds")
    g.add_argument(
        "--longest-side", type=int, default=media.longest_side, help="larger video is scaled down"
    )
    g = p.add_argument_group("models")
    g.add_argument("--model", default=own.model, help="whose ear and eye: the one to be trained")
    g.add_argument("--face-models", default="", help="folder of SCRFD's and ArcFace's ONNX files")
    g.add_argument("--vocals", default="", help="the separator's ONNX file (the model's), or off")
    g.add_argument("--dino", default="", help="Grounding DINO's folder; needs PyTorch")
    g.add_argument("--transnet", default="", help="TransNet V2's weights")
    g.add_argument("--syncnet", default="", help="SyncNet's weights")
    g.add_argument("--hyperiqa", default="", help="HyperIQA's weights")
    g = p.add_argument_group("thresholds")
    g.add_argument(
        "--cuts", choices=("content", "histogram", "transnet"), help="who finds cuts (content)"
    )
    g.add_argument("--cut-threshold", type=float, default=cuts.threshold, help="0: the finder's")
    g.add_argument(
        "--heads", choices=get_args(Finder), help="who finds heads (faces: SCRFD or OpenCV)"
    )
    g.add_argument("--dino-prompt", choices=get_args(Prompt), default=heads.prompt)
    g.add_argument("--dino-score", type=float, default=heads.score, help="least")
    g.add_argument("--head-every", type=float, default=heads.every, help="seconds between looks")
    g.add_argument("--head-pixels", type=int, default=0, help="least side (half of --size)")
    g.add_argument("--sharpness", type=float, default=quality.sharpness, help="least")
    g.add_argument("--quality", type=float, default=quality.hyperiqa, help="HyperIQA's least")
    g.add_argument("--sync", type=float, default=sync.confidence, help="SyncNet's least")
    g.add_argument("--mouth", type=float, default=sync.correlation, help="least without SyncNet")
    g.add_argument(
        "--correct", type=float, default=sync.correct, help="most seconds of shift undone"
    )
    return p


def settings(args: argparse.Namespace) -> Settings:
    """The settings that the options mean; raises UserError."""
    finder: Any = args.heads or ("dino" if args.dino else "faces")
    chosen: Any = args.cuts or ("transnet" if args.transnet else "content")
    return Settings(
        size=args.size,
        images=args.images,
        image_quality=args.image_quality,
        model=args.model,
        face_models=args.face_models,
        vocals=args.vocals,
        dino=args.dino,
        transnet=args.transnet,
        syncnet=args.syncnet,
        hyperiqa=args.hyperiqa,
        corpus=args.corpus,
        licence=args.licence,
        media=MediaConfig(fps=args.fps, longest_side=args.longest_side),
        cuts=CutConfig(
            finder=chosen,
            threshold=args.cut_threshold,
            shortest=args.shortest,
            longest=args.longest,
        ),
        heads=HeadConfig(
            every=args.head_every,
            least_pixels=args.head_pixels or max(32, args.size // 2),
            finder=finder,
            prompt=args.dino_prompt,
            score=args.dino_score,
        ),
        quality=QualityConfig(sharpness=args.sharpness, hyperiqa=args.quality),
        sync=SyncConfig(confidence=args.sync, correlation=args.mouth, correct=args.correct),
    )


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
    """
    args, beam = parser().parse_known_args(arguments)
    if beam:
        runners.options(args.runner, beam, args.workers)  # what is wrong is told before the work
    if args.workers < 1 or args.shard_size < 1:
        raise UserError(f"--workers {args.workers} and --shard-size {args.shard_size}, expected 1")
    chosen = settings(args)
    videos, passed = inputs(args.input, args.corpus)
    if passed:
        _tell(f"{passed} files are none of {args.corpus}'s and are passed over")
    if args.review:
        read_review(Path(args.review))  # what is wrong with it is told before the work
    folder = Folder(args.output)
    folder.prepare(chosen.to_dict(), Settings().to_dict())
    keep_compilations()
    with folder.alone():
        folder.forget({video.name: video.key for video in videos})
        if any(not folder.is_done(video.key) for video in videos):
            # Before Beam starts: a file that is missing is told in one line.
            for note in _notes(chosen):
                _tell(note)
        failed = prepare(videos, folder, chosen, args.runner, beam, args.workers, args.quiet)
        lines = folder.write_rejects(failed)
        folder.assemble(args.shard_size)
        if args.review:
            apply_review(folder, Path(args.review))
            lines = folder.write_rejects(failed)
    store = Store(args.output)
    print(
        f"{args.output}: {len(store)} clips, {store.hours:.3f} hours, of {len(videos)} videos; "
        f"{lines} lines in {REJECTS}"
    )
    if args.latents:
        given = ["--data", args.output, "--model", args.model, "--output", args.latents]
        add_latents([*given, "--shard-size", str(args.shard_size), *["--quiet"] * args.quiet])
    if failed:
        _tell(f"{len(failed)} videos failed by an error; run again to try them once more")


def _notes(chosen: Settings) -> list[str]:
    """What stands in for models that were not given."""
    notes = list(tools(chosen).embedder.notes)
    offline = {
        "transnet": f"cuts by {chosen.cuts.finder}",
        "hyperiqa": "quality by sharpness and brightness",
        "syncnet": "lip sync by mouth movement and loudness",
    }
    used = [text for name, text in offline.items() if not getattr(chosen, name)]
    haar = isinstance(tools(chosen).embedder.finder, HaarFinder)
    if haar and chosen.heads.finder == "faces":
        used.insert(1, "heads by OpenCV's cascades")
    return [*notes, f"offline defaults: {', '.join(used)}"] if used else notes


def _tell(line: str) -> None:
    print(f"{NAME}: {line}", file=sys.stderr)


if __name__ == "__main__":
    run(NAME, main)
