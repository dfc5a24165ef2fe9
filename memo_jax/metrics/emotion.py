"""Emotion accuracy: does a face show the emotion that was asked for?

The paper publishes no judge of faces; what it gives the accuracy of is its detector on labelled
sound. Here the judge is the user's own, or that of drawn faces (`memo_jax.evaluate.shown`), and
the emotions asked for are a list by the videos' names.
"""

import csv
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8

from memo_jax.errors import UserError
from memo_jax.io.boxes import Face
from memo_jax.io.paths import fail
from memo_jax.metrics.face_network import FaceNetwork, cut_face
from memo_jax.metrics.meters import Arrays
from memo_jax.metrics.videos import Chunk
from memo_jax.prepare.media import Sound
from memo_jax.weights.cache import sha256

COLUMNS = ("name", "emotion")


class EmotionJudge(Protocol):
    """Says which emotion pictures show. `key` tells it from others; `batch` pictures go through
    at once."""

    key: str
    classes: tuple[str, ...]
    batch: int

    def prepared(
        self, frame: UInt8[np.ndarray, "h w 3"], face: Face | None
    ) -> UInt8[np.ndarray, "s s 3"] | None:
        """What it wants to see of a frame; None where there is nothing to judge."""

    def __call__(self, pictures: UInt8[np.ndarray, "n s s 3"]) -> Int[np.ndarray, " n"]:
        """The class of each."""


class OnnxEmotions:
    """A classifier of faces as ONNX (`FaceNetwork`), whose largest output is the class."""

    batch = 1

    def __init__(self, path: str | os.PathLike[str], classes: Sequence[str]):
        """`classes` in the order of its outputs.

        Raises:
          UserError: no such file, no such model, or another number of outputs.
        """
        self._network = FaceNetwork(path, "emotion judge")
        self.classes = tuple(classes)
        if self._network.width != len(self.classes) or len(set(self.classes)) < 2:
            raise fail(
                f"{self._network.name} gives {self._network.width} numbers, and the classes are "
                f"{', '.join(self.classes) or 'none'}; name as many, each once, in their order"
            )
        self.key = f"onnx {sha256(Path(path))}"

    def prepared(
        self, frame: UInt8[np.ndarray, "h w 3"], face: Face | None
    ) -> UInt8[np.ndarray, "256 256 3"] | None:
        """The face, cut out."""
        return None if face is None else cut_face(frame, face)

    def __call__(self, pictures: UInt8[np.ndarray, "n s s 3"]) -> Int[np.ndarray, " n"]:
        """The class of each."""
        return np.array([int(self._network(one).argmax()) for one in pictures], np.int64)


class Emotion:
    """`labels` int64 [k]: the class that each sampled frame shows, of those with a face."""

    name = "emotion"
    hears = False

    def __init__(self, judge: EmotionJudge):
        self.judge = judge
        self.key = f"emotion {judge.key}"

    def start(self, sound: Sound | None, fps: float) -> "_Emotion":
        return _Emotion(self.judge)


class _Emotion:
    def __init__(self, judge: EmotionJudge):
        self._judge = judge
        self._waiting: list[np.ndarray] = []
        self._found = [np.empty(0, np.int64)]

    def add(self, chunk: Chunk) -> None:
        for i in chunk.sampled:
            picture = self._judge.prepared(chunk.frames[i], chunk.faces.get(i))
            if picture is not None:
                self._waiting.append(picture)
            if len(self._waiting) == self._judge.batch:
                self._run()

    def _run(self) -> None:
        if self._waiting:
            self._found.append(self._judge(np.stack(self._waiting)))
            self._waiting = []

    def finish(self) -> Arrays:
        self._run()
        return {"labels": np.concatenate(self._found)}


def read_asked(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """Name -> emotion, of a CSV with the columns name (of a video, without its suffix) and emotion.

    Raises:
      UserError: no such file, other columns, a name twice, or an emotion that is no class.
    """
    found: dict[str, str] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or set(COLUMNS) - set(rows.fieldnames):
                raise UserError(f"emotions {str(path)!r} have not the columns {', '.join(COLUMNS)}")
            for row in rows:
                name, emotion = (str(row[column] or "").strip() for column in COLUMNS)
                if emotion not in classes:
                    near = difflib.get_close_matches(emotion, classes, n=1)
                    hint = f"; did you mean {near[0]!r}?" if near else ""
                    raise UserError(
                        f"emotions {str(path)!r} ask {emotion!r} of {name!r}; expected one of "
                        f"{', '.join(classes)}{hint}"
                    )
                if not name or found.setdefault(name, emotion) != emotion:
                    raise UserError(
                        f"emotions {str(path)!r} ask two of {name!r}; expected one row for each"
                        if name
                        else f"emotions {str(path)!r} have a row without a name"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise fail(f"emotions {str(path)!r} cannot be read", error) from error
    return found
