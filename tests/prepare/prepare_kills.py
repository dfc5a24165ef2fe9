"""Kills preparation with SIGKILL and lets it go on: the end must be that of a run left alone.

    python tests/prepare/prepare_kills.py --kills 10

kills at random moments of a run and prints what came of it; the tests kill at chosen ones.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from memo_jax.data.store import Store

OPTIONS = ("--size", "64", "--head-pixels", "96", "--cuts", "histogram", "--head-every", "0.8")
NAMES = ("h264-25.mp4", "vp9-24.webm", "cut.mp4", "zero.mp4", "two-heads.mp4", "late.mp4")
WAIT = 240.0  # seconds for a moment to come


def command(source: Path, output: Path, *options: str) -> list[str]:
    """The command over a folder."""
    given = ["--input", str(source), "--output", str(output), *OPTIONS, *options]
    return [sys.executable, "-m", "memo_jax.prepare", *given]


def run(source: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A run to its end."""
    return subprocess.run(command(source, output, *options), capture_output=True, text=True)


def killed(source: Path, output: Path, now: Callable[[], bool]) -> bool:
    """A run that is killed as soon as `now()`; whether it was, before it ended by itself."""
    process = subprocess.Popen(
        command(source, output, "--quiet"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    limit = time.monotonic() + WAIT
    while process.poll() is None and not now() and time.monotonic() < limit:
        time.sleep(0.002)
    was = process.poll() is None
    if was:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return was


def result(output: Path) -> tuple[list[bytes], str]:
    """All records, and all rejects."""
    store = Store(output)
    return [store[i] for i in range(len(store))], (output / "rejects.jsonl").read_text()


def main() -> None:
    """Ten kills at random moments."""
    import prepare_videos as videos

    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in")
        source.mkdir()
        people = videos.draw_person(0), videos.draw_person(1)
        for case in videos.cases():
            if case.name in NAMES:
                case.make(source / case.name, *people)
        begun = time.monotonic()
        assert run(source, Path(folder, "whole")).returncode == 0
        length = time.monotonic() - begun
        expected = result(Path(folder, "whole"))
        print(f"left alone: {length:.1f} s, {len(expected[0])} records")
        equal = 0
        for i in range(args.kills):
            output, moment = Path(folder, f"killed-{i}"), rng.uniform(0.3, 1.0) * length
            begun = time.monotonic()
            was = killed(source, output, lambda b=begun, m=moment: time.monotonic() - b > m)
            done = len(list(output.glob(".prepare/done/*.json")))
            again = run(source, output)
            same = again.returncode == 0 and result(output) == expected
            equal += same
            print(
                f"{'killed' if was else 'ended'} at {moment:.1f} s with {done} videos done: "
                f"{'equal' if same else 'NOT EQUAL'}",
                flush=True,
            )
        print(f"{equal} of {args.kills} equal")


if __name__ == "__main__":
    main()
