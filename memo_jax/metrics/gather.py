"""What remains of a set of videos while it streams by: moments, samples and means, no features."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Float

from memo_jax.metrics import sync
from memo_jax.metrics.frechet import Moments, Reservoir
from memo_jax.metrics.identity import cosines, drift
from memo_jax.metrics.meters import Arrays
from memo_jax.metrics.quality import NAMES, by_second

FRAMES_KEPT = 4096  # of each set for KID: 32 MiB
WINDOWS_KEPT = 8192  # of each set for FVD by count: 13 MiB


class Seconds:
    """Means over videos of what each second has, as far as videos reach."""

    def __init__(self) -> None:
        self._sum, self._count = np.zeros(0), np.zeros(0, np.int64)

    def add(self, values: Float[np.ndarray, " s"]) -> None:
        """A video's seconds; nan for those that have nothing."""
        missing = len(values) - len(self._sum)
        if missing > 0:
            self._sum = np.pad(self._sum, (0, missing))
            self._count = np.pad(self._count, (0, missing))
        known = np.isfinite(values)
        self._sum[: len(values)] += np.where(known, values, 0.0)
        self._count[: len(values)] += known

    def means(self) -> list[float]:
        """Up to the first second that no video has."""
        end = int(np.argmin(self._count > 0)) if not (self._count > 0).all() else len(self._sum)
        return [float(x) for x in self._sum[:end] / np.maximum(self._count[:end], 1)]


class Gathered:
    """One set of videos."""

    def __init__(self, fps: float):
        self._fps = fps
        self.videos = 0
        self.moments: dict[str, Moments] = {}
        self.samples: dict[str, Reservoir] = {}
        self.figures: dict[str, list[float]] = {}
        self.missing: dict[str, Counter[str]] = {}
        self.curves: dict[str, Seconds] = {}
        self.offsets: list[int] = []
        self.references: dict[str, np.ndarray] = {}

    def add(
        self,
        name: str,
        found: dict[str, Arrays],
        reference: np.ndarray | None,
        asked: int | None = None,
    ) -> dict:
        """Takes in a video's arrays; gives its figures, for a line about it.

        `reference` is the embedding of whom it should show, `asked` the class of the emotion.
        """
        self.videos += 1
        line: dict[str, Any] = {}
        if "fid" in found:
            self._features("fid", found["fid"]["features"], FRAMES_KEPT)
        if "fvd" in found:
            self._features("fvd", found["fvd"]["features"], WINDOWS_KEPT)
        if "expression" in found:
            self._features("expression", found["expression"]["coefficients"], 0)
        if "sync" in found:
            offset, confidence, distance, reason = found["sync"]["sync"]
            if reason:
                self._lacks("sync", sync.REASONS[int(reason)], line)
            else:
                self.offsets.append(int(offset))
                self._figures(line, offset=offset, sync_c=confidence, sync_d=distance)
        if "mouth" in found:
            score, late, reason = found["mouth"]["mouth"]
            if reason:
                self._lacks("mouth", sync.REASONS[int(reason)], line)
            else:
                self._figures(line, mouth=score, late=abs(late))
        if "identity" in found:
            self._identity(name, found["identity"], reference, line)
        if "emotion" in found:
            labels = found["emotion"]["labels"]
            if asked is None or not len(labels):
                self._lacks("emotion", "no emotion asked of it" if len(labels) else "no face", line)
            else:
                self._figures(line, emotion=float((labels == asked).mean()))
        if "quality" in found:
            seconds = by_second(found["quality"]["frames"].astype(np.float64), self._fps)
            for column, values in zip(NAMES, seconds.T, strict=True):
                self.curves.setdefault(column, Seconds()).add(values)
                self._figures(line, **{column: float(values.mean())})
        return line

    def mean(self, name: str) -> float | None:
        """Over videos; None where none has such a figure."""
        values = self.figures.get(name)
        return float(np.mean(values)) if values else None

    def count(self, name: str) -> int:
        """How many videos have such a figure."""
        return len(self.figures.get(name, ()))

    def _features(self, name: str, features: np.ndarray, kept: int) -> None:
        width = features.shape[1]
        self.moments.setdefault(name, Moments(width)).add(features)
        if kept:
            self.samples.setdefault(name, Reservoir(kept, width)).add(features)

    def _identity(
        self, name: str, arrays: Arrays, reference: np.ndarray | None, line: dict
    ) -> None:
        embeddings, seconds = arrays["embeddings"], arrays["seconds"]
        if not len(embeddings):
            self._lacks("identity", "no face", line)
            return
        self.references[name] = embeddings[0]
        own = drift(cosines(embeddings, embeddings[0]), seconds)
        self.curves.setdefault("identity kept", Seconds()).add(own)
        self._figures(line, kept=own[np.isfinite(own)][-1])
        if reference is None:
            self._lacks("identity", "no real video and no portrait of its name", line)
            return
        values = cosines(embeddings, reference)
        self._figures(line, identity=values.mean())
        self.curves.setdefault("identity", Seconds()).add(drift(values, seconds))

    def _figures(self, line: dict, **values: float) -> None:
        for key, value in values.items():
            self.figures.setdefault(key, []).append(float(value))
            line[key] = float(value)

    def _lacks(self, key: str, reason: str, line: dict) -> None:
        self.missing.setdefault(key, Counter())[reason] += 1
        line[f"{key}_missing"] = reason

    def lacking(self, key: str) -> str:
        """`2 without: no face; 1 without: no sound`, or nothing."""
        counts = self.missing.get(key, Counter())
        return "; ".join(f"{n} without: {reason}" for reason, n in counts.most_common())


def merged_curves(sets: dict[str, Gathered]) -> dict[str, dict[str, list[float]]]:
    """Curve -> set -> seconds, of those that have any."""
    names = dict.fromkeys(itertools.chain.from_iterable(one.curves for one in sets.values()))
    return {
        name: {key: one.curves[name].means() for key, one in sets.items() if name in one.curves}
        for name in names
    }
