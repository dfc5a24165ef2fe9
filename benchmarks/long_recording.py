"""Whether a long recording takes more memory or time towards its end than at its beginning.

    python benchmarks/long_recording.py --minutes 10 --json FILE

The bundled portrait speaks the bundled recording over again, into an mp4 that is thrown away, as
`memo_jax.sample` makes one. After every chunk the process's resident memory and the clock are read.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from memo_jax.bench.generation import ASSETS, write_sound
from memo_jax.command import Parser, keep_compilations, run
from memo_jax.errors import UserError
from memo_jax.io.video_write import VideoWriter
from memo_jax.pipeline import Pipeline

MINUTE = 60.0
PAGE = os.sysconf("SC_PAGE_SIZE")


def generate(pipe: Pipeline, minutes: float, quiet: bool) -> list[dict[str, float]]:
    """Of every chunk: its last frame's second in the video, the clock, resident bytes."""
    sampler = pipe.sampler
    frames = round(minutes * MINUTE * sampler.fps)
    chunks: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=frames, unit="frame", disable=quiet) as bar,
    ):
        recording, video = Path(folder) / "recording.wav", Path(folder) / "video.mp4"
        write_sound(recording, frames, sampler.fps)
        side, done = sampler.image_size, 0
        with VideoWriter(video, side, side, sampler.fps, sound=recording) as writer:
            for made in pipe.stream(ASSETS / "portrait.png", recording, crop="none", vocals="off"):
                writer.write(made)
                done += len(made)
                bar.update(len(made))
                chunks.append(
                    {
                        "video_seconds": done / sampler.fps,
                        "clock": time.perf_counter(),
                        "resident_bytes": _resident(),
                    }
                )
    return chunks


def by_minute(chunks: Sequence[dict[str, float]], fps: float) -> list[dict[str, float]]:
    """Each whole minute's median resident bytes, and its seconds for a frame: a chunk's median."""
    found = []
    last = chunks[-1]["video_seconds"]
    for minute in range(int(last // MINUTE)):
        inside = [
            (before, chunk)
            for before, chunk in itertools.pairwise(chunks)
            if minute * MINUTE < chunk["video_seconds"] <= (minute + 1) * MINUTE
        ]
        each = [
            (chunk["clock"] - before["clock"])
            / ((chunk["video_seconds"] - before["video_seconds"]) * fps)
            for before, chunk in inside
        ]
        found.append(
            {
                "minute": minute + 1,
                "resident_bytes": statistics.median(c["resident_bytes"] for _, c in inside),
                "seconds_per_frame": statistics.median(each),
            }
        )
    return found


def _resident() -> float:
    """Of this process, now, as Linux tells."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    p = Parser(prog="benchmarks/long_recording.py", description="Memory and time, by minute.")
    p.add_argument("--model", default="tiny", help="a preset, a model folder, or a hub id")
    p.add_argument("--minutes", type=float, default=10.0, help="of video, 3 at least")
    p.add_argument("--steps", type=int, help="Euler steps (the model's own)")
    p.add_argument("--json", help="also write the figures here")
    p.add_argument("--quiet", action="store_true", help="no progress")
    return p


def main(arguments: Sequence[str]) -> None:
    """The script."""
    args = parser().parse_args(arguments)
    if args.minutes < 3:
        raise UserError(f"--minutes {args.minutes:g}; expected 3 or more, to compare two of them")
    if not Path("/proc/self/statm").exists():
        raise UserError("resident memory is read from /proc, which Linux has; run it there")
    keep_compilations()
    pipe = Pipeline.load(args.model, steps=args.steps)
    chunks = generate(pipe, args.minutes, args.quiet)
    minutes = by_minute(chunks, pipe.sampler.fps)
    for one in minutes:
        print(
            f"minute {one['minute']:3d}  {one['resident_bytes'] / 2**20:8.1f} MiB resident  "
            f"{one['seconds_per_frame']:.4f} s/frame"
        )
    second, last = minutes[1], minutes[-1]
    found: dict[str, Any] = {
        "model": args.model,
        "steps": pipe.sampler.steps,
        "minutes": minutes,
        "memory_last_to_second": last["resident_bytes"] / second["resident_bytes"],
        "time_last_to_second": last["seconds_per_frame"] / second["seconds_per_frame"],
    }
    print(
        f"the last minute to the second: memory {found['memory_last_to_second']:.3f}, "
        f"seconds per frame {found['time_last_to_second']:.3f}"
    )
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    run("benchmarks/long_recording.py", main)
