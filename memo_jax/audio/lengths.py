"""Few lengths for many recordings, so that a corpus is heard by a handful of programs.

XLA compiles one program for each shape. Recordings are padded to one of these lengths, and what
hears them is told how much of it is real (`memo_jax.audio.wav2vec2.Real`).
"""

from memo_jax.audio.timing import SAMPLE_RATE

SECONDS = (3, 4, 6, 8, 12, 16, 22, 30)
"""Lengths up to half a minute; longer recordings last whole multiples of the last one."""

RATES = (25, 30, 50, 60)
"""Frames per second that there is room for."""

LONGEST = 20 * SECONDS[-1]
"""Seconds from which on nothing is padded."""


def padded(samples: int, frames: int) -> tuple[int, int]:
    """The samples at 16 kHz, and the frames, to which a recording is padded; neither is fewer."""
    whole = SECONDS[-1]
    seconds = next(
        (s for s in SECONDS if s * SAMPLE_RATE >= samples),
        -(-samples // (whole * SAMPLE_RATE)) * whole,
    )
    if seconds > LONGEST:
        return samples, frames
    room = next((rate * seconds for rate in RATES if rate * seconds >= frames), None)
    if room is None:  # of a rate that few videos have
        room = -(-frames // (RATES[-1] * seconds)) * RATES[-1] * seconds
    return seconds * SAMPLE_RATE, room
