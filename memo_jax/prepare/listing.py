"""The clips of a data set, one by one, by the names that lists call them by."""

from collections.abc import Iterator
from pathlib import Path

from memo_jax.data.clip import BadRecord, Clip
from memo_jax.data.record import decode
from memo_jax.data.store import Store
from memo_jax.errors import UserError


def clip_name(file: str, start: float) -> str:
    """A clip's name: its video's, and where it starts in it."""
    return f"{file}@{start:.3f}"


def name_of(clip: Clip) -> str:
    """The name of a clip in memory."""
    return clip_name(clip.source.file, clip.source.start)


def clip_at(store: Store, which: str) -> Clip:
    """The clip of a number from 0, or of a name.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    try:
        if which.isdecimal():
            if int(which) >= len(store):
                raise UserError(f"no clip {which}; the set has 0 to {len(store) - 1}")
            return decode(store[int(which)])
        for _, clip in listed(store):
            if name_of(clip) == which:
                return clip
    except BadRecord as error:
        raise UserError(f"clip {which}: {error}") from error
    raise UserError(f"no clip {which!r}; expected a number or a name such as talk.mp4@12.000")


def listed(store: Store) -> Iterator[tuple[int, Clip]]:
    """All clips that can be read, with their numbers."""
    for number in range(len(store)):
        try:
            yield number, decode(store[number])
        except BadRecord:
            continue


def opened(folder: str) -> Store:
    """The data set in a folder; raises UserError."""
    return Store(Path(folder))
