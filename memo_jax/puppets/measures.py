"""Figures of generated puppets, from what the readers see and what was asked for."""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from memo_jax.errors import UserError


@dataclass(frozen=True)
class Lips:
    """How a mouth follows the truth.

    Attributes:
      correlation: Pearson's, of the opening read with the true one, at `lag`.
      lag: frames by which the mouth is late; early below 0. Where it correlates best.
      at_once: the correlation without a shift.
    """

    correlation: float
    lag: int
    at_once: float


def lips(
    read: Float[np.ndarray, " n"], truth: Float[np.ndarray, " m"], *, furthest: int = 5
) -> Lips:
    """The best correlation among shifts of up to `furthest` frames to both sides.

    A mouth, or a truth, that never moves correlates with nothing: 0 at lag 0.

    Raises:
      UserError: different lengths, or too few frames to shift them.
    """
    read, truth = np.asarray(read, np.float64), np.asarray(truth, np.float64)
    n = len(read)
    if len(truth) != n or n < furthest + 2:
        raise UserError(
            f"{n} frames read and {len(truth)} true ones, expected as many, and at least "
            f"{furthest + 2}"
        )
    found = {}
    for lag in sorted(range(-furthest, furthest + 1), key=abs):
        late, early = max(lag, 0), max(-lag, 0)
        found[lag] = _correlation(read[late : n - early], truth[early : n - late])
    best = max(found, key=lambda lag: found[lag])  # of equals the smallest shift
    return Lips(found[best], best, found[0])


def identity_by_second(
    embeddings: Float[np.ndarray, "n d"], fps: float, to: Float[np.ndarray, " d"] | None = None
) -> Float[np.ndarray, " seconds"]:
    """Mean cosine of each whole second's frames with a person.

    Args:
      embeddings: of the frames, of length 1, as `Reading.identity`.
      fps: frames per second.
      to: the person's embedding; the mean of the first second's unless given.

    Raises:
      UserError: there is no whole second.
    """
    seconds = int(len(embeddings) / fps)
    if not seconds:
        raise UserError(f"{len(embeddings)} frames at {fps:g} a second, expected a second at least")
    ends = np.rint(np.arange(seconds + 1) * fps).astype(int)
    person = embeddings[: ends[1]].mean(axis=0) if to is None else np.asarray(to)
    cosines = embeddings @ (person / np.linalg.norm(person))
    return np.array([cosines[a:b].mean() for a, b in itertools.pairwise(ends)])


def emotion_accuracy(shown: Int[np.ndarray, " n"], asked: Int[np.ndarray, " n"] | int) -> float:
    """The share of frames that show what was asked for, as classes of `EMOTIONS`."""
    return float(np.mean(np.asarray(shown) == asked))


def jitter(*tracks: Float[np.ndarray, " n"]) -> float:
    """Root mean square of the tracks' second differences from frame to frame: 0 for still heads and
    for any that move evenly.

    Tracks are of one unit, such as the head's place as a share of the picture.

    Raises:
      UserError: fewer than three frames.
    """
    if min(len(track) for track in tracks) < 3:
        raise UserError("jitter is of three frames at least")
    bends = np.concatenate([np.diff(np.asarray(track, np.float64), n=2) for track in tracks])
    return float(np.sqrt(np.mean(np.square(bends))))


def sway(*tracks: Float[np.ndarray, " n"]) -> float:
    """Root mean square of how far the tracks are from their means: 0 for still heads.

    Tracks are of one unit, such as the head's place as a share of the picture.

    Raises:
      UserError: no frames.
    """
    if min(len(track) for track in tracks) < 1:
        raise UserError("sway is of one frame at least")
    return float(np.sqrt(np.mean([np.var(np.asarray(t, np.float64)) for t in tracks])))


def seams(frames: UInt8[np.ndarray, "n s s 3"], clip: int) -> float:
    """How much more the picture changes from a clip's last frame to the next one's first than from
    frame to frame inside a clip: 1 where nobody could tell clips apart; mean absolute differences.

    Not a number where there is one clip only, or nothing changes inside.

    Args:
      clip: frames of a clip.
    """
    changes = np.array(
        [np.mean(np.abs(b.astype(np.int16) - a)) for a, b in itertools.pairwise(frames)]
    )
    between = np.arange(1, len(frames)) % clip == 0
    inside = changes[~between].mean() if not between.all() else 0.0
    return float(changes[between].mean() / inside) if between.any() and inside else float("nan")


def _correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt(np.sum(a * a) * np.sum(b * b))
    return float(np.sum(a * b) / norm) if norm > 0 else 0.0
