"""Held-out puppets as tasks: somebody's picture, a sound, an emotion, and the truth."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from memo_jax.errors import UserError
from memo_jax.puppets import beds, espeak
from memo_jax.puppets.clips import PuppetSet, portrait
from memo_jax.puppets.emotion import SHOWN
from memo_jax.puppets.listen import mouth_from_sound
from memo_jax.puppets.prosody import speaker
from memo_jax.puppets.voice import speak

RATE = 16000  # Hz, of all sounds


@dataclass(frozen=True, eq=False)
class Task:
    """What a model is asked for, and what is right.

    Attributes:
      person: the identity's seed; nobody of any training set.
      portrait: RGB; it shows another emotion than the one that is asked for.
      sound: at 16 kHz, as the model hears it.
      emotion: asked for.
      opening: of the mouth, in every frame, 0 to 1: what the renderer would draw to this sound.
      loudness: of the voice in every frame, dB.
    """

    person: int
    portrait: UInt8[np.ndarray, "s s 3"]
    sound: Float[np.ndarray, " samples"]
    emotion: str
    opening: Float[np.ndarray, " n"]
    loudness: Float[np.ndarray, " n"]


def tasks(
    count: int,
    seconds: float,
    *,
    seed: int,
    size: int = 64,
    fps: int = 25,
    speech: str = "synth",
    asked: str = "voice",
    clean: bool = False,
) -> list[Task]:
    """As many held-out people with a held-out sound each; the emotions go round.

    Args:
      seconds: of each sound.
      seed: other people and other sounds for each.
      speech: "synth", or a language of espeak-ng.
      asked: "voice" asks for the emotion that is heard in the voice; "other" for another one.
      clean: no music or noise under the voice; otherwise under two in five.

    Raises:
      UserError: espeak-ng is not installed, or a value makes no sense.
    """
    if count < 1 or asked not in ("voice", "other"):
        raise UserError(
            f"{count} tasks asked as {asked!r}, expected 1 at least, 'voice' or 'other'"
        )
    rng = np.random.default_rng([seed, 0x7A5C])
    # Who is held out is for the data sets to say: one clip of each person.
    plan = PuppetSet(clips=200, per_identity=1, held_out=True, size=size, fps=fps)
    people = [plan.person(int(i)) for i in rng.choice(200, count, replace=count > 200)]
    first = int(rng.integers(len(SHOWN)))
    made = []
    for i, person in enumerate(people):
        emotion = SHOWN[(first + i) % len(SHOWN)]
        heard = emotion if asked == "voice" else _another(emotion, rng)
        strength = float(rng.uniform(0.7, 1.0))
        if speech == "synth":
            voice = speak(seconds, speaker(person), heard, strength, rng).sound
        else:
            voice = espeak.talk(seconds, speech, speaker(person), heard, strength, rng)
        sound = voice
        if rng.uniform() < 0.4 and not clean:
            bed = beds.music if rng.uniform() < 0.5 else beds.noise
            sound = beds.mixed(voice, bed(len(voice), rng), float(rng.uniform(8, 25)))
        mouth = mouth_from_sound(voice, RATE, fps, round(seconds * fps))
        shown = portrait(person, size, rng, _another(emotion, rng))
        made.append(Task(person, shown, np.asarray(sound), emotion, mouth.opening, mouth.loudness))
    return made


def _another(emotion: str, rng: np.random.Generator) -> str:
    return str(rng.choice([name for name in SHOWN if name != emotion]))
