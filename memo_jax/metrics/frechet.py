"""Distances between two sets of features: Fréchet's, from moments, and the kernel's, from samples.

All in float64: the covariances of 2,048 features are nearly singular, and differences of traces
lose what float32 has.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float

from memo_jax.errors import UserError

# Of the kernel distance, as published (arXiv:1801.01401).
BLOCK = 1000
BLOCKS = 100


class Moments:
    """Mean and covariance of features that come a few at a time.

    Batches are merged by Chan's rule (Chan, Golub and LeVeque, 1979), so that the result does not
    depend on how features are split beyond rounding, and no sum of squares is ever subtracted.
    """

    def __init__(self, width: int):
        self.count = 0
        self.mean = np.zeros(width)
        self._scatter = np.zeros((width, width))

    def add(self, features: Float[np.ndarray, "n d"]) -> None:
        """Takes in a batch; an empty one changes nothing."""
        if len(features) == 0:
            return
        batch = np.asarray(features, np.float64)
        mean = batch.mean(axis=0)
        centred = batch - mean
        self._merge(len(batch), mean, centred.T @ centred)

    def merge(self, other: Self) -> None:
        """Takes in all that another one has seen."""
        if other.count:
            self._merge(other.count, other.mean, other._scatter)

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        apart, total = mean - self.mean, self.count + count
        self._scatter += scatter
        if self.count:
            self._scatter += np.outer(apart * (self.count * count / total), apart)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Of the sample, divided by one less than the count.

        Raises:
          UserError: fewer than two features.
        """
        if self.count < 2:
            raise UserError(f"a covariance of {self.count} features; expected two at least")
        return self._scatter / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """The Fréchet distance of two Gaussians: |m - n|^2 + tr(A + B - 2 (A B)^(1/2)).

    Raises:
      UserError: fewer than two features in a set.
    """
    return distance_of(a.mean, a.covariance, b.mean, b.covariance)


def distance_of(
    mean_a: Float[np.ndarray, " d"],
    covariance_a: Float[np.ndarray, "d d"],
    mean_b: Float[np.ndarray, " d"],
    covariance_b: Float[np.ndarray, "d d"],
) -> float:
    """The distance from means and covariances (arXiv:1706.08500, equation 6).

    (A B)^(1/2) is not taken of the product, which is not symmetric and has no reliable root where
    A is nearly singular: its trace is that of (R^T B R)^(1/2) with A = R R^T, which is symmetric.
    R leaves out what of A lies below rounding, so that nothing has to be added to a diagonal.
    """
    apart = np.asarray(mean_a, np.float64) - mean_b
    values, vectors = np.linalg.eigh(covariance_a)
    kept = values > len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    root = vectors[:, kept] * np.sqrt(values[kept])
    inner = root.T @ covariance_b @ root
    overlap = np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0.0, None)).sum()
    total = apart @ apart + np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * overlap
    return float(max(total, 0.0))  # equal sets come out a rounding below 0


class Reservoir:
    """A fair sample of features that come a few at a time, and never more than `size` of them.

    Which ones are kept follows from `seed` and the order in which they come (Vitter's algorithm R).
    """

    def __init__(self, size: int, width: int, seed: int = 0):
        self.seen = 0
        self._size = size
        self._kept = np.empty((0, width), np.float32)
        self._rng = np.random.default_rng(seed)
        self._seed = seed

    def add(self, features: Float[np.ndarray, "n d"]) -> None:
        """Takes in a batch."""
        free = self._size - len(self._kept)
        first, rest = features[:free], features[free:] if free else features
        if len(first):
            self._kept = np.concatenate([self._kept, np.asarray(first, np.float32)])
            self.seen += len(first)
        if len(rest):
            at = self._rng.integers(0, self.seen + np.arange(len(rest)) + 1)
            for row in np.flatnonzero(at < self._size):  # in order: a later one replaces
                self._kept[at[row]] = rest[row]
            self.seen += len(rest)

    def sample(self) -> Float[np.ndarray, "k d"]:
        """What was kept, in an order drawn by the seed, so that its beginning is a sample too."""
        order = np.random.default_rng([self._seed, 1]).permutation(len(self._kept))
        return self._kept[order]


@dataclass(frozen=True)
class Kernel:
    """A kernel distance: mean and standard deviation over blocks, and what a block held."""

    mean: float
    deviation: float
    block: int


def kernel_distance(
    a: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, "m d"],
    *,
    block: int = BLOCK,
    blocks: int = BLOCKS,
    seed: int = 0,
) -> Kernel:
    """The kernel distance (KID): the squared MMD under (x·y/d + 1)^3, without bias.

    Unlike Fréchet's it does not grow as samples become few, only less sure. Blocks are drawn
    without repetition within each; they hold `block` features, or all of the smaller set.

    Raises:
      UserError: fewer than two features in a set.
    """
    size = min(block, len(a), len(b))
    if size < 2:
        raise UserError(f"a kernel distance of {size} features; expected two at least")
    rng, found = np.random.default_rng(seed), []
    for _ in range(blocks if size < max(len(a), len(b)) else 1):
        x = np.asarray(a[rng.choice(len(a), size, replace=False)], np.float64)
        y = np.asarray(b[rng.choice(len(b), size, replace=False)], np.float64)
        found.append(_mmd(x, y))
    return Kernel(float(np.mean(found)), float(np.std(found)), size)


def _mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> float:
    def kernel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        base = u @ v.T / u.shape[1] + 1.0
        return base * base * base  # many times faster than a power

    n = len(x)
    own = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y))) / (n * (n - 1))
    return float(own - 2.0 * kernel(x, y).mean())


def by_count(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], least: int = 32
) -> list[tuple[int, float]]:
    """(count, Fréchet distance) for the first 32, 64, 128, ... of both sets: it falls as the
    covariances become known, and where it has not levelled off it is no figure to compare."""
    counts, count = [], least
    while count <= min(len(a), len(b)):
        counts.append(count)
        count *= 2
    found = []
    for count in counts:
        moments = []
        for features in (a, b):
            one = Moments(features.shape[1])
            one.add(features[:count])
            moments.append(one)
        found.append((count, frechet_distance(*moments)))
    return found
