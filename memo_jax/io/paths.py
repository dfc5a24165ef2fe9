"""Checks of the paths a user gives, shared by every reader."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from memo_jax.errors import UserError, one_line


def fail(text: str, cause: BaseException | None = None) -> UserError:
    """The `UserError` of `text`, with the reason of `cause` added, on one line."""
    return UserError(one_line(f"{text} ({reason(cause)})" if cause else text))


def reason(error: BaseException) -> str:
    """The short human part of an exception: no errno, no file name twice."""
    return one_line(getattr(error, "strerror", None) or error or type(error).__name__)[:200]


def existing_file(path: str | os.PathLike[str], what: str) -> Path:
    """`path` as a readable regular file.

    what: how the message names it, such as "picture".
    Raises UserError when it is missing (with the nearest name beside it), a folder, no
    regular file, empty or not readable.
    """
    name = one_line(path)
    file = Path(path)
    try:
        if not file.exists():
            raise fail(f"{what} {name!r} does not exist{_nearest(file)}; check the path")
        if file.is_dir():
            raise fail(f"{what} {name!r} is a folder; give one file in it")
        if not file.is_file():
            raise fail(f"{what} {name!r} is no regular file; save it to disk first")
        if file.stat().st_size == 0:
            raise fail(f"{what} {name!r} is empty (0 bytes); it was probably not saved fully")
        with file.open("rb"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise fail(f"{what} {name!r} cannot be opened; check its name and rights", error) from error
    return file


def _nearest(file: Path) -> str:
    """A suggestion, or nothing: the file in the same folder whose name is most like it."""
    if not file.parent.is_dir():
        return f" (there is no folder {one_line(file.parent)!r})"
    close = difflib.get_close_matches(file.name, (f.name for f in file.parent.iterdir()), n=1)
    return f" (did you mean {one_line(close[0])!r}?)" if close else ""
