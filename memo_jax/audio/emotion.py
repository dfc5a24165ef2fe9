"""Emotion labels: heard in the sound second by second, spread over frames, one for each clip."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.errors import UserError

EMOTIONS = (
    "angry",
    "disgusted",
    "fearful",
    "happy",
    "neutral",
    "other",
    "sad",
    "surprised",
    "unknown",
)
"""The classes in the order of emotion2vec's published labels.

The release of MEMO numbers its classes and names none; its detector was built on emotion2vec, and
nine classes are emotion2vec's. A number therefore means what the weights make of it, and a name is
our reading.
"""

LENGTHS = (SAMPLE_RATE // 2, SAMPLE_RATE, 2 * SAMPLE_RATE, 3 * SAMPLE_RATE)
"""Samples to which shorter windows are padded for the detector."""

EmotionTimes = Literal["released", "exact"]


class EmotionWindow(NamedTuple):
    """Samples [start, stop) are heard, and samples [label_start, label_stop) get the label."""

    start: int
    stop: int
    label_start: int
    label_stop: int


def emotion_windows(n_samples: int, sample_rate: int = SAMPLE_RATE) -> list[EmotionWindow]:
    """The windows of a recording, in order; where two label the same sample, the later one counts.

    Each second hears the second before and after it; the first and the last hear two seconds. A
    recording of under two seconds is heard whole, twice. As released.

    Raises:
      UserError: an empty recording.
    """
    if n_samples < 1:
        raise UserError("the recording is empty, expected at least one sample of sound")
    sr, n = sample_rate, n_samples
    found = [EmotionWindow(0, min(2 * sr, n), 0, min(sr, n))]
    for start in range(sr, n - sr, sr):
        found.append(EmotionWindow(start - sr, min(start + 2 * sr, n), start, start + sr))
    found.append(EmotionWindow(max(0, n - 2 * sr), n, max(0, n - sr), n))
    return found


def detect_labels(
    samples: Float[np.ndarray, "n"],
    classify: Callable[[Float[np.ndarray, "b k"]], Float[Array, "b classes"]],
    *,
    sample_rate: int = SAMPLE_RATE,
    batch: int = 8,
) -> Int[np.ndarray, "windows"]:
    """The most probable class of every window of `emotion_windows`.

    Args:
      samples: mono, the original recording.
      classify: probabilities of windows that have mean 0 and variance 1. It is called with at
        most three lengths: two seconds, three, and that of a window cut by the end.
      sample_rate: Hz.
      batch: windows per call.
    """
    spans = emotion_windows(len(samples), sample_rate)
    labels = np.zeros(len(spans), np.int32)
    by_length: dict[int, list[int]] = {}
    for i, span in enumerate(spans):
        by_length.setdefault(span.stop - span.start, []).append(i)
    for same in by_length.values():
        size = min(batch, len(same))
        for at in range(0, len(same), size):
            chosen = same[at : at + size]
            # The last call is filled up, so that one length is compiled once.
            filled = chosen + chosen[-1:] * (size - len(chosen))
            heard = np.stack([_normalised(samples[spans[i].start : spans[i].stop]) for i in filled])
            labels[chosen] = np.argmax(np.asarray(classify(heard)), axis=-1)[: len(chosen)]
    return labels


def _normalised(window: np.ndarray) -> np.ndarray:
    """Layer norm over the window's length, eps 1e-5."""
    x = np.asarray(window, np.float64)
    return ((x - x.mean()) / np.sqrt(x.var() + 1e-5)).astype(np.float32)


def expand_labels(
    window_labels: Int[np.ndarray, "windows"],
    n_samples: int,
    frames: int,
    *,
    fps: float,
    emotion_times: EmotionTimes = "released",
    sample_rate: int = SAMPLE_RATE,
) -> Int[np.ndarray, "frames"]:
    """A label for each video frame.

    "released" spreads the samples' labels evenly over all frames: where frames were added to fill
    the last clip, labels come late by up to a clip. "exact" takes the label at the frame's middle;
    added frames keep the last one.

    Args:
      window_labels: one for each of `emotion_windows(n_samples)`.
      n_samples: samples of the recording, without padding.
      frames: video frames, with those that fill the last clip.
      fps: frames per second.
      emotion_times: "released" or "exact".
      sample_rate: Hz.
    """
    if emotion_times not in get_args(EmotionTimes):
        raise ValueError(f"emotion_times {emotion_times!r}")
    spans = emotion_windows(n_samples, sample_rate)
    if len(window_labels) != len(spans):
        raise ValueError(f"{len(window_labels)} labels for {len(spans)} windows")
    if emotion_times == "released":
        # PyTorch's nearest neighbour, in float32 as there.
        step = np.float32(n_samples) / np.float32(frames)
        at = np.floor(np.arange(frames, dtype=np.float32) * step).astype(np.int64)
    else:
        at = ((np.arange(frames) + 0.5) / fps * sample_rate).astype(np.int64)
    at = np.minimum(at, n_samples - 1)
    # Label ranges start in order, and each lasts until the next one starts.
    starts = np.array([span.label_start for span in spans])
    return np.asarray(window_labels, np.int32)[np.searchsorted(starts, at, side="right") - 1]


def clip_labels(
    frame_labels: Int[np.ndarray, "frames"], clip_frames: int
) -> Int[np.ndarray, "clips"]:
    """The commonest label of each clip; of equally common ones the smallest.

    The frames must fill whole clips.
    """
    labels = np.asarray(frame_labels)
    if len(labels) % clip_frames:
        raise ValueError(f"{len(labels)} frames are no whole clips of {clip_frames}")
    clips = labels.reshape(-1, clip_frames)
    return np.array([np.bincount(clip).argmax() for clip in clips], np.int32)


class EmotionDetector:
    """Hears emotions: emotion2vec, its features' mean over time, and a classifier."""

    def __init__(self, features: nnx.Module, classifier: nnx.Module, *, shortest: int = 400):
        """`features` is an Emotion2Vec, `classifier` maps [b,w] to probabilities [b,classes].

        Windows of fewer than `shortest` samples (`Emotion2VecConfig.shortest`) are filled up with
        silence.
        """
        self.shortest = shortest
        split = [nnx.split(module) for module in (features, classifier)]
        self._params = [nnx.to_pure_dict(state) for _, state in split]
        graphs = [graph for graph, _ in split]

        @jax.jit
        def classify(params: list, heard: Array, real: Array) -> Array:
            parts: list[Any] = [nnx.merge(g, p) for g, p in zip(graphs, params, strict=True)]
            hear, judge = parts
            return judge(hear.mean(heard, real))

        self._classify = classify

    def __call__(self, samples: Float[np.ndarray, "n"]) -> Int[np.ndarray, "windows"]:
        """The label of every window of a recording at 16 kHz (`emotion_windows`).

        Raises:
          UserError: an empty recording.
        """
        return detect_labels(samples, self.probabilities)

    def probabilities(self, heard: Float[np.ndarray, "b k"]) -> Float[Array, "b classes"]:
        """Class probabilities of normalised windows of one length.

        Windows are padded to one of `LENGTHS`, and their number to a power of two, so that
        recordings of all lengths go through a handful of programs.
        """
        rows, own = len(heard), max(self.shortest, heard.shape[1])
        length = next((n for n in LENGTHS if n >= own), own)
        more = (1 << (rows - 1).bit_length()) - rows
        wide = np.pad(heard, ((0, more), (0, length - heard.shape[1])))
        real = np.full(rows + more, own, np.int32)
        return self._classify(self._params, wide, real)[:rows]
