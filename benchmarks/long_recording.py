"""Whether a long recording takes more memory or time towards its end than at its beginning.

    python benchmarks/long_recording.py --minutes 10 --json FILE

The bundled portrait speaks the bundled recording over again, into an mp4 that is thrown away, as
`memo_jax.sample` makes one. After every chunk the process's resident memory and the clock are read,
and a fixed piece of work is timed: where both the frames and that work slow down, the machine did.

With transparent huge pages the kernel may turn half-used pages into whole ones as time goes by,
which would look like growth. How much of the memory is in them is read too, and `--huge-pages off`
tells the kernel to make none for this process.
"""

import argparse
import ctypes
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from memo_jax.bench.generation import ASSETS, write_sound
from memo_jax.command import Parser, keep_compilations, run, share_one_arena
from memo_jax.errors import UserError
from memo_jax.io.video_write import VideoWriter
from memo_jax.pipeline import Pipeline

MINUTE = 60.0
MEMORY = Path("/proc/self/smaps_rollup")
# From Linux's prctl.h.
PR_SET_THP_DISABLE = 41


def generate(pipe: Pipeline, minutes: float, quiet: bool) -> list[dict[str, float]]:
    """Of every chunk: its last second in the video, frames, seconds, memory, fixed work."""
    sampler = pipe.sampler
    frames = round(minutes * MINUTE * sampler.fps)
    chunks: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=frames, unit="frame", disable=quiet) as bar,
    ):
        recording, video = Path(folder) / "recording.wav", Path(folder) / "video.mp4"
        write_sound(recording, frames, sampler.fps)
        side, done, begun = sampler.image_size, 0, time.perf_counter()
        with VideoWriter(video, side, side, sampler.fps, sound=recording) as writer:
            for made in pipe.stream(ASSETS / "portrait.png", recording, crop="none", vocals="off"):
                writer.write(made)
                done += len(made)
                bar.update(len(made))
                ended = time.perf_counter()
                chunks.append(
                    {
                        "video_seconds": done / sampler.fps,
                        "frames": len(made),
                        "seconds": ended - begun,
                        "resident_bytes": _memory("Rss"),
                        "huge_page_bytes": _memory("AnonHugePages"),
                        "fixed_work_seconds": _fixed_work(),
                    }
                )
                begun = time.perf_counter()
    return chunks


def by_minute(chunks: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Each whole minute's medians over its chunks: bytes of memory, seconds a frame, fixed work."""
    found = []
    for minute in range(int(chunks[-1]["video_seconds"] // MINUTE)):
        # The very first chunk holds what is done once: compiling, or reading what was compiled.
        inside = [
            chunk
            for chunk in chunks[1:]
            if minute * MINUTE < chunk["video_seconds"] <= (minute + 1) * MINUTE
        ]
        found.append(
            {
                "minute": minute + 1,
                "resident_bytes": statistics.median(c["resident_bytes"] for c in inside),
                "huge_page_bytes": statistics.median(c["huge_page_bytes"] for c in inside),
                "seconds_per_frame": statistics.median(c["seconds"] / c["frames"] for c in inside),
                "fixed_work_seconds": statistics.median(c["fixed_work_seconds"] for c in inside),
            }
        )
    return found


def _memory(kind: str) -> float:
    """Bytes of a kind that this process has now, as Linux tells: `Rss` or `AnonHugePages`."""
    for line in MEMORY.read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise UserError(f"{MEMORY} has no line {kind}; expected Linux 4.14 or later, run it there")


def _fixed_work() -> float:
    """Seconds of exponentials that fit the cache, on one core: always the same, 16 to 32 ms."""
    numbers, out = np.linspace(-1, 1, 1 << 14, dtype=np.float32), np.empty(1 << 14, np.float32)
    begun = time.perf_counter()
    for _ in range(1500):
        np.exp(numbers, out=out)
    return time.perf_counter() - begun


def without_huge_pages() -> None:
    """Ask Linux to make no huge pages for this process, however the machine is set.

    Raises:
        UserError: if it refuses.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0:
        raise UserError(
            f"this kernel cannot do without huge pages ({os.strerror(ctypes.get_errno())}); leave "
            "out --huge-pages"
        )


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    p = Parser(prog="benchmarks/long_recording.py", description="Memory and time, by minute.")
    p.add_argument("--model", default="tiny", help="a preset, a model folder, or a hub id")
    p.add_argument("--minutes", type=float, default=10.0, help="of video, 3 at least")
    p.add_argument("--steps", type=int, help="Euler steps (the model's own)")
    p.add_argument(
        "--huge-pages",
        choices=("as-set", "off"),
        default="as-set",
        help="as the machine is set, or none for this process",
    )
    p.add_argument("--json", help="also write the figures here")
    p.add_argument("--quiet", action="store_true", help="no progress")
    return p


def main(arguments: Sequence[str]) -> None:
    """The script."""
    args = parser().parse_args(arguments)
    if args.minutes < 3:
        raise UserError(f"--minutes {args.minutes:g}; expected 3 or more, to compare two of them")
    if not MEMORY.exists():
        raise UserError(f"memory is read from {MEMORY}, which Linux 4.14 has; run it there")
    if args.huge_pages == "off":
        without_huge_pages()
    keep_compilations()
    share_one_arena()  # as memo_jax.sample does
    pipe = Pipeline.load(args.model, steps=args.steps)
    chunks = generate(pipe, args.minutes, args.quiet)
    minutes = by_minute(chunks)
    for one in minutes:
        print(
            f"minute {one['minute']:3d}  {one['resident_bytes'] / 2**20:8.1f} MiB resident  "
            f"{one['huge_page_bytes'] / 2**20:8.1f} in huge pages  "
            f"{one['seconds_per_frame']:.4f} s/frame  "
            f"{one['fixed_work_seconds']:.4f} s of fixed work"
        )
    second, last = minutes[1], minutes[-1]
    found: dict[str, Any] = {
        "model": args.model,
        "steps": pipe.sampler.steps,
        "huge_pages": args.huge_pages,
        "minutes": minutes,
        "memory_last_to_second": last["resident_bytes"] / second["resident_bytes"],
        "time_last_to_second": last["seconds_per_frame"] / second["seconds_per_frame"],
        "machine_last_to_second": last["fixed_work_seconds"] / second["fixed_work_seconds"],
    }
    print(
        f"the last minute to the second: memory {found['memory_last_to_second']:.3f}, "
        f"seconds per frame {found['time_last_to_second']:.3f}, "
        f"the machine's own for fixed work {found['machine_last_to_second']:.3f}"
    )
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    run("benchmarks/long_recording.py", main)
