"""Whole clips: a person, an emotion and a sound become pictures, a truth, and a record."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.audio.logmel import LogMelConfig, log_mel
from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.data.clip import BFLOAT16, Clip, Source
from memo_jax.data.record import encode
from memo_jax.errors import UserError
from memo_jax.pipeline.scene import pixel_identity
from memo_jax.prepare.sound import flac
from memo_jax.puppets import beds, espeak
from memo_jax.puppets.emotion import SHOWN, number
from memo_jax.puppets.identity import HELD_OUT
from memo_jax.puppets.listen import mouth_from_sound
from memo_jax.puppets.motion import MANNERS, blinks, gaze, head_pose
from memo_jax.puppets.prosody import speaker
from memo_jax.puppets.truth import Truth, attach
from memo_jax.puppets.voice import speak
from memo_jax.puppets.world import render

CORPUS = "puppets"
FACE = 192
"""Numbers of the face embedding: the picture at 8x8 (`memo_jax.pipeline.scene.pixel_identity`)."""

SPEECH = ("synth", "espeak")


@dataclass(frozen=True, eq=False)
class Take:
    """A clip that is not drawn yet.

    Attributes:
      truth: of every frame.
      sound: at 16 kHz, as it is heard: the voice, and what lies under it.
      voice: the voice alone.
      fps: frames per second.
      strength: of the emotion in the voice.
      snr: dB of the voice over what lies under it; infinite for nothing.
    """

    truth: Truth
    sound: Float[np.ndarray, " samples"]
    voice: Float[np.ndarray, " samples"]
    fps: float
    strength: float = 1.0
    snr: float = np.inf


def perform(
    person: int,
    emotion: str,
    voice: Float[np.ndarray, " samples"],
    fps: float,
    rng: np.random.Generator,
    *,
    strength: float = 1.0,
    frames: int | None = None,
) -> Truth:
    """How a person speaks a sound with an emotion.

    Args:
      person: the identity's seed.
      emotion: one of `SHOWN`.
      voice: speech alone at 16 kHz, at its level (`memo_jax.puppets.listen.levelled`).
      fps: frames per second.
      rng: all that is left to chance comes from it.
      strength: of the emotion, 0 to 1; it drifts by a tenth.
      frames: how many; by default as many as the sound lasts for.

    Raises:
      UserError: no such emotion.
    """
    if emotion not in SHOWN:
        raise UserError(f"no emotion {emotion!r} of puppets; expected one of {', '.join(SHOWN)}")
    mouth = mouth_from_sound(voice, SAMPLE_RATE, fps, frames)
    n = len(mouth.opening)
    times = (np.arange(n) + 0.5) / fps
    manner = MANNERS[emotion]
    drift = np.sin(2 * np.pi * rng.uniform(0.1, 0.3) * times + rng.uniform(0, 2 * np.pi))
    intensity = np.clip(strength * (1 - 0.05 * (1 + drift)), 0, 1) * (emotion != "neutral")
    look = gaze(times, rng)
    return Truth(
        opening=mouth.opening,
        width=mouth.width,
        rounding=mouth.rounding,
        emotion=np.full(n, number(emotion), np.int8),
        intensity=intensity,
        **head_pose(times, mouth.opening, manner, strength, rng),
        blink=blinks(times, manner, rng),
        gaze_x=look[0],
        gaze_y=look[1],
        loudness=mouth.loudness,
        seed=person,
    )


@dataclass(frozen=True)
class PuppetSet:
    """A data set that is a function of its numbers: clip i depends on nothing but them and i.

    Attributes:
      clips: how many.
      seed: of everything; sets of seeds 0 to 9 have no person in common, but for those held out.
      size: pixels of the square.
      fps: frames per second.
      seconds: of each clip.
      held_out: show people and sounds that no set does for which this is False.
      per_identity: clips of each person, one after the other; eight show all emotions.
      speech: "synth" or "espeak".
      beds: share of the clips with music or noise under the voice.
      silent: share of the clips in which nobody speaks.
    """

    clips: int
    seed: int = 0
    size: int = 64
    fps: int = 25
    seconds: float = 4.0
    held_out: bool = False
    per_identity: int = 8
    speech: str = "synth"
    beds: float = 0.4
    silent: float = 0.02

    def __post_init__(self) -> None:
        if self.clips < 1 or self.per_identity < 1 or self.fps < 1 or self.size < 32:
            raise UserError(
                f"{self.clips} clips, {self.per_identity} per identity, {self.fps} fps, size "
                f"{self.size}; expected 1, 1, 1 and 32 at least"
            )
        if not 0 <= self.seed < 2**32 or not self.clips <= HELD_OUT * self.per_identity:
            raise UserError(f"seed {self.seed}, expected 0 to {2**32 - 1}, and fewer clips")
        if not 1 <= self.seconds <= 600:
            raise UserError(f"{self.seconds:g} seconds, expected 1 to 600")
        if self.speech not in SPEECH:
            raise UserError(f"speech {self.speech!r}, expected {' or '.join(SPEECH)}")

    def person(self, clip: int) -> int:
        """Who is in a clip."""
        k = clip // self.per_identity
        return HELD_OUT + k if self.held_out else (self.seed * 100_003 + k) % HELD_OUT

    def emotion(self, clip: int) -> str:
        """What a clip's person feels: another emotion in each of their clips, while they last."""
        order = np.random.default_rng([self.person(clip), self.seed, 0xE0]).permutation(len(SHOWN))
        return SHOWN[order[clip % self.per_identity % len(SHOWN)]]

    def take(self, clip: int) -> Take:
        """A clip before it is drawn.

        Raises:
          UserError: speech of espeak where that is not installed.
        """
        rng = self._rng(clip)
        person, emotion = self.person(clip), self.emotion(clip)
        frames = round(self.seconds * self.fps)
        seconds, strength = frames / self.fps, float(rng.uniform(0.7, 1.0))
        n = round(seconds * SAMPLE_RATE)
        who = speaker(person)
        if rng.uniform() < self.silent:
            voice = np.zeros(n, np.float32)
        elif self.speech == "espeak":
            language = list(espeak.SENTENCES)[clip % len(espeak.SENTENCES)]
            voice = espeak.talk(seconds, language, who, emotion, strength, rng)
        else:
            voice = speak(seconds, who, emotion, strength, rng).sound
        sound, snr = voice, np.inf
        if rng.uniform() < self.beds:
            bed = beds.music if rng.uniform() < 0.5 else beds.noise
            snr = float(rng.uniform(8, 25))
            sound = beds.mixed(voice, bed(n, rng), snr)
        truth = perform(person, emotion, voice, self.fps, rng, strength=strength, frames=frames)
        # To the whole numbers that are stored: what is heard later is what was heard here.
        sound = (np.rint(sound * 32767) / 32768).astype(np.float32)
        return Take(truth, sound, voice, self.fps, strength, snr)

    def record(self, clip: int) -> bytes:
        """A clip's record, with its truth."""
        take = self.take(clip)
        face = portrait(take.truth.seed, self.size, self._rng(clip, 1))
        return attach(encode(to_clip(take, self.size, face)), take.truth)

    def _rng(self, clip: int, use: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, clip, int(self.held_out), use])


