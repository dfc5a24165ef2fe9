"""One training sample from a clip: a window, what came before it, a picture of the person."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int

from memo_jax.audio.timing import windows
from memo_jax.config import Config
from memo_jax.data.clip import BadRecord, Clip, read_frame
from memo_jax.errors import UserError

AUDIO_WINDOW = 5  # frames of sound around each frame of video

Form = Literal["images", "latents"]


@dataclass(frozen=True)
class WindowConfig(Config):
    """What a sample holds, and how it is drawn.

    Attributes:
      frames: of the target window.
      past_frames: before it; the most that training takes.
      form: "images", or "latents" where preparation stored them.
      decoupled: corpora whose reference must be another clip of the same person with another
        emotion (emotion decoupling, arXiv:2412.04448), in any case of letters.
      same_clip_fallback: where such a corpus has no such clip, take the reference from the same
        clip and count it; otherwise the clip is not used.
      still_past: probability that the past frames are copies of the first target frame.
      portrait_past: probability that the past frames are copies of the reference, as they are
        before the first clip of a video. With a decoupled reference, nothing but the label then
        tells of the target's emotion. 0, as published, leaves this case to generation.
      other_past: probability that the past frames are those before the reference, in its clip:
        a decoupled person moves there, and feels otherwise than the label says, as in a video
        that is to change its emotion. 0, as published, leaves this case to generation, too.
      audio_edge: probability that nothing is heard before the first target frame: the part of the
        audio windows left of it repeats it, as where a recording starts.
    """

    frames: int = 16
    past_frames: int = 48
    form: Form = "images"
    decoupled: tuple[str, ...] = ("MEAD",)
    same_clip_fallback: bool = False
    still_past: float = 0.05
    portrait_past: float = 0.0
    other_past: float = 0.0
    audio_edge: float = 0.05

    def __post_init__(self) -> None:
        if self.frames < 1 or self.past_frames < 0:
            raise UserError(
                f"{self.frames} frames and {self.past_frames} past ones, expected 1 and 0 at least"
            )
        if self.form not in get_args(Form):
            raise UserError(f"form {self.form!r}, expected {' or '.join(get_args(Form))}")
        for name in ("still_past", "portrait_past", "other_past", "audio_edge"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)}, expected 0 to 1")
        if self.portrait_past + self.other_past > 1:
            raise UserError(
                f"portrait_past {self.portrait_past} and other_past {self.other_past}, which "
                "exclude each other, expected 1 at most together"
            )


def cut(
    clip: Clip,
    rng: np.random.Generator,
    config: WindowConfig,
    other: Callable[[np.random.Generator], Clip | None],
) -> dict[str, np.ndarray]:
    """A sample at a random place of `clip`.

    Args:
      clip: as `decode` gives it.
      rng: all that is left to chance comes from it.
      config: what to draw.
      other: another clip of the same person with another emotion, drawn with the generator, or
        None where there is none; asked only for the corpora of `config.decoupled`.

    Returns:
      With f target and p past frames, the last of them just before the window (the clip's first
      frame where the clip does not reach back far enough):
        frames uint8 [f, s, s, 3], past [p, s, s, 3], reference [s, s, 3]; or of latents
        latents_mean and latents_std float32 [f, h, w, c], past_mean, past_std [p, h, w, c],
        reference_mean, reference_std [h, w, c];
        audio bfloat16 [f, 5, layers, channels]: around each target frame, from the whole clip;
        emotion int32: the class most frames of the window show, of equals the smallest;
        face float32 [d];
        fallback int32: 1 where the reference had to be of the same clip.

    Raises:
      BadRecord: the clip is shorter than the window, lacks what is read, or no label of the
        window is known; a picture is damaged; there is no other emotion.
    """
    n, f = clip.frames, config.frames
    if n < f:
        raise BadRecord("short", f"{n} frames, expected {f} at least")
    # Drawn whether needed or not, so that one choice does not move the next.
    start = int(rng.integers(n - f + 1))
    still, edge = rng.random(2) < (config.still_past, config.audio_edge)
    target = np.arange(start, start + f)
    past = np.maximum(np.arange(start - config.past_frames, start), 0)
    if still:
        past[:] = start
    whose, at, fallback = _reference(clip, start, rng, config, other)
    before = clip
    drawn = rng.random()
    if drawn < config.portrait_past:
        before, past = whose, np.full_like(past, at)
    elif drawn < config.portrait_past + config.other_past:
        before, past = whose, np.maximum(np.arange(at - config.past_frames, at), 0)
    heard = clip.audio[start:] if edge else clip.audio
    first = 0 if edge else start
    return {
        **_pictures((clip, target), (before, past), (whose, at), config.form),
        "audio": np.asarray(windows(heard, AUDIO_WINDOW, start=first, stop=first + f)),
        "emotion": np.asarray(_emotion(clip.emotion[target]), np.int32),
        "face": np.asarray(clip.face),
        "fallback": np.asarray(fallback, np.int32),
    }


def _reference(
    clip: Clip,
    start: int,
    rng: np.random.Generator,
    config: WindowConfig,
    other: Callable[[np.random.Generator], Clip | None],
) -> tuple[Clip, int, bool]:
    """The clip the reference is of, its frame there, and whether another clip was wanted."""
    decoupled = clip.corpus.casefold() in {name.casefold() for name in config.decoupled}
    if decoupled:
        found = other(rng)
        if found is not None:
            return found, int(rng.integers(found.frames)), False
        if not config.same_clip_fallback:
            raise BadRecord(
                "no-other-emotion",
                f"no clip of {clip.corpus} {clip.identity!r} but with {clip.clip_emotion!r}",
            )
    outside = clip.frames - config.frames
    if not outside:
        return clip, int(rng.integers(clip.frames)), decoupled
    at = int(rng.integers(outside))
    return clip, at + config.frames * (at >= start), decoupled


def _pictures(
    target: tuple[Clip, Int[np.ndarray, "f"]],
    past: tuple[Clip, Int[np.ndarray, "p"]],
    reference: tuple[Clip, int],
    form: Form,
) -> dict[str, np.ndarray]:
    """The frames at these places of these clips."""
    if form == "images":
        places = [(clip, i) for clip, indices in (target, past) for i in indices.tolist()]
        # Many past frames may be one frame: each is decoded once.
        each = {(id(clip), i): (clip, i) for clip, i in places}
        decoded = {key: read_frame(*place) for key, place in each.items()}
        pictures = np.stack([decoded[id(clip), i] for clip, i in places])
        frames, before = np.split(pictures, [len(target[1])])
        return {"frames": frames, "past": before, "reference": read_frame(*reference)}
    found: dict[str, np.ndarray] = {}
    for name, (of, indices) in (("latents", target), ("past", past), ("reference", reference)):
        found[f"{name}_mean"] = _stored(of.latents_mean, indices)
        found[f"{name}_std"] = _stored(of.latents_std, indices)
    return found


def _stored(latents: np.ndarray | None, indices: Any) -> np.ndarray:
    if latents is None:
        raise BadRecord("no-frames", "the clip has images alone, expected latents")
    return latents[indices].astype(np.float32)


def _emotion(labels: Int[np.ndarray, "f"]) -> int:
    known = labels[labels >= 0]
    if not len(known):
        raise BadRecord("no-emotion", "no frame of the window has a known emotion")
    return int(np.bincount(known).argmax())
