"""The largest batch that fits, from a few compilations; and what to change where none does."""

from collections.abc import Callable
from typing import Any

from memo_jax.aot.report import Report

# Of the memory left, what the line through two batches may be wrong by.
_MARGIN = 0.98
_MOST = 4096


def largest(evaluate: Callable[[int], Report], tell: Callable[[str], None]) -> Report | None:
    """The report of the largest number of clips on each device that fits, or None.

    One and two are compiled, the line through what they need says how many fit, and that number
    is compiled too; where it does not fit after all, the one below, and so on.
    """
    reports: dict[int, Report] = {}

    def at(clips: int) -> Report:
        if clips not in reports:
            reports[clips] = evaluate(clips)
            peak = reports[clips].peak / 2**30
            verdict = "fits" if reports[clips].fits else "does not fit"
            tell(f"{clips} clips on each device: {peak:.2f} GiB, {verdict}")
        return reports[clips]

    if not at(1).fits:
        return None
    if not at(2).fits:
        return at(1)
    more = reports[2].peak - reports[1].peak
    room = _MARGIN * reports[1].usable - reports[1].peak
    guess = max(2, min(_MOST, 1 + int(room // more))) if more > 0 else _MOST
    while not at(guess).fits:
        guess -= max(1, guess // 20)
    return at(guess)


def advice(report: Report, config: dict[str, Any] | None) -> list[str]:
    """What would make a program that does not fit smaller, most effective first."""
    if config is None:
        return ["generate fewer clips in a call (--chunk 1), or in smaller pictures"]
    said: list[str] = []
    fixed = sum(size for what, size in report.given.items() if what != "batch")
    fsdp, devices = config["fsdp_axis"], report.devices
    if fixed > 0.1 * report.usable and fsdp < devices:
        said.append(f"cut parameters over more devices: --fsdp-axis {min(devices, 4 * fsdp)}")
    if config["remat"] in ("none", "dots"):
        said.append("compute modules again in the backward pass: --remat module")
    elif config["remat"] == "module":
        said.append("compute whole layers again in the backward pass: --remat layer")
    own = report.clips // (report.devices * config["accumulate"])
    if own > 1:
        said.append(f"take the batch in parts: --accumulate {config['accumulate'] * own}")
    if max(config["past_frames"]) > 16:
        said.append("look at fewer past frames: --past-frames 16")
    if config["optimizer"] == "adamw":
        said.append("keep a smaller optimizer state: optimizer='adafactor' in the config")
    return said or ["take a chip with more memory: v5p has 95 GiB"]
