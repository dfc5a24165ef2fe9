"""`python -m memo_jax.puppets.train_readers`: draws people, trains the readers, says how good they
are on people held out."""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from memo_jax.command import Parser, keep_compilations, run
from memo_jax.errors import UserError
from memo_jax.puppets.readers import Readers, write_readers
from memo_jax.puppets.train_readers.fit import FitConfig, draw_people, fit
from memo_jax.puppets.train_readers.frames import blurred, clip_pictures
from memo_jax.puppets.train_readers.scores import scores

BLUR, NOISE = 0.7, 0.02
"""The damage of the second line of the report: pixels, and a share of white."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(
        prog="memo_jax.puppets.train_readers",
        description="Trains what reads mouth, emotion, pose and identity from puppets' pictures.",
    )
    d = FitConfig()
    p.add_argument("--output", required=True, help="the folder to write, a new one")
    p.add_argument("--seed", type=int, default=d.seed, help="of pictures, weights and order")
    p.add_argument("--steps", type=int, default=d.steps, help="of training")
    p.add_argument("--people", type=int, default=d.people, help="to train on")
    p.add_argument("--held-out", type=int, default=200, help="people of the report")
    p.add_argument("--quiet", action="store_true", help="no progress bars")
    return p


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
    """
    args = parser().parse_args(arguments)
    folder = Path(args.output)
    if folder.exists():
        raise UserError(f"--output {args.output!r} exists already; give a new folder")
    if not 0 <= args.seed < 2**31:
        raise UserError(f"--seed {args.seed}, expected 0 to {2**31 - 1}")
    if args.held_out < 2:
        raise UserError(f"--held-out {args.held_out}, expected 2 people at least")
    config = FitConfig(people=args.people, steps=args.steps, seed=args.seed)
    keep_compilations()
    cv2.setNumThreads(1)  # its pictures are small
    pictures = draw_people(config, _bar("drawing", args.quiet))
    values = fit(pictures, config, _bar("training", args.quiet), tqdm.write)
    write_readers(folder, values, dataclasses.asdict(config))
    print(folder)
    # As they are stored, in half precision.
    for line in report(Readers.load(folder), args.held_out):
        print(line)


def report(readers: Readers, people: int) -> Iterator[str]:
    """What readers reach on clips of people held out: as drawn, and damaged."""
    pictures = clip_pictures(people, 4)
    yield f"{len(pictures)} frames of {people} people held out"
    yield f"as drawn: {scores(readers.read(pictures.frames), pictures).line()}"
    frames = blurred(pictures.frames, BLUR, NOISE, np.random.default_rng(0))
    yield f"blur {BLUR}, noise {NOISE}: {scores(readers.read(frames), pictures).line()}"
    other = clip_pictures(people, 4, elsewhere=True)
    yield f"other backgrounds: {scores(readers.read(other.frames), other).line()}"


def _bar(what: str, quiet: bool) -> Callable[[range], Iterator[int]]:
    return partial(_shown, what=what, quiet=quiet)


def _shown(values: range, what: str, quiet: bool) -> Iterator[int]:
    yield from tqdm(values, desc=what, disable=quiet)


if __name__ == "__main__":
    run("memo_jax.puppets.train_readers", main)
