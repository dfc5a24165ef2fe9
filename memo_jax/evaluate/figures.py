"""The figures of one generated puppet video."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from memo_jax.evaluate.people import Task
from memo_jax.puppets.emotion import number
from memo_jax.puppets.measures import (
    emotion_accuracy,
    identity_by_second,
    jitter,
    lips,
    seams,
    sway,
)
from memo_jax.puppets.readers import Readers

QUIET = -45.0  # dB of full scale: below it a voice is taken for silence


@dataclass(frozen=True)
class Figures:
    """Of one video; shares and cosines are from -1 or 0 to 1.

    Attributes:
      lips: correlation of the opening read with the true one, at its best shift of up to 5 frames.
      lag: frames by which the mouth is late there.
      lips_at_once: the correlation without a shift.
      loudness: correlation of the opening read with the voice's loudness in dB, silence cut at
        `QUIET`, at its best shift.
      emotion: share of frames that show the emotion asked for.
      identity: mean cosine of all frames with the portrait.
      jitter: of the head's place, in pictures' widths per frame and frame.
      sway: of the head's place, in pictures' widths from its mean; the drawn faces have 0.016.
      seams: how much more the picture changes from clip to clip than inside one.
      by_second: cosine of each second's frames with the portrait.
    """

    lips: float
    lag: int
    lips_at_once: float
    loudness: float
    emotion: float
    identity: float
    jitter: float
    sway: float
    seams: float
    by_second: tuple[float, ...]

    @property
    def kept(self) -> float:
        """Identity of the last second as a share of the first one's."""
        return self.by_second[-1] / self.by_second[0]


def figures(
    readers: Readers, frames: UInt8[np.ndarray, "n s s 3"], task: Task, fps: float, clip: int
) -> Figures:
    """The figures of a video of a task, made in clips of `clip` frames."""
    seen, portrait = readers.read(frames), readers.read(task.portrait[None])
    truth = lips(seen.opening, task.opening)
    loud = lips(seen.opening, np.maximum(task.loudness, QUIET))
    seconds = identity_by_second(seen.identity, fps, portrait.identity[0])
    return Figures(
        lips=truth.correlation,
        lag=truth.lag,
        lips_at_once=truth.at_once,
        loudness=loud.correlation,
        emotion=emotion_accuracy(seen.shown, number(task.emotion)),
        identity=float(np.mean(seen.identity @ portrait.identity[0])),
        jitter=jitter(seen.x, seen.y),
        sway=sway(seen.x, seen.y),
        seams=seams(frames, clip),
        by_second=tuple(float(x) for x in seconds),
    )


NUMBERS = (
    "lips",
    "lag",
    "lips_at_once",
    "loudness",
    "emotion",
    "identity",
    "jitter",
    "sway",
    "seams",
    "kept",
)


def summary(seeds: Sequence[Sequence[Figures]]) -> dict[str, tuple[float, float]]:
    """Name -> (mean over all videos, spread): the spread is the standard deviation of the seeds'
    means, 0 for one seed."""
    result = {}
    for name in NUMBERS:
        means = [float(np.mean([getattr(one, name) for one in videos])) for videos in seeds]
        spread = float(np.std(means, ddof=1)) if len(means) > 1 else 0.0
        result[name] = (float(np.mean(means)), spread)
    return result


def to_dict(one: Figures) -> dict[str, object]:
    """As JSON holds it."""
    return dataclasses.asdict(one)


def from_dict(values: Mapping[str, object]) -> Figures:
    """What `to_dict` gave."""
    fields: dict[str, Any] = dict(values)
    return Figures(**{**fields, "by_second": tuple(fields["by_second"])})
