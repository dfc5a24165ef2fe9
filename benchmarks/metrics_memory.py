"""Host memory of measuring two folders with many videos, all of them decoded.

    python benchmarks/metrics_memory.py --videos 2000 --json FILE

Some small videos are written and linked under as many names as are asked for, half of them real and
half generated; no features are kept on disk, so every name is decoded anew. In the place of the
networks, whose memory is the same for one video and for many, stand drawn projections to features
of the published widths. The rest is `memo_jax.metrics.compare` as the command runs it. Memory is
what the process has resident, after each video; the distances come at the end.
"""

import argparse
import json
import os
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from memo_jax.command import Parser, run
from memo_jax.errors import UserError
from memo_jax.io.video_write import VideoWriter
from memo_jax.metrics import compare as comparing
from memo_jax.metrics.compare import Settings, compare
from memo_jax.metrics.report import write_text

DISTINCT = 20
FPS = 25
WIDTHS = (2048, 400)  # of InceptionV3's features and I3D's
MB = 1e6


@dataclass(frozen=True)
class Memory:
    """In MB.

    Attributes:
      videos: how many were decoded.
      before: resident after all imports.
      most: resident after a video, at most.
      peak: resident at any moment, the distances at the end among them.
      growth: for each further 1,000 videos, by a straight line through the last third.
    """

    videos: int
    before: float
    most: float
    peak: float
    growth: float


class Network:
    """A drawn projection of a thumbnail, in the place of InceptionV3 and I3D."""

    preparation, side, batch = "pytorch", 8, 2

    def __init__(self, width: int):
        rng = np.random.default_rng(width)
        self.width = width
        self._weights = rng.normal(size=(3 * self.side**2, width)).astype(np.float32)

    def prepared(self, window: np.ndarray) -> np.ndarray:
        """Thumbnails."""
        size = (self.side, self.side)
        small = [cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in window]
        return np.stack(small).astype(np.float32) / 255

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Features of frames, or of windows that are prepared."""
        small = frames.mean(axis=1) if frames.ndim == 5 else self.prepared(frames)
        return small.reshape(len(frames), -1) @ self._weights


def measure(
    videos: int, side: int = 64, seconds: float = 1.0, *, widths: Sequence[int] = WIDTHS
) -> Memory:
    """The memory of comparing `videos` of a square's side in pixels."""
    networks: dict[str, Any] = {
        "load_inception": Network(widths[0]),
        "load_i3d": Network(widths[1]),
    }
    seen: list[float] = []
    measured = comparing.measure

    def watched(*args: Any, **options: Any) -> Any:
        found = measured(*args, **options)
        seen.append(resident())
        return found

    replaced = {name: getattr(comparing, name) for name in (*networks, "measure")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write(folder, videos, side, seconds)
        before = resident()
        try:
            for name, network in networks.items():
                setattr(comparing, name, lambda *_, network=network, **__: network)
            setattr(comparing, "measure", watched)  # noqa: B010
            compare(
                *(folder / "real", folder / "generated", folder / "out"),
                weights={"fid": folder / "file", "fvd": folder / "file"},
                settings=Settings(faces="portrait", keep=False),
            )
        finally:
            for name, what in replaced.items():
                setattr(comparing, name, what)
    # Both sets have begun by then, and of many videos the samples for KID are full.
    last = np.array(seen[-(len(seen) // 3) :])
    growth = np.polyfit(np.arange(len(last)), last, 1)[0] * 1000
    return Memory(len(seen), before, max(seen), peak(), float(growth))


def resident() -> float:
    """What this process has in memory, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def peak() -> float:
    """The most it has ever had, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(x.split()[1]) for x in lines if x.startswith("VmHWM")) * 1024 / MB


def _write(folder: Path, videos: int, side: int, seconds: float) -> None:
    """`DISTINCT` videos with sound, and links to them in both folders."""
    rng = np.random.default_rng(0)
    (folder / "file").write_bytes(b"in the place of weights")
    for key in ("distinct", "real", "generated"):
        (folder / key).mkdir()
    for i in range(DISTINCT):
        sound = folder / "sound.wav"
        with wave.open(str(sound), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            noise = rng.normal(0, 3000, round(16000 * seconds))
            file.writeframes(noise.astype("<i2").tobytes())
        path = folder / "distinct" / f"{i}.mp4"
        with VideoWriter(path, side, side, FPS, sound=sound) as writer:
            for _ in range(round(FPS * seconds)):
                small = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
                writer.write(cv2.resize(small, (side, side))[None])
    for i in range(videos):
        key = ("real", "generated")[i % 2]
        (folder / key / f"{i // 2:05d}.mp4").symlink_to(folder / "distinct" / f"{i % DISTINCT}.mp4")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(prog="metrics_memory", description="Host memory of measuring many videos.")
    p.add_argument("--videos", type=int, default=2000, help="of both folders together")
    p.add_argument("--side", type=int, default=64, help="pixels of a video's square")
    p.add_argument("--seconds", type=float, default=1.0, help="of a video")
    p.add_argument("--json", metavar="FILE", help="write the figures here too")
    return p


def main(arguments: Sequence[str]) -> None:
    """The command."""
    args = parser().parse_args(arguments)
    if args.videos < 12 or args.side < 16 or not 1 <= args.seconds <= 3600:
        raise UserError(
            f"--videos {args.videos} --side {args.side} --seconds {args.seconds:g}; expected 12, "
            "16 and 1 at least"
        )
    found = measure(args.videos, args.side, args.seconds)
    print(
        f"{found.videos} videos: {found.before:.0f} MB before, {found.most:.0f} MB while they pass "
        f"(+{found.most - found.before:.0f}), {found.peak:.0f} MB with the distances "
        f"(+{found.peak - found.before:.0f}); {found.growth:+.1f} MB for each further 1,000"
    )
    if args.json:
        write_text(Path(args.json), json.dumps(asdict(found), indent=1) + "\n")


if __name__ == "__main__":
    run("metrics_memory", main)
