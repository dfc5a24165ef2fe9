"""`python -m memo_jax.evaluate`: measures a model on a suite, or generated videos by real ones."""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from memo_jax.command import Parser, keep_compilations, run
from memo_jax.errors import UserError, one_line
from memo_jax.evaluate.report import page, plot
from memo_jax.evaluate.shown import PuppetEmotions
from memo_jax.evaluate.studies import MAIN, OTHER_TRAININGS, STUDIES, Study
from memo_jax.evaluate.suite import Job, Suite, Trained, frames_of
from memo_jax.metrics import plotting
from memo_jax.metrics.compare import add_options, compare, emotion_judge, from_options
from memo_jax.metrics.report import write_report
from memo_jax.metrics.table import to_markdown
from memo_jax.puppets import espeak
from memo_jax.train.run import is_run, run_model
from memo_jax.weights.folder import Model
from memo_jax.weights.sources import load_model

SUITES = ("puppets",)
LONG_SECONDS = 41.0  # more than 1,000 frames at 25 a second


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(
        prog="memo_jax.evaluate",
        description="Generates a suite's videos and compares them with the truth (--suite), or "
        "compares two folders of videos as the paper does (--real, --generated).",
    )
    p.add_argument("--suite", choices=SUITES, help="what to measure the model on")
    p.add_argument(
        "--output", required=True, help="folder of figures; it goes on from what is there"
    )
    p.add_argument("--model", default="tiny", help="a preset, a model folder, or a training run")
    p.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="NAME=MODEL",
        help=f"another training to compare with; NAME is {', '.join(OTHER_TRAININGS)}",
    )
    p.add_argument(
        "--studies", default=",".join(STUDIES), help="which, separated by commas; all by default"
    )
    p.add_argument("--seeds", type=int, default=3, help="of people, sounds and noise")
    p.add_argument("--share", type=float, default=1.0, help="of each study's people")
    p.add_argument("--long", type=float, default=LONG_SECONDS, help="seconds of long videos")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    add_options(p)
    return p


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
    """
    args = parser().parse_args(arguments)
    folders = args.real, args.generated
    if (args.suite is None) == (folders == (None, None)) or (any(folders) and not all(folders)):
        raise UserError("give either --suite puppets, or both --real DIR and --generated DIR")
    plotting.pyplot()
    if args.suite is None:
        _compare(args)
        return
    studies = _studies(args.studies)
    if args.seeds < 1 or not 0 < args.share <= 1 or not 2 <= args.long <= 3600:
        raise UserError(
            f"--seeds {args.seeds} --share {args.share:g} --long {args.long:g}; expected at least "
            "1 seed, a share above 0 and up to 1, and 2 to 3600 seconds"
        )
    sources = {MAIN: args.model} | _against(args.against)
    keep_compilations()
    folder = Path(args.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output {args.output!r} cannot be made: {one_line(error)}") from error
    models = {name: _load(source, args.quiet) for name, source in sources.items()}
    suite = Suite(folder, models, seeds=args.seeds, share=args.share, long_seconds=args.long)
    jobs = suite.missing(list(studies.values()))
    if any(job.variant.tasks.get("speech", "synth") != "synth" for job in jobs):
        espeak.program()  # tells that it is missing before others' videos are made
    _make(suite, jobs, models, args.quiet)
    _report(folder, suite, studies, sources, args)


def _compare(args: argparse.Namespace) -> None:
    weights, settings = from_options(args)
    judge = emotion_judge(args)
    if args.emotion_judge == "puppets":
        judge = PuppetEmotions()
    output = Path(args.output)
    table = compare(
        *(Path(args.real), Path(args.generated), output),
        weights=weights,
        settings=settings,
        judge=judge,
        asked=Path(args.emotions) if args.emotions else None,
        quiet=args.quiet,
    )
    written = write_report(table, output)
    print(to_markdown(table))
    print(written["html"])


def _make(suite: Suite, jobs: list[Job], models: dict[str, Trained], quiet: bool) -> None:
    fps = {name: trained.model.spec.sampler.fps for name, trained in models.items()}
    total = sum(frames_of(job, fps[job.variant.model]) for job in jobs)
    with tqdm(total=total, unit="frame", disable=quiet, smoothing=0.05) as bar:
        for job in jobs:
            bar.set_description(f"{job.variant.name}, seed {job.seed}")
            suite.make(job, bar.update)


def _report(
    folder: Path,
    suite: Suite,
    studies: dict[str, Study],
    sources: dict[str, str],
    args: argparse.Namespace,
) -> None:
    found = {
        name: {
            variant.name: [suite.read(job) for job in suite.jobs(study, variant)]
            for variant in study.variants
            if variant.model in suite.models
        }
        for name, study in studies.items()
    }
    for name, study in studies.items():
        if found[name]:
            plot(folder / f"{name}.png", study, found[name])
    shown = ", ".join(f"{name}: `{source}`" for name, source in sources.items())
    about = (
        f"Models: {shown}. Seeds: {args.seeds}; share of people: {args.share:g}; long videos: "
        f"{args.long:g} s. Held-out people and sounds; means over all videos ± the standard "
        f"deviation of the seeds' means. JAX {jax.__version__} on {jax.default_backend()}."
    )
    text = page(studies, found, about)
    (folder / "tables.md").write_text(text, "utf-8")
    sheets = {
        name: {
            variant.name: [
                str(suite.sheet(job).relative_to(folder)) for job in suite.jobs(study, variant)
            ]
            for variant in study.variants
            if variant.model in suite.models
        }
        for name, study in studies.items()
    }
    (folder / "sheets.json").write_text(json.dumps(sheets, indent=1) + "\n", "utf-8")
    print(text)


def _studies(names: str) -> dict[str, Study]:
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in STUDIES]
    if unknown or not chosen:
        raise UserError(f"--studies {names!r}; expected some of {', '.join(STUDIES)}")
    return {name: STUDIES[name] for name in chosen}


def _against(given: Sequence[str]) -> dict[str, str]:
    sources = {}
    for one in given:
        name, _, source = one.partition("=")
        if name not in OTHER_TRAININGS or not source:
            raise UserError(
                f"--against {one!r}; expected NAME=MODEL with NAME one of "
                f"{', '.join(OTHER_TRAININGS)}"
            )
        sources[name] = source
    return sources


def _load(source: str, quiet: bool) -> Trained:
    if is_run(Path(source)):
        source = str(run_model(Path(source), _unsaid if quiet else _said))
    model = load_model(source, jnp.float32)
    return Trained(model, _fingerprint(model))


def _fingerprint(model: Model) -> str:
    """Of the weights and the spec."""
    digest = hashlib.sha256(model.spec.to_json().encode())
    for name in sorted(model.modules):
        for leaf in jax.tree.leaves(nnx.state(model.modules[name])):
            digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _said(line: str) -> None:
    print(line, file=sys.stderr)


def _unsaid(line: str) -> None:
    pass


if __name__ == "__main__":
    run("memo_jax.evaluate", main)
