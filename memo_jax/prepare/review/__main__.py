"""`python -m memo_jax.prepare.review`: a page on which people keep or drop sampled clips.

python -m memo_jax.prepare.review DATA
python -m memo_jax.prepare --input ... --output DATA --review DATA/review.csv
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from memo_jax.command import Parser, run
from memo_jax.errors import UserError
from memo_jax.prepare.listing import opened
from memo_jax.prepare.review.server import HOST, Review, server

NAME = "memo_jax.prepare.review"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(prog=NAME, description="Shows sampled clips; one key keeps or drops each.")
    p.add_argument("data", help="the data set's folder")
    p.add_argument("--sample", type=int, default=100, help="clips to look at")
    p.add_argument("--seed", type=int, default=0, help="of the sample")
    p.add_argument("--output", help="the decisions' file (review.csv in the folder)")
    p.add_argument("--port", type=int, default=8765, help="of this machine")
    return p


def main(arguments: Sequence[str]) -> None:
    """The command; raises UserError. It ends by Ctrl-C; every decision is written at once."""
    args = parser().parse_args(arguments)
    if args.sample < 1:
        raise UserError(f"--sample {args.sample}, expected 1 at least")
    csv = Path(args.output or Path(args.data, "review.csv"))
    review = Review(opened(args.data), csv, args.sample, args.seed)
    with server(review, args.port) as serving:
        print(f"http://{HOST}:{serving.server_address[1]}/ shows {len(review.clips)} clips; ")
        print(f"decisions go to {csv}; Ctrl-C ends", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            decided = sum(bool(about["decision"]) for about in review.clips)
            print(f"{csv}: {decided} of {len(review.clips)} decided")


if __name__ == "__main__":
    run(NAME, main)
