"""What a run says of itself: metrics.jsonl always, TensorBoard where tensorboardX is installed."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

# Dense bfloat16 operations per second of one JAX device, as its maker publishes them (float16
# where it has no bfloat16), by the beginning of its kind's name; longer ones first. TPU v2, v3
# and 7x show each chip as two devices.
PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A10": 125e12,
    "NVIDIA A100": 312e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "Tesla T4": 65e12,
    "Tesla V100": 125e12,
}


def peak(kind: str) -> float | None:
    """Operations per second of a device of this kind; None where nothing is published."""
    names = [name for name in PEAKS if kind == name or kind.startswith((f"{name} ", f"{name}-"))]
    return PEAKS[max(names, key=len)] if names else None


def utilization(flops: float | None, seconds: float) -> float | None:
    """Model FLOPs utilization: what a step needs, against what all devices could do meanwhile."""
    most = peak(jax.devices()[0].device_kind)
    if not flops or most is None or not seconds > 0:
        return None
    return flops / seconds / (most * jax.device_count())


def memory() -> dict[str, float]:
    """GiB of this process's first device in use, and the most so far; empty where the platform
    does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    names = {"memory_gib": "bytes_in_use", "memory_peak_gib": "peak_bytes_in_use"}
    return {name: stats[key] / 2**30 for name, key in names.items() if key in stats}


class Log:
    """Appends to a run's metrics; a line for each log step, in order of steps."""

    def __init__(
        self, folder: Path, step: int, *, tensorboard: bool, tell: Callable[[str], None]
    ) -> None:
        """Open the log of a run that goes on from `step`.

        What was logged of later steps, which a killed run did and this one does again, is taken
        out: each step is there once.
        """
        path = folder / "metrics.jsonl"
        if path.exists():
            _cut(path, step)
        self._file = path.open("a", encoding="utf-8")
        self._writer = _writer(folder / "tensorboard", step, tell) if tensorboard else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line: the step and its values. What is not finite is written as text, for JSON has
        no such numbers."""
        shown = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
        self._file.write(json.dumps({"step": step, **shown}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, step)
            self._writer.flush()

    def close(self) -> None:
        """Ends files and threads."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last one that a kill cut short is left out."""
    lines = (run / "metrics.jsonl").read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _cut(path: Path, step: int) -> None:
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
    os.replace(unfinished, path)


def _writer(folder: Path, step: int, tell: Callable[[str], None]) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        tell("no TensorBoard files: tensorboardX is not installed (pip install memo_jax[metrics])")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
