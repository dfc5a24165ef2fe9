"""What a device's time goes to: its kernels, from a trace of JAX's profiler."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

# Events that only hold others.
_HOLDERS = ("while", "call", "conditional", "end: ")


@dataclass(frozen=True)
class Kernel:
    """All runs of one kernel: seconds of them together, and how many."""

    name: str
    seconds: float
    runs: int


def profiled(work: Callable[[], Any], most: int = 10) -> dict[str, Any]:
    """Where the time of `work`, which waits for its results, goes: what is stored.

    `wall_seconds` are longer than without a profiler. `kernel_seconds` are of all kernels together;
    on a CPU, where the threads' operations stand in for them, more than the wall's.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            begun = time.perf_counter()
            work()
            wall = time.perf_counter() - begun
        planes: list[Any] = []
        for path in sorted(Path(folder).rglob("*.xplane.pb")):
            planes += jax.profiler.ProfileData.from_file(str(path)).planes
        found = summed(planes)
    return {
        "wall_seconds": wall,
        "kernel_seconds": sum(kernel.seconds for kernel in found),
        "kernels": [dataclasses.asdict(kernel) for kernel in found[:most]],
        "different_kernels": len(found),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """What `profiled` found for people to read."""
    whole, listed = found["kernel_seconds"], found["kernels"]
    rest = whole - sum(kernel["seconds"] for kernel in listed)
    rows = [
        *((kernel["seconds"], kernel["runs"], kernel["name"][:100]) for kernel in listed),
        (rest, "", f"the other {found['different_kernels'] - len(listed)}"),
    ]
    return [
        f"{whole:.3f} s in kernels, {found['wall_seconds']:.3f} s by the clock",
        *(
            f"{seconds:9.4f} s {seconds / whole:6.1%} {runs:>6}  {name}"
            for seconds, runs, name in rows
        ),
    ]


def summed(planes: Iterable[Any]) -> list[Kernel]:
    """The kernels of a trace's planes, the longest first."""
    seconds: dict[str, float] = {}
    runs: dict[str, int] = {}
    for name, took in _events(list(planes)):
        seconds[name] = seconds.get(name, 0.0) + took
        runs[name] = runs.get(name, 0) + 1
    longest = sorted(seconds, key=lambda name: -seconds[name])
    return [Kernel(name, seconds[name], runs[name]) for name in longest]


def _events(planes: list[Any]) -> Iterator[tuple[str, float]]:
    """(kernel, seconds) for each run of each."""
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices:
        lines = list(plane.lines)
        # A GPU's streams; a TPU has one line of operations.
        own = [line for line in lines if line.name.startswith("Stream")]
        for line in own or [line for line in lines if line.name == "XLA Ops"]:
            yield from _leaves(line.events)
    if devices:
        return
    for plane in planes:
        for line in plane.lines:
            yield from _leaves(e for e in line.events if "hlo_op" in dict(e.stats))


def _leaves(events: Iterable[Any]) -> Iterator[tuple[str, float]]:
    for event in events:
        if not event.name.startswith(_HOLDERS):
            yield event.name, event.duration_ns / 1e9
