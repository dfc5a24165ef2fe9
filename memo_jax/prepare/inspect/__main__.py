"""`python -m memo_jax.prepare.inspect`: renders a stored clip back to a video with its sound.

python -m memo_jax.prepare.inspect DATA --clip 12 --output clip.mp4
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from memo_jax.command import Parser, run
from memo_jax.prepare.inspect.render import described, write_clip
from memo_jax.prepare.listing import clip_at, opened

NAME = "memo_jax.prepare.inspect"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(prog=NAME, description="Renders a stored clip back to a video, and says what it is.")
    p.add_argument("data", help="the data set's folder")
    p.add_argument("--clip", default="0", help="its number from 0, or its name")
    p.add_argument("--output", help="an .mp4, .mov or .mkv; without it the clip is only described")
    return p


def main(arguments: Sequence[str]) -> None:
    """The command; raises UserError."""
    args = parser().parse_args(arguments)
    clip = clip_at(opened(args.data), args.clip)
    if args.output:
        write_clip(clip, Path(args.output))
    print(described(clip))


if __name__ == "__main__":
    run(NAME, main)
