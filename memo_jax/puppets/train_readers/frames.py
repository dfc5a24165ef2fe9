"""Pictures for the readers: people in every state, and the damage that generated frames have."""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.puppets.clips import PuppetSet
from memo_jax.puppets.emotion import SHOWN, number
from memo_jax.puppets.identity import Identity, identity
from memo_jax.puppets.listen import mouth_from_sound
from memo_jax.puppets.motion import MANNERS, MOST, head_pose
from memo_jax.puppets.prosody import speaker
from memo_jax.puppets.readers import MARGIN
from memo_jax.puppets.train_readers.landmarks import landmarks
from memo_jax.puppets.truth import FIELDS, Truth
from memo_jax.puppets.voice import speak
from memo_jax.puppets.world import draw

Mouths = Float[np.ndarray, "m 3"]

_person = lru_cache(maxsize=16)(identity)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Frames with their truth.

    Attributes:
      frames: RGB.
      truth: in the order of `FIELDS`.
      person: the seeds.
    """

    frames: UInt8[np.ndarray, "n s s 3"]
    truth: Float[np.ndarray, "n k"]
    person: Int[np.ndarray, " n"]

    def landmarks(self) -> Float[np.ndarray, "n l 2"]:
        """Where each frame's `LANDMARKS` are."""
        found = []
        for row, seed in zip(self.truth, self.person, strict=True):
            truth = Truth.from_array(row[None], int(seed))
            found.append(landmarks(_person(int(seed)), truth, 0))
        return np.stack(found).astype(np.float32)

    def __len__(self) -> int:
        return len(self.frames)

    def field(self, name: str) -> Float[np.ndarray, " n"]:
        """One column of the truth."""
        return self.truth[:, FIELDS.index(name)]


def spoken_mouths(clips: int, rng: np.random.Generator) -> Mouths:
    """Opening, width and rounding as they go together in speech, 25 a second of 4 s clips."""
    found = []
    for _ in range(clips):
        who = speaker(int(rng.integers(2**31)))
        sound = speak(4.0, who, str(rng.choice(SHOWN)), float(rng.uniform(0.7, 1)), rng).sound
        mouth = mouth_from_sound(sound, SAMPLE_RATE, 25)
        found.append(np.stack([mouth.opening, mouth.width, mouth.rounding], axis=1))
    return np.concatenate(found)


