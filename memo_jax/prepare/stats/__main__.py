"""`python -m memo_jax.prepare.stats`: hours, rates, scores and rejects of a prepared set.

python -m memo_jax.prepare.stats DATA --png stats.png
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memo_jax.command import Parser, run
from memo_jax.errors import UserError, one_line
from memo_jax.prepare.folder import REJECTS, Folder
from memo_jax.prepare.listing import listed, opened
from memo_jax.prepare.reasons import REASONS
from memo_jax.prepare.stats.chart import Bars, drawn, histogram

NAME = "memo_jax.prepare.stats"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(prog=NAME, description="Says what a prepared data set holds, and what was left out.")
    p.add_argument("data", help="the data set's folder")
    p.add_argument("--png", help="draw the histograms here")
    return p


def main(arguments: Sequence[str]) -> None:
    """The command; raises UserError."""
    args = parser().parse_args(arguments)
    found = counted(args.data)
    print(text(found))
    if args.png:
        try:
            drawn(charts(found), heading(found)).save(args.png)
        except (OSError, ValueError) as error:
            raise UserError(f"{args.png!r} cannot be written: {one_line(error)}") from error
        print(args.png)


def counted(data: str) -> dict[str, Any]:
    """All numbers of a set; raises UserError."""
    store = opened(data)
    seconds: list[float] = []
    scores: dict[str, list[float]] = {}
    counts: dict[str, Counter[str]] = {k: Counter() for k in ("fps", "emotion", "corpus")}
    people: set[tuple[str, str]] = set()
    for _, clip in listed(store):
        seconds.append(clip.frames / clip.fps)
        counts["fps"][f"{clip.fps:.2f}"] += 1
        counts["corpus"][clip.corpus or "-"] += 1
        for number, frames in zip(*np.unique(clip.emotion, return_counts=True), strict=True):
            name = clip.emotions[number] if number >= 0 else "none"
            counts["emotion"][name] += int(frames)
        if clip.identity:
            people.add((clip.corpus, clip.identity))
        for name, value in clip.scores.items():
            scores.setdefault(name, []).append(value)
    rejects: Counter[str] = Counter()
    path = Path(data, REJECTS)
    if path.is_file():
        rejects.update(json.loads(line)["code"] for line in path.read_text("utf-8").splitlines())
    steps: Counter[str] = Counter()
    decoded = 0.0
    for receipt in Folder(data).receipts().values():
        steps.update(receipt["times"])
        decoded += receipt["seconds"]
    return {
        "data": data,
        "seconds": seconds,
        "people": len(people),
        "scores": scores,
        "rejects": rejects,
        "steps": steps,
        "decoded": decoded,
        **counts,
    }


def heading(found: dict[str, Any]) -> str:
    """One line."""
    hours = sum(found["seconds"]) / 3600
    return (
        f"{found['data']}: {len(found['seconds'])} clips, {hours:.3f} hours, "
        f"{found['people']} people known by name"
    )


def text(found: dict[str, Any]) -> str:
    """All of it, as lines."""
    lines = [heading(found)]
    for name in ("fps", "corpus", "emotion"):
        total = sum(found[name].values())
        parts = (f"{k} {n / total:.0%}" for k, n in found[name].most_common())
        lines.append(f"{name}: {', '.join(parts)}")
    for name, values in sorted(found["scores"].items()):
        low, middle, high = np.percentile(values, (5, 50, 95))
        lines.append(f"{name}: 5 % {low:.3g}, half {middle:.3g}, 95 % {high:.3g}")
    for code, n in found["rejects"].most_common():
        lines.append(f"rejected {n} {code}: {REASONS.get(code, 'an unknown code')}")
    if found["steps"]:
        each = found["steps"].most_common()
        each = [("all", sum(found["steps"].values())), *each]
        rates = (f"{step} {found['decoded'] / spent:.3g}" for step, spent in each if spent > 0)
        lines.append(f"hours of video through one core in an hour: {', '.join(rates)}")
    return "\n".join(lines)


def charts(found: dict[str, Any]) -> list[Bars]:
    """A histogram of each thing counted."""
    out = [histogram("seconds of the clips", found["seconds"])]
    out += [Bars(name, found[name].most_common(8)) for name in ("fps", "emotion")]
    out += [histogram(name, values) for name, values in sorted(found["scores"].items())]
    return [*out, Bars("rejects", found["rejects"].most_common(8))]


if __name__ == "__main__":
    run(NAME, main)
