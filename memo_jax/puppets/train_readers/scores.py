"""How well readings agree with the truth: R2, accuracy, and the equal error rate of identities."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from memo_jax.puppets.readers import NUMBERS, Reading
from memo_jax.puppets.train_readers.frames import Pictures


@dataclass(frozen=True)
class Scores:
    """Of readings of many pictures.

    Attributes:
      r2: share of the variance that is read, for each of `NUMBERS`.
      emotion: share of the frames whose emotion is read.
      identity: equal error rate of telling who is the same, 0 to 1.
    """

    r2: dict[str, float]
    emotion: float
    identity: float

    def line(self) -> str:
        """All of it in one line."""
        r2 = ", ".join(f"{name} {value:.4f}" for name, value in self.r2.items())
        return f"R2 {r2}; emotion {100 * self.emotion:.2f} %; identity {100 * self.identity:.2f} %"


def scores(reading: Reading, pictures: Pictures) -> Scores:
    """How well pictures were read."""
    emotion = pictures.field("emotion").astype(np.int64)
    return Scores(
        r2={name: r2(getattr(reading, name), pictures.field(name)) for name in NUMBERS},
        emotion=float(np.mean(reading.shown == emotion)),
        identity=identity_error(reading.identity, pictures.person, emotion),
    )


def r2(read: Float[np.ndarray, " n"], true: Float[np.ndarray, " n"]) -> float:
    """1 less the squared error over the variance of the truth."""
    true = np.asarray(true, np.float64)
    return float(1 - np.mean((read - true) ** 2) / np.var(true))


def identity_error(
    embeddings: Float[np.ndarray, "n d"], person: Int[np.ndarray, " n"], emotion: np.ndarray
) -> float:
    """Equal error rate over all pairs of pictures with different emotions, of the same person
    against different people."""
    likeness = embeddings @ embeddings.T
    counted = np.triu(emotion[:, None] != emotion[None, :], 1)
    same = person[:, None] == person[None, :]
    return equal_error_rate(likeness[counted & same], likeness[counted & ~same])


def equal_error_rate(same: Float[np.ndarray, " n"], other: Float[np.ndarray, " m"]) -> float:
    """Where as large a share of the same is below the threshold as of the others above it."""
    values = np.concatenate([same, other])
    order = np.argsort(values, kind="stable")
    is_same: Bool[np.ndarray, " k"] = order < len(same)
    missed = np.cumsum(is_same) / len(same)
    taken = 1 - np.cumsum(~is_same) / len(other)
    at = int(np.argmin(np.abs(missed - taken)))
    return float((missed[at] + taken[at]) / 2)