def any_truth(person: int, n: int, mouths: Mouths, rng: np.random.Generator) -> Truth:
    """A person in n states that do not follow from one another.

    Most are as in clips (`memo_jax.puppets.clips.perform`), the others spread over all that can be
    drawn: wider poses, mouths of no sound, faint emotions. The first eight show different emotions.
    """
    order = np.concatenate([rng.permutation(len(SHOWN)) for _ in range(-(-n // len(SHOWN)))])
    rows = [_any_state(SHOWN[k], mouths, rng) for k in order[:n]]
    return Truth.from_array(np.array([[row[name] for name in FIELDS] for row in rows]), person)


def _any_state(emotion: str, mouths: Mouths, rng: np.random.Generator) -> dict[str, float]:
    faint = rng.uniform() < 0.15
    strength = float(rng.uniform(0, 0.6) if faint else rng.uniform(0.6, 1))
    if rng.uniform() < 0.6:
        opening, width, rounding = mouths[rng.integers(len(mouths))]
    else:
        opening = np.clip(rng.uniform(-0.1, 1.1), 0, 1)
        width = rng.uniform()
        rounding = max(0.0, rng.uniform(-0.7, 1)) * (width < 0.6)
    if rng.uniform() < 0.7:
        at, voice = np.array([rng.uniform(0, 4)]), np.array([opening])
        posed = head_pose(at, voice, MANNERS[emotion], strength, rng)
        pose = {name: float(value[0]) for name, value in posed.items()}
    else:
        pose = {name: float(rng.uniform(-most, most)) for name, most in MOST.items()}
        pose["scale"] += 1
    aside = rng.uniform() < 0.4
    return {
        "opening": float(opening),
        "width": float(width),
        "rounding": float(rounding),
        "emotion": float(number(emotion)),
        "intensity": strength * (emotion != "neutral"),
        **pose,
        "blink": float(np.clip(rng.uniform(-3.5, 1.5), 0, 1)),
        "gaze_x": float(aside * rng.uniform(-1, 1)),
        "gaze_y": float(aside * rng.uniform(-0.7, 0.7)),
        "loudness": -100.0,
    }


def training_pictures(person: int, n: int, mouths: Mouths, rng: np.random.Generator) -> Pictures:
    """A person in n states at 64 pixels, in about half of them before another background and in a
    quarter in other clothes: who it is should be read from the face."""
    truth = any_truth(person, n, mouths, rng)
    who = identity(person)
    frames = [draw(_elsewhere(who, rng), truth, i, 64) for i in range(n)]
    return Pictures(np.stack(frames), truth.to_array(), np.full(n, person))


def _elsewhere(who: Identity, rng: np.random.Generator) -> Identity:
    names: list[str] = []
    if rng.uniform() < 0.5:
        names += ["background", "background_colours"]
    if rng.uniform() < 0.25:
        names += ["clothes", "clothes_colour"]
    return _changed(who, names, rng)


def _changed(who: Identity, names: list[str], rng: np.random.Generator) -> Identity:
    """Someone with some things of somebody else, who is in no set."""
    other = identity(int(rng.integers(2**31, 2**32)))
    return dataclasses.replace(who, **{name: getattr(other, name) for name in names})


def clip_pictures(
    people: int, per_clip: int, seed: int = 0, *, elsewhere: bool = False
) -> Pictures:
    """Frames of held-out clips: the first `people` held out, a second of each of the eight
    emotions, `per_clip` frames from anywhere in it.

    Args:
      people: how many.
      per_clip: frames of each clip.
      seed: of the clips.
      elsewhere: before another background in every frame, where clips keep a person's own.
    """
    plan = PuppetSet(clips=people * len(SHOWN), seed=seed, seconds=1.0, held_out=True)
    rng = np.random.default_rng([seed, 0x0C11])
    frames, rows, seeds = [], [], []
    for i in range(plan.clips):
        truth = plan.take(i).truth
        who = identity(truth.seed)
        chosen = rng.choice(len(truth), per_clip, replace=False)
        for k in chosen:
            seen = _changed(who, ["background", "background_colours"], rng) if elsewhere else who
            frames.append(draw(seen, truth, int(k), 64))
        rows.append(truth.to_array()[chosen])
        seeds += [truth.seed] * per_clip
    return Pictures(np.stack(frames), np.concatenate(rows), np.array(seeds))


def blurred(
    frames: UInt8[np.ndarray, "n s s 3"], sigma: float, noise: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "n s s 3"]:
    """Gaussian blur of `sigma` pixels, then noise, as a share of white."""
    out = []
    for frame in frames:
        x: np.ndarray = frame.astype(np.float32)
        x = cv2.GaussianBlur(x, (0, 0), sigma) if sigma else x
        out.append(x + 255 * noise * rng.standard_normal(x.shape, np.float32))
    return _bytes(np.stack(out))


def damaged(
    frames: UInt8[np.ndarray, "n s s 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "n s s 3"]:
    """Each frame with damage of its own, a quarter of them with none: blur, detail lost in a
    smaller picture, brightness and tint, noise, JPEG."""
    return np.stack([_damaged(frame, rng) for frame in frames])


def shifted(
    frames: UInt8[np.ndarray, "n s s 3"], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "n s s 3"], Float[np.ndarray, "n 2"]]:
    """Each frame shifted by whole pixels, repeating its edge, and where its corner then lies."""
    at = rng.integers(-MARGIN, MARGIN + 1, (len(frames), 2))
    edge, size = (MARGIN, MARGIN), frames.shape[1]
    padded = np.pad(frames, ((0, 0), edge, edge, (0, 0)), mode="edge")
    out = [
        frame[MARGIN + y : MARGIN + y + size, MARGIN + x : MARGIN + x + size]
        for frame, (x, y) in zip(padded, at, strict=True)
    ]
    return np.stack(out), at.astype(np.float32)


def _damaged(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.uniform() < 0.25:
        return frame
    size = frame.shape[0]
    x: np.ndarray = frame.astype(np.float32)
    if rng.uniform() < 0.5:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.25, 1.1))
    elif rng.uniform() < 0.4:
        small = int(rng.integers(size // 2, size))
        x = cv2.resize(x, (small, small), interpolation=cv2.INTER_AREA)
        x = cv2.resize(x, (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.uniform() < 0.6:
        tint = rng.uniform(0.98, 1.02, 3).astype(np.float32)
        x = x * (np.float32(rng.uniform(0.92, 1.08)) * tint) + np.float32(rng.uniform(-10, 10))
    if rng.uniform() < 0.5:
        x = x + rng.standard_normal(x.shape, np.float32) * np.float32(rng.uniform(0, 7.5))
    out = _bytes(x)
    if rng.uniform() < 0.25:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 96))]
        out = np.asarray(cv2.imdecode(cv2.imencode(".jpg", out, quality)[1], cv2.IMREAD_COLOR))
    return out


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
