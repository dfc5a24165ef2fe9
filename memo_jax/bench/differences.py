"""How far each preset's frames are from the exact sampler's, and what it costs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.bench import generation, operations
from memo_jax.diffusion.presets import EXACT, PRESETS, told, with_preset
from memo_jax.diffusion.schedule import evaluations
from memo_jax.pipeline import Pipeline
from memo_jax.weights.folder import Model


def psnr(
    frames: UInt8[np.ndarray, "n H W 3"], others: UInt8[np.ndarray, "n H W 3"]
) -> Float[np.ndarray, " n"]:
    """Peak signal-to-noise ratio of each frame in dB; infinite where they are equal."""
    error = np.mean((frames.astype(np.float32) - others) ** 2, axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


def measure(
    model: Model,
    *,
    clips: int = 4,
    seed: int = 0,
    presets: Sequence[str] = PRESETS,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The bundled portrait speaking from the same noise with each preset, beside the exact one."""
    sampler = model.spec.sampler
    configs = {name: part.config for name, part in model.spec.parts.items()}
    rows: dict[str, Any] = {}
    exact = None
    for name in (EXACT, *(name for name in presets if name != EXACT)):
        tell(f"generating with preset {name}")
        pipe = Pipeline(model, preset=name)
        frames = _frames(pipe, clips, seed)
        if exact is None:
            exact = frames
        chosen, each = with_preset(sampler, name), psnr(frames, exact)
        passed = evaluations(chosen)
        rows[name] = {
            "sampler": told(chosen),
            "whole_evaluations": passed.whole,
            "shallow_evaluations": passed.shallow,
            "operations_per_frame": operations.per_frame(configs, chosen),
            "psnr_mean_db": _finite(float(each.mean())),
            "psnr_worst_db": _finite(float(each.min())),
            "largest_difference": int(np.abs(frames.astype(int) - exact).max()),
        }
    return {"kind": "preset differences", "clips": clips, "seed": seed, "presets": rows}


def lines(found: dict[str, Any]) -> list[str]:
    """A table for people to read."""
    said = ["preset    evaluations      TFLOP/frame  PSNR mean, worst, dB  sampler"]
    for name, row in found["presets"].items():
        passed = f"{row['whole_evaluations']} + {row['shallow_evaluations']} shallow"
        said.append(
            f"{name:9} {passed:16} {row['operations_per_frame'] / 1e12:<11.4g}  "
            f"{_decibels(row['psnr_mean_db']):>9} {_decibels(row['psnr_worst_db']):>10}  "
            f"{row['sampler']}"
        )
    return said


def _frames(pipe: Pipeline, clips: int, seed: int) -> UInt8[np.ndarray, "n s s 3"]:
    count = clips * pipe.sampler.clip_frames
    scene = pipe.scene(generation.ASSETS / "portrait.png", crop="none")
    sound = generation.sound(count, pipe.sampler.fps), SAMPLE_RATE
    run = pipe.start(scene, pipe.hear(sound, vocals="off"), seed=seed)
    return np.concatenate(list(run))


def _finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None


def _decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f}"
