"""Whether lips and sound go together: by SyncNet, or by how the mouth moves with loudness."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.errors import UserError
from memo_jax.prepare.reasons import Reject

MOUTH = (0.2, 0.55, 0.8, 1.05)  # left, top, right and bottom of the mouth's part in a face's box
GRID = (16, 12)  # width and height at which it is looked at
COMPONENTS = 4
REACH = 0.6  # seconds of shift that are searched on both sides
SLOW = 1.0  # seconds: changes slower than this are the head's
FACE = 1.4  # SyncNet's crop over the face's box ...
LOWER = 0.2  # ... whose centre lies lower by this share of it, as its published pipeline cuts
SYNCNET_FPS, SYNCNET_SIDE = 25, 224


@dataclass(frozen=True)
class SyncConfig:
    """When lips and sound count as together.

    Attributes:
      confidence: SyncNet's least, where its weights are given; the paper's.
      correlation: without them, the least share of the changes in loudness that the mouth's
        movement explains, above what it explains at other shifts.
      correct: most seconds of shift that are corrected; 0 rejects all shifted clips.
      aligned: seconds of shift that count as none.
    """

    confidence: float = 5.0
    correlation: float = 0.2
    correct: float = 0.5
    aligned: float = 0.06

    def __post_init__(self) -> None:
        if self.correct < 0 or self.aligned < 0:
            raise UserError("sync: correct and aligned are seconds from 0")


@dataclass(frozen=True)
class Together:
    """What was found: `late` seconds by which the sound comes after the lips, and scores."""

    late: float
    scores: dict[str, float]


def mouth(picture: UInt8[np.ndarray, "h w 3"], box: Sequence[float]) -> UInt8[np.ndarray, "12 16"]:
    """The mouth's part of a picture, grey; `box` is the face's centre and side."""
    x, y, side = box
    left, top = x - side / 2, y - side / 2
    columns = slice(*_clipped(left + MOUTH[0] * side, left + MOUTH[2] * side, picture.shape[1]))
    rows = slice(*_clipped(top + MOUTH[1] * side, top + MOUTH[3] * side, picture.shape[0]))
    grey = cv2.cvtColor(np.ascontiguousarray(picture[rows, columns]), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, GRID, interpolation=cv2.INTER_AREA)


def moved(
    mouths: UInt8[np.ndarray, "n 12 16"],
    samples: Float[np.ndarray, " t"],
    fps: float,
    config: SyncConfig,
) -> Together:
    """The offline default, no replacement of SyncNet: the mouth's movement against loudness.

    The sound's loudness in each frame is fitted, at every shift, by the strongest components of
    how the mouth's pixels change. Where lips and sound are of each other, one shift stands out.

    Args:
      mouths: of every frame (`mouth`).
      samples: at 16 kHz, beginning `REACH` seconds before the first frame and ending as many
        after the last.
      fps: frames per second.
      config: thresholds.

    Returns:
      scores `mouth_loudness` and `sync_late`.

    Raises:
      Reject: no shift stands out, or one that is not to be corrected.
    """
    reach = round(REACH * fps)
    explained = fit(mouths, samples, fps, reach)
    best = int(np.argmax(explained))
    score = float(explained[best] - np.median(explained))
    late = _peak(explained, best, reach) / fps
    if score < config.correlation:
        raise Reject(
            "sync",
            f"the mouth explains {score:.2f} of the loudness, expected {config.correlation:g}",
        )
    return Together(_allowed(late, config), {"mouth_loudness": score, "sync_late": late})


def fit(
    mouths: UInt8[np.ndarray, "n 12 16"],
    samples: Float[np.ndarray, " t"],
    fps: float,
    reach: int,
) -> Float[np.ndarray, " shifts"]:
    """How much of the loudness the mouth explains (R squared), for shifts of -reach to reach
    frames; at positive ones the sound comes after the lips."""
    n = len(mouths)
    pixels = _quick(mouths.reshape(n, -1).astype(np.float64), fps)
    left, sizes, _ = np.linalg.svd(pixels, full_matrices=False)
    # Without movement there is nothing to explain by.
    used = left[:, :COMPONENTS][:, sizes[:COMPONENTS] > 1e-6 * n]
    basis = np.linalg.qr(np.concatenate([np.ones((n, 1)), used], axis=1))[0]
    loud = _quick(_loudness(samples, n + 2 * reach, fps, reach)[:, None], fps)[:, 0]
    out = []
    for shift in range(2 * reach + 1):
        y = loud[shift : shift + n]
        y = y - y.mean()
        total = float(y @ y)
        rest = y - basis @ (basis.T @ y)
        out.append(1 - float(rest @ rest) / total if total > 1e-9 else 0.0)
    return np.array(out)


def syncnet_crop(
    picture: UInt8[np.ndarray, "h w 3"], box: Sequence[float]
) -> UInt8[np.ndarray, "224 224 3"]:
    """The face as SyncNet's published pipeline cuts it; `box` is the face's centre and side."""
    x, y, side = box
    wide = FACE * side
    scale = SYNCNET_SIDE / wide
    corner = (x - wide / 2, y + LOWER * side - wide / 2)
    move = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]])
    return cv2.warpAffine(
        picture,
        move,
        (SYNCNET_SIDE, SYNCNET_SIDE),
        flags=cv2.INTER_LINEAR,
        borderValue=(110, 110, 110),
    )


class SyncNet:
    """SyncNet with weights that the user has."""

    def __init__(self, weights: str):
        from memo_jax.judges import syncnet

        self._judge = syncnet.load(weights)

    def __call__(
        self,
        crops: UInt8[np.ndarray, "n 224 224 3"],
        samples: Float[np.ndarray, " t"],
        config: SyncConfig,
    ) -> Together:
        """Crops at 25 fps (`syncnet_crop`) against sound at 16 kHz that begins with the first.

        Returns:
          scores `syncnet_confidence`, `syncnet_distance`, `sync_late`.

        Raises:
          Reject: below the threshold, or a shift that is not to be corrected.
        """
        found = self._judge.judge(crops, samples)
        if found.confidence < config.confidence:
            raise Reject("sync", f"SyncNet {found.confidence:.2f}, expected {config.confidence:g}")
        late = -found.offset_frames / SYNCNET_FPS
        scores = {
            "syncnet_confidence": found.confidence,
            "syncnet_distance": found.distance,
            "sync_late": late,
        }
        return Together(_allowed(late, config), scores)


def _allowed(late: float, config: SyncConfig) -> float:
    """The shift to undo; raises Reject for one that is too large."""
    if abs(late) <= config.aligned:
        return 0.0
    if abs(late) > config.correct:
        raise Reject(
            "offset", f"the sound is {late:+.2f} s late, up to {config.correct:g} s is corrected"
        )
    return late


def _peak(values: Float[np.ndarray, " k"], best: int, zero: int) -> float:
    """Where a parabola through the best value and its neighbours has its top, less `zero`."""
    if not 0 < best < len(values) - 1:
        return float(best - zero)
    a, b, c = values[best - 1 : best + 2]
    bend = a - 2 * b + c
    return best - zero + (0.5 * float((a - c) / bend) if bend < 0 else 0.0)


def _quick(values: Float[np.ndarray, "n k"], fps: float) -> Float[np.ndarray, "n k"]:
    """Without what changes more slowly than `SLOW`."""
    half = max(1, round(SLOW * fps / 2))
    weights = np.hanning(2 * half + 3)[1:-1]
    padded = np.pad(values, ((half, half), (0, 0)), mode="edge")
    kernel = weights / weights.sum()
    slow = np.stack([np.convolve(column, kernel, "valid") for column in padded.T], axis=1)
    return values - slow


def _loudness(
    samples: Float[np.ndarray, " t"], frames: int, fps: float, before: int
) -> Float[np.ndarray, " n"]:
    """log10 of the power around each frame's time; frame `before` begins REACH seconds in."""
    half = SAMPLE_RATE // 50
    middles = (REACH + (np.arange(frames) - before) / fps) * SAMPLE_RATE
    sums = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    low = np.clip(np.rint(middles) - half, 0, len(samples)).astype(np.int64)
    high = np.clip(np.rint(middles) + half, 0, len(samples)).astype(np.int64)
    power = (sums[high] - sums[low]) / np.maximum(high - low, 1)
    return np.log10(power + 1e-6)


def _clipped(low: float, high: float, length: int) -> tuple[int, int]:
    """A range of at least one pixel inside [0, length)."""
    first = min(max(round(low), 0), length - 1)
    return first, max(first + 1, min(round(high), length))
