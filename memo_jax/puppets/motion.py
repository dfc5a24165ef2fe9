"""How a head moves, when eyes blink, and where they look: smooth functions of time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Manner:
    """How an emotion moves a head; `pace` and `reach` are 1 at rest.

    Attributes:
      pace: of movements.
      reach: of movements.
      nod: how far the head goes with the voice.
      y: where the head is held, below its rest, as a share of the picture.
      roll: degrees.
      scale: added to 1.
      blinks: a second.
    """

    pace: float = 1.0
    reach: float = 1.0
    nod: float = 1.0
    y: float = 0.0
    roll: float = 0.0
    scale: float = 0.0
    blinks: float = 0.28


MANNERS = {
    "angry": Manner(pace=1.5, reach=1.1, nod=1.8, y=0.006, scale=0.03, blinks=0.15),
    "disgusted": Manner(pace=0.8, reach=0.9, roll=-4.0, scale=-0.02, blinks=0.35),
    "fearful": Manner(pace=2.0, reach=0.8, nod=0.6, scale=-0.03, blinks=0.5),
    "happy": Manner(pace=1.3, reach=1.3, nod=1.5, y=-0.006, roll=2.0),
    "neutral": Manner(),
    "other": Manner(pace=0.7, reach=0.9, roll=4.0),
    "sad": Manner(pace=0.6, reach=0.7, nod=0.5, y=0.025, blinks=0.4),
    "surprised": Manner(pace=1.1, reach=1.0, nod=1.4, y=-0.02, scale=0.02, blinks=0.12),
}

MOST = {"x": 0.07, "y": 0.075, "roll": 13.0, "scale": 0.1}
"""How far from rest a head gets at most; `scale` from 1."""


def head_pose(
    times: Float[np.ndarray, " n"],
    voice: Float[np.ndarray, " n"],
    manner: Manner,
    strength: float,
    rng: np.random.Generator,
) -> dict[str, Float[np.ndarray, " n"]]:
    """x, y, roll and scale as in `Truth`.

    Args:
      times: seconds.
      voice: 0 to 1, how open the mouth is; smoothed, it makes the head nod.
      manner: of the emotion.
      strength: of the emotion, 0 to 1.
      rng: all that is left to chance comes from it.
    """
    pace = 1 + strength * (manner.pace - 1)
    reach = (1 + strength * (manner.reach - 1)) * rng.uniform(0.6, 1.4)
    wander = {name: _wander(times, pace, rng) for name in ("x", "y", "roll", "scale")}
    nod = _smooth(voice, times) * (1 + strength * (manner.nod - 1)) * rng.uniform(0.3, 1.0)
    held = {name: rng.normal() for name in wander}
    pose = {
        "x": 0.022 * reach * wander["x"] + 0.012 * held["x"],
        "y": 0.014 * reach * wander["y"]
        + 0.008 * held["y"]
        + strength * manner.y
        + 0.016 * (nod - 0.3),
        "roll": 3.0 * reach * wander["roll"] + 1.5 * held["roll"] + strength * manner.roll,
        "scale": 0.022 * reach * wander["scale"] + 0.02 * held["scale"] + strength * manner.scale,
    }
    # Bent softly to the limits, so that no movement ends with a jerk.
    pose = {name: MOST[name] * np.tanh(value / MOST[name]) for name, value in pose.items()}
    pose["scale"] = 1 + pose["scale"]
    return pose


def blinks(
    times: Float[np.ndarray, " n"], manner: Manner, rng: np.random.Generator
) -> Float[np.ndarray, " n"]:
    """How closed the eyes are, 0 to 1: fast down, slower up."""
    closed = np.zeros(len(times))
    at = float(times[0]) + rng.exponential(0.6 / manner.blinks)
    while len(times) and at < times[-1] + 0.3:
        since = times - at
        down = np.clip(1 + since / 0.09, 0, 1)
        up = np.clip(1 - (since - 0.03) / 0.16, 0, 1)
        closed = np.maximum(closed, np.minimum(_ease(down), _ease(up)))
        at += 0.35 + rng.exponential(1 / manner.blinks)
    return closed


def gaze(
    times: Float[np.ndarray, " n"], rng: np.random.Generator
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Where the irises are: mostly straight on, with quick jumps aside."""
    x, y = np.zeros(len(times)), np.zeros(len(times))
    at, last = float(times[0]), (0.0, 0.0)
    while len(times) and at < times[-1]:
        aside = rng.uniform() < 0.4
        goal = (rng.uniform(-1, 1), rng.uniform(-0.7, 0.7)) if aside else (0.0, 0.0)
        moved = _ease(np.clip((times - at) / 0.08, 0, 1))
        x += moved * (goal[0] - last[0])
        y += moved * (goal[1] - last[1])
        last = goal
        at += rng.uniform(0.4, 0.9) if aside else rng.uniform(0.6, 2.4)
    return x, y


def _wander(times: np.ndarray, pace: float, rng: np.random.Generator) -> np.ndarray:
    """Slow waves of several rates with a variance of about 1; the same at any frame rate."""
    rates = pace * rng.uniform((0.08, 0.18, 0.35, 0.6), (0.18, 0.35, 0.6, 1.0))
    sizes = np.array((1.0, 0.7, 0.4, 0.2)) / 0.92
    phases = rng.uniform(0, 2 * np.pi, 4)
    return np.sin(2 * np.pi * rates * times[:, None] + phases) @ sizes


def _smooth(voice: np.ndarray, times: np.ndarray) -> np.ndarray:
    """A third of a second's mean."""
    if len(times) < 2:
        return voice
    half = max(1, round(0.17 / (times[1] - times[0])))
    kernel = np.hanning(2 * half + 3)[1:-1]
    inside = slice(half, half + len(voice))
    weights = np.convolve(np.ones(len(voice)), kernel)[inside]
    return np.convolve(voice, kernel)[inside] / weights


def _ease(t: np.ndarray) -> np.ndarray:
    return t * t * (3 - 2 * t)
