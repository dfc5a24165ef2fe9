"""`python -m memo_jax.metrics.preference`: a page on which people compare two folders' videos.

python -m memo_jax.metrics.preference OURS THEIRS --output votes.csv
python -m memo_jax.metrics.preference --results votes.csv
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from memo_jax.command import Parser, run
from memo_jax.errors import UserError
from memo_jax.metrics.preference.server import HOST, server
from memo_jax.metrics.preference.study import Study, pairs_of
from memo_jax.metrics.preference.votes import to_markdown

NAME = "memo_jax.metrics.preference"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(
        prog=NAME,
        description="Shows the videos that two folders have under one name side by side and asks "
        "five questions on each pair; or tells what the votes say (--results).",
    )
    p.add_argument("a", nargs="?", metavar="A", help="folder of one model's videos")
    p.add_argument("b", nargs="?", metavar="B", help="folder of another's, by the same names")
    p.add_argument("--output", metavar="CSV", default="votes.csv", help="votes; goes on from there")
    p.add_argument("--seed", type=int, default=0, help="of sides and of the pairs' order")
    p.add_argument("--port", type=int, default=8321, help="of this machine; 0 for a free one")
    p.add_argument("--results", metavar="CSV", help="print what these votes say, and end")
    return p


def main(arguments: Sequence[str]) -> None:
    """The command; raises UserError. It ends by Ctrl-C; every vote is written at once."""
    args = parser().parse_args(arguments)
    if args.results is not None:
        if args.a is not None:
            raise UserError("give either two folders, or --results with the file of votes")
        print(to_markdown(Path(args.results)), end="")
        return
    if args.b is None:
        raise UserError("give two folders of videos, or --results with the file of votes")
    a, b = Path(args.a), Path(args.b)
    votes = Path(args.output)
    study = Study(pairs_of(a, b), votes, _names(a, b), args.seed)
    with server(study, args.port) as serving:
        print(f"http://{HOST}:{serving.server_address[1]}/ shows {len(study.pairs)} pairs;")
        print(f"votes go to {votes}; Ctrl-C ends", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print(f"\n{to_markdown(votes)}", end="")


def _names(a: Path, b: Path) -> tuple[str, str]:
    """The folders' own names; with those of the folders above, as far as it takes to differ."""
    first, second = a.resolve().parts, b.resolve().parts
    if first == second:
        raise UserError(f"{str(a)!r} and {str(b)!r} are one folder; expected two")
    for n in range(1, max(len(first), len(second)) + 1):
        names = "/".join(first[-n:]), "/".join(second[-n:])
        if names[0] != names[1]:
            return names
    raise AssertionError(f"{first} and {second} differ")


if __name__ == "__main__":
    run(NAME, main)
