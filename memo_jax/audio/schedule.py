"""Emotions chosen by hand: one for the whole recording, or one for each stretch of time."""

import difflib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from memo_jax.errors import UserError

FORMS = "a name, a number, or times such as 0-3:neutral,3-:happy"
SPAN = re.compile(r"(?P<start>\d*\.?\d*)\s*-\s*(?P<end>\d*\.?\d*)\s*:\s*(?P<emotion>.*)")


@dataclass(frozen=True)
class EmotionSpan:
    """`label` from `start` until `end`, in seconds; infinite where it lasts to the end."""

    start: float
    end: float
    label: int


@dataclass(frozen=True)
class EmotionSchedule:
    """Spans in order, without overlap. `neutral` is the label where nobody has one."""

    spans: tuple[EmotionSpan, ...]
    neutral: int
    duration: float

    @property
    def complete(self) -> bool:
        """Whether the spans leave no time of the recording open."""
        at = 0.0
        for span in self.spans:
            if span.start > at:
                return False
            at = span.end
        return at >= self.duration

    def labels(
        self, frames: int, fps: float, otherwise: Int[np.ndarray, "frames"] | None = None
    ) -> Int[np.ndarray, "frames"]:
        """The label at each frame's middle.

        Where no span applies it is that of `otherwise` (the detector's labels), or `neutral`.
        Frames after the recording belong to its last moment.
        """
        found = np.full(frames, self.neutral, np.int32)
        if otherwise is not None:
            found[:] = otherwise
        middles = np.minimum((np.arange(frames) + 0.5) / fps, np.nextafter(self.duration, 0.0))
        for span in self.spans:
            found[(middles >= span.start) & (middles < span.end)] = span.label
        return found


def parse_emotion(text: str, emotions: Sequence[str], duration: float) -> EmotionSchedule:
    """Reads `happy`, `3`, or `0-3:neutral,3-:happy`.

    Times are seconds from the start; a side left out is the recording's start or end. Times may
    leave gaps (`EmotionSchedule.complete`).

    Args:
      text: what the user wrote.
      emotions: the class names in order; a number counts from 0.
      duration: seconds of the recording.

    Raises:
      UserError: an emotion that is not there, a time that is none, empty, overlapping, or after
        the recording's end.
    """
    neutral = list(emotions).index("neutral") if "neutral" in emotions else 0
    if ":" not in text:
        spans = [EmotionSpan(0.0, math.inf, _label(text, emotions))]
        return EmotionSchedule(tuple(spans), neutral, duration)
    spans = sorted(
        (_span(part.strip(), emotions, duration) for part in text.split(",") if part.strip()),
        key=lambda span: span.start,
    )
    for before, after in itertools.pairwise(spans):
        if after.start < before.end:
            raise UserError(
                f"emotion {text!r}: {_time(before)} and {_time(after)} overlap; "
                "let each stretch end where the next one starts"
            )
    return EmotionSchedule(tuple(spans), neutral, duration)


def _span(text: str, emotions: Sequence[str], duration: float) -> EmotionSpan:
    match = SPAN.fullmatch(text)
    if not match or "." in (match["start"], match["end"]):
        raise UserError(f"emotion {text!r} is not understood; expected {FORMS}")
    start = float(match["start"] or 0.0)
    end = float(match["end"] or math.inf)
    if end <= start:
        raise UserError(f"emotion {text!r}: the time ends before it starts; expected {FORMS}")
    if start >= duration:
        raise UserError(
            f"emotion {text!r} starts at {start:g} s, but the recording lasts {duration:g} s; "
            "leave it out or let it start earlier"
        )
    return EmotionSpan(start, end, _label(match["emotion"], emotions))


def _label(text: str, emotions: Sequence[str]) -> int:
    word = text.strip().lower()
    if word in emotions:
        return list(emotions).index(word)
    if word.isascii() and word.isdigit() and len(word) < 10 and int(word) < len(emotions):
        return int(word)
    near = difflib.get_close_matches(word, emotions, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"no emotion {text.strip()!r}; {hint}expected one of {', '.join(emotions)}, "
        f"or a number from 0 to {len(emotions) - 1}"
    )


def _time(span: EmotionSpan) -> str:
    return f"{span.start:g}-" + ("" if math.isinf(span.end) else f"{span.end:g}")
