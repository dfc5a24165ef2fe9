"""A synthesised sentence: glottal pulses and noise through gliding formant resonators.

"Hello. I am a new face. See how I move." in a voice that belongs to nobody. Formants are near the
averages for American English women, Hz.
"""

import numpy as np

RATE = 16_000  # Hz
SECONDS = 4.0
SEED = 5
LEVEL = -20.0  # dBFS, root mean square over the whole recording
FADE = 0.02  # s
FIXED_FORMANTS = ((4300.0, 350.0), (5300.0, 500.0))  # centre and bandwidth, Hz

# voice, breath and hiss in 0..1; hiss centre; F1, F2, F3. All but the first three in Hz.
SOUNDS = {
    "_": (0.00, 0.00, 0.00, 5000, 500, 1600, 2700),
    "hh": (0.05, 0.55, 0.00, 5000, 600, 1800, 2800),
    "eh": (1.00, 0.03, 0.00, 5000, 690, 2050, 2950),
    "l": (0.60, 0.02, 0.00, 5000, 380, 1150, 2900),
    "o": (1.00, 0.02, 0.00, 5000, 560, 1000, 2700),
    "u": (0.80, 0.02, 0.00, 5000, 400, 1050, 2650),
    "a": (0.72, 0.03, 0.00, 5000, 880, 1400, 2750),
    "i": (0.85, 0.02, 0.00, 5000, 360, 2600, 3200),
    "ae": (1.00, 0.03, 0.00, 5000, 840, 1950, 2850),
    "m": (0.38, 0.00, 0.00, 5000, 270, 1150, 2400),
    "n": (0.38, 0.00, 0.00, 5000, 280, 1700, 2600),
    "uh": (0.80, 0.02, 0.00, 5000, 640, 1450, 2750),
    "y": (0.60, 0.02, 0.00, 5000, 310, 2500, 3150),
    "e": (1.00, 0.02, 0.00, 5000, 520, 2350, 3000),
    "f": (0.00, 0.03, 0.16, 6500, 400, 1300, 2600),
    "v": (0.35, 0.02, 0.06, 6000, 330, 1250, 2500),
    "s": (0.00, 0.00, 0.50, 6000, 380, 1900, 2900),
}
# Each sound with its length in ms; a second vowel makes a diphthong.
SENTENCE = (
    "_ 150 hh 70 eh 95 l 75 o 110 u 90 _ 300 "
    "a 110 i 85 ae 110 m 75 uh 65 n 70 y 35 u 130 f 95 e 120 i 85 s 150 _ 290 "
    "s 130 i 165 hh 55 a 105 u 80 a 115 i 85 m 80 u 190 v 95 _ 400"
)
# F0 in Hz at times in s: every phrase starts high, has its accent, and falls.
PITCH = (
    *((0.0, 205), (0.30, 238), (0.60, 185), (0.89, 205), (1.15, 228), (1.60, 196), (1.85, 216)),
    *((2.20, 172), (2.50, 208), (2.72, 222), (3.05, 196), (3.30, 204), (3.60, 152), (4.0, 140)),
)


def parameters() -> np.ndarray:
    """The rows of SOUNDS over time, [samples, 7]: held in each sound's middle, gliding between."""
    words = SENTENCE.split()
    names, lengths = words[::2], np.array(words[1::2], np.float64) / 1000
    ends = np.cumsum(lengths)
    targets = np.array([SOUNDS[name] for name in names], np.float64)
    for k, name in enumerate(names):  # a pause takes the shape of the sound after it, or before
        if name == "_":
            targets[k, 3:] = targets[min(k + 1, len(names) - 2), 3:]
    knots = np.stack([ends - 0.75 * lengths, ends - 0.25 * lengths], 1).ravel()
    time = np.arange(round(SECONDS * RATE)) / RATE
    tracks = [np.interp(time, knots, np.repeat(column, 2)) for column in targets.T]
    window = np.hanning(round(0.03 * RATE))
    smooth = [
        np.convolve(np.pad(t, len(window), "edge"), window / window.sum(), "same") for t in tracks
    ]
    return np.stack([t[len(window) : -len(window)] for t in smooth], 1)


def glottal_pulses(rng: np.random.Generator) -> np.ndarray:
    """Airflow changes at the vocal folds: opens over 40 % of a period, closes over 12 %."""
    time = np.arange(round(SECONDS * RATE)) / RATE
    pitch = np.interp(time, *np.array(PITCH, np.float64).T)
    wander = np.convolve(rng.normal(size=len(time)), np.hanning(800), "same")
    pitch *= 1 + 0.006 * wander / wander.std()
    phase = np.cumsum(pitch / RATE) % 1
    opening = 0.5 - 0.5 * np.cos(np.pi * phase / 0.40)
    closing = np.cos(0.5 * np.pi * (phase - 0.40) / 0.12)
    flow = np.where(phase < 0.40, opening, np.where(phase < 0.52, closing, 0))
    return np.diff(flow, prepend=0)


def resonate(signal: np.ndarray, centre: np.ndarray, bandwidth: np.ndarray) -> np.ndarray:
    """A two-pole resonator with gain 1 at 0 Hz, centre and bandwidth (Hz) may move."""
    radius = np.exp(-np.pi * bandwidth / RATE)
    b = 2 * radius * np.cos(2 * np.pi * centre / RATE)
    c = -(radius**2)
    out, y1, y2 = [], 0.0, 0.0
    for x, bb, cc in zip(((1 - b - c) * signal).tolist(), b.tolist(), c.tolist(), strict=True):
        y1, y2 = x + bb * y1 + cc * y2, y1
        out.append(y1)
    return np.array(out)


def speak() -> np.ndarray:
    """The sentence as int16 [samples] at 16 kHz."""
    rng = np.random.default_rng(SEED)
    voice, breath, hiss, hiss_centre, *formants = parameters().T
    noise = rng.normal(size=len(voice))
    throat = voice * glottal_pulses(rng) + 0.012 * breath * noise
    for centre, width in zip(formants, (70.0, 100.0, 150.0), strict=True):
        throat = resonate(throat, centre, np.full_like(centre, width) + 60 * breath)
    for centre, width in FIXED_FORMANTS:
        throat = resonate(throat, np.full_like(voice, centre), np.full_like(voice, width))
    teeth = resonate(hiss * np.diff(noise, prepend=0), hiss_centre, np.full_like(voice, 1500.0))
    sound = throat / throat.std() + 0.22 * teeth / teeth.std()
    sound += 0.0015 * rng.normal(size=len(sound))  # a room is never silent
    ramp = np.minimum(np.arange(len(sound)) / (FADE * RATE), 1)
    sound *= ramp * ramp[::-1]
    sound *= 10 ** (LEVEL / 20) / np.sqrt(np.mean(sound**2))
    return np.round(sound * 32767).astype(np.int16)