def portrait(
    person: int, size: int, rng: np.random.Generator, emotion: str | None = None
) -> UInt8[np.ndarray, "s s 3"]:
    """A picture of a person, silent, with some pose and, unless given, some emotion."""
    shown = str(rng.choice(SHOWN)) if emotion is None else emotion
    silence = np.zeros(SAMPLE_RATE, np.float32)
    truth = perform(person, shown, silence, 25, rng, strength=rng.uniform(0.5, 1.0))
    awake = int(np.argmin(truth.blink))
    one = Truth.from_array(truth.to_array()[awake : awake + 1], person)
    return render(one, size)[0]


def to_clip(
    take: Take,
    size: int,
    face: UInt8[np.ndarray, "s s 3"],
    config: LogMelConfig | None = None,
) -> Clip:
    """A clip as training reads it, of `size` pixels.

    Its features are those of the model's own ear, and its face embedding is of the portrait
    `face`, which is none of its frames: as when a clip is made from a picture.
    """
    truth, n = take.truth, len(take.truth)
    config = config or LogMelConfig()
    scores = {"person": float(truth.seed), "strength": take.strength}
    if np.isfinite(take.snr):
        scores["snr"] = take.snr
    return Clip(
        images=tuple(_png(frame) for frame in render(truth, size)),
        size=size,
        fps=float(take.fps),
        audio=log_mel(take.sound, n, take.fps, config).astype(BFLOAT16),
        emotion=truth.emotion.astype(np.int8),
        emotions=EMOTIONS,
        face=pixel_identity(face, FACE),
        identity=f"puppet-{truth.seed}",
        clip_emotion=EMOTIONS[int(truth.emotion[0])],
        corpus=CORPUS,
        source=Source(end=n / take.fps),
        licence="Apache-2.0",
        scores=scores,
        sound=flac(take.sound),
        sound_rate=SAMPLE_RATE,
        audio_features=config.text,
    )


def records(plan: PuppetSet, workers: int = 1) -> Iterator[bytes]:
    """All records in order; the same bytes for any number of processes.

    Raises:
      UserError: fewer than one worker, or speech of a program that is not installed.
    """
    if workers < 1:
        raise UserError(f"{workers} workers, expected 1 at least")
    if plan.speech == "espeak":
        espeak.program()
    return map(plan.record, range(plan.clips)) if workers == 1 else _spread(plan, workers)


def _spread(plan: PuppetSet, workers: int) -> Iterator[bytes]:
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=partial(cv2.setNumThreads, 1)
    )
    try:
        with _deaf_children():
            made = pool.map(plan.record, range(plan.clips))
        yield from made
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started within do not hear Ctrl-C: theirs is to end when this one says so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _png(frame: UInt8[np.ndarray, "s s 3"]) -> bytes:
    return cv2.imencode(".png", frame[..., ::-1])[1].tobytes()
