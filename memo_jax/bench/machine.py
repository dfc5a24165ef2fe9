"""What a figure was measured on: the device and its peak, the memory it took, versions, commit."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from memo_jax.aot.chips import CHIPS

# Dense bfloat16 TFLOP/s by what is in JAX's name of the device; the first that fits. NVIDIA's
# datasheets state twice these for matrices of which half is zero (H100 SXM, H200 SXM: 1,979; PCIe:
# 1,513; NVL: 1,671).
_H100 = "NVIDIA H100 Tensor Core GPU datasheet"
_H200 = "NVIDIA H200 Tensor Core GPU datasheet"
GPUS = (
    ("H200 NVL", 835.5, _H200),
    ("H200", 989.4, _H200),
    ("H100 NVL", 835.5, _H100),
    ("H100 PCIe", 756.5, _H100),
    ("H100", 989.4, _H100),
    ("A100", 312.0, "NVIDIA A100 Tensor Core GPU datasheet"),
)
# Above this share of the processors others disturb.
BUSY = 0.1
PACKAGES = ("memo_jax", "jax", "jaxlib", "flax", "numpy")


def peak(kind: str) -> tuple[float, str] | None:
    """Dense bfloat16 TFLOP/s of one device of that `device_kind`, and who says so; None where we
    know of no published figure, as for CPUs."""
    for chip in CHIPS:
        if chip.kind == kind:
            return chip.tflops / chip.devices, chip.source
    for name, tflops, source in GPUS:
        if name in kind:
            return tflops, source
    return None


def memory(device: Any) -> dict[str, Any]:
    """The most memory in use since the process began, in bytes, and of what."""
    stats = device.memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return {"peak_bytes": int(stats["peak_bytes_in_use"]), "of": "device memory in use"}
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_bytes": rss * unit, "of": "resident memory of the whole process, on the host"}


def threads() -> int:
    """Processors that this process may run on, which is how many threads XLA uses on a CPU."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def others(seconds: float = 1.0) -> float | None:
    """The share of all processors' time that goes to somebody else while this process sleeps; None
    where the system does not tell (it is Linux that does)."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if before is None or after is None or after[0] == before[0]:
        return None
    return 1 - (after[1] - before[1]) / (after[0] - before[0])


def warning(share: float | None) -> str | None:
    """What to say where others take so much that no figure means much."""
    if share is None or share < BUSY:
        return None
    return (
        f"note: other programs take {share:.0%} of the processors; these figures are of little "
        "worth, and PyTorch's, whose threads wait for each other, of the least"
    )


def _ticks() -> tuple[int, int] | None:
    """Time of all processors since the start, and the part of it that they were idle."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return sum(ticks), ticks[3] + ticks[4]


def description() -> dict[str, Any]:
    """The machine and the software, as JSON holds them. Takes a second, in which nothing else of
    this process should run."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "threads": threads(),
        "others": others(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "compilation_cache": jax.config.values["jax_compilation_cache_dir"],
        **commit(),
    }


def commit() -> dict[str, Any]:
    """The commit the package is run from and whether its files differ from it; None for both where
    it is installed without a repository or there is no git."""
    package = Path(__file__).parents[1]
    head = _git(package, "rev-parse", "HEAD")
    # The folder may lie in somebody else's repository, as site-packages in a project's does.
    if head is None or not _git(package, "ls-files", "__init__.py"):
        return {"commit": None, "changed": None}
    changed = _git(package, "status", "--porcelain", ".")
    return {"commit": head, "changed": bool(changed)}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
