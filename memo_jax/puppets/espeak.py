"""Speech of the espeak-ng program, where it is installed, in several languages."""

import io
import shutil
import subprocess
import wave

import numpy as np
import soxr
from jaxtyping import Float

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.errors import UserError, one_line
from memo_jax.puppets.listen import levelled, within
from memo_jax.puppets.prosody import PROSODY, Speaker

SENTENCES = {
    "en": (
        "The old clock in the hall has not been right for years.",
        "Bring me the blue folder, please, and close the window.",
        "We walked along the river until the moon came up.",
        "How many apples does your brother want to buy?",
        "My boat was faster than yours, but only by a little.",
        "Tomorrow it may rain, so take a warm coat with you.",
    ),
    "de": (
        "Der Zug nach Hamburg fährt heute von einem anderen Gleis.",
        "Mach bitte das Fenster zu, mir wird langsam kalt.",
        "Unsere Nachbarn haben einen Hund, der nie bellt.",
        "Wo hast du gestern Abend meinen Schlüssel gefunden?",
        "Am Montag beginnt die Schule wieder um acht Uhr.",
        "Das Brot vom Bäcker nebenan schmeckt mir am besten.",
    ),
    "fr": (
        "Le petit bateau rouge revient au port avant la nuit.",
        "Pouvez-vous fermer la porte du jardin, s'il vous plaît ?",
        "Ma sœur apprend à jouer du piano depuis deux ans.",
        "Il a oublié son parapluie dans le train de midi.",
        "Nous mangeons souvent du pain avec du fromage.",
        "Demain matin, le marché ouvre un peu plus tard.",
    ),
    "es": (
        "La montaña se ve muy bien desde la ventana de mi casa.",
        "¿Dónde compraste esos zapatos de color verde?",
        "Mi abuelo cuenta historias cuando llueve por la tarde.",
        "El tren llegó temprano y nadie estaba en la estación.",
        "Pon la mesa, por favor, que vamos a comer pronto.",
        "Los niños juegan en la plaza hasta la noche.",
    ),
}
"""Texts by espeak-ng's name of the language."""

VARIANTS = ("m1", "m3", "m7", "f1", "f2", "f4")
_SECONDS = 60  # a program that takes longer for a sentence hangs


def program() -> str:
    """The program's path.

    Raises:
      UserError: it is not installed.
    """
    path = shutil.which("espeak-ng")
    if path is None:
        raise UserError(
            "espeak-ng is not installed; install it (apt install espeak-ng) or use other speech"
        )
    return path


def say(
    text: str, language: str, who: Speaker, emotion: str, strength: float = 1.0
) -> Float[np.ndarray, " n"]:
    """A text spoken, mono at 16 kHz, at the level and with the prosody of an emotion.

    Raises:
      UserError: espeak-ng is not installed, or refuses the language or the text.
    """
    how = PROSODY[emotion]
    # Its pitch of 50 is about 100 Hz for a man's variants, and 99 about an octave above.
    semitones = 12 * np.log2(who.pitch / 140 * (1 + strength * (how.pitch - 1)))
    variants = VARIANTS[:3] if who.pitch < 150 else VARIANTS[3:]
    variant = variants[int(who.tract * 1000) % len(variants)]
    command = [
        *(program(), "--stdout", "--stdin", "-b", "1", "-v", f"{language}+{variant}"),
        *("-p", str(int(np.clip(45 + 3 * semitones, 0, 99)))),
        *("-s", str(int(np.clip(36 * who.tempo * (1 + strength * (how.tempo - 1)), 80, 300)))),
    ]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"espeak-ng does not run: {one_line(error)}") from error
    if done.returncode or not done.stdout:
        reason = one_line(done.stderr.decode(errors="replace")) or f"exit {done.returncode}"
        raise UserError(f"espeak-ng refuses language {language!r}: {reason}; try {_known()}")
    sound, rate = _read(done.stdout)
    sound = levelled(soxr.resample(sound, rate, SAMPLE_RATE), SAMPLE_RATE)
    return within(sound * 10 ** (strength * how.energy / 20)).astype(np.float32)


def talk(
    seconds: float,
    language: str,
    who: Speaker,
    emotion: str,
    strength: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, " n"]:
    """Sentences of `SENTENCES` with pauses between them, exactly so long.

    Raises:
      UserError: as `say`, or a language without sentences.
    """
    if language not in SENTENCES:
        raise UserError(f"no sentences in {language!r}; expected one of {_known()}")
    n = round(seconds * SAMPLE_RATE)
    out = np.zeros(n, np.float32)
    at = round(rng.uniform(0.05, 0.4) * SAMPLE_RATE)
    for i in rng.permutation(len(SENTENCES[language])).tolist() * 50:
        part = say(SENTENCES[language][i], language, who, emotion, strength)[: max(0, n - at)]
        out[at : at + len(part)] = part
        at += len(part) + round(rng.uniform(0.1, 0.4) * SAMPLE_RATE)
        if at >= n:
            break
    fade = min(n, SAMPLE_RATE // 50)
    out[n - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return out


def _known() -> str:
    return ", ".join(SENTENCES)


def _read(data: bytes) -> tuple[np.ndarray, int]:
    """16-bit mono wav from a pipe, whose header does not know its length."""
    with wave.open(io.BytesIO(data)) as file:
        rate, channels = file.getframerate(), file.getnchannels()
    start = data.index(b"data") + 8
    body = data[start : start + (len(data) - start) // (2 * channels) * 2 * channels]
    return np.frombuffer(body, "<i2").reshape(-1, channels).mean(axis=1) / 32768.0, rate
