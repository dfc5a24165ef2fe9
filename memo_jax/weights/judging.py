"""The weights of networks that judge videos: their one place on this machine, and their state.

They are others' work under terms of their own, so nothing here fetches them: whoever wants one puts
it into the folder, by the line that `memo_jax.doctor` prints.
"""

import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from memo_jax.errors import UserError, one_line
from memo_jax.weights import manifest
from memo_jax.weights.cache import cache_folder, sha256
from memo_jax.weights.health import MISSING, OK, PROBLEM, Finding
from memo_jax.weights.hub import size_text
from memo_jax.weights.manifest import Judge
from memo_jax.weights.readers.legacy import MAGIC


def judges_folder() -> Path:
    """`judges` in the cache; not made here."""
    return cache_folder() / "judges"


def place_of(judge: Judge) -> Path:
    """Where its file is looked for."""
    return judges_folder() / judge.file


def found_judges(command: str) -> dict[str, Path]:
    """Name -> file, of those judges that a command takes and that are in the folder.

    Raises:
      UserError: a file is not the published one.
    """
    found = {}
    for name, judge in manifest.judges().items():
        path = place_of(judge)
        if judge.command == command and path.is_file():
            try:
                problem = damage(judge, path)
            except OSError as error:
                raise UserError(f"{path} cannot be read: {one_line(error.strerror)}") from error
            if problem:
                raise UserError(
                    f"{path} {problem}; fetch it again, or name another file with {judge.option}"
                )
            found[name] = path
    return found


def damage(judge: Judge, path: Path) -> str:
    """What tells a file from the published one, as far as that one's size and hash are known; ""
    where nothing does. Raises OSError where the file cannot be read."""
    size = path.stat().st_size
    if judge.size is not None and size != judge.size:
        return f"is not the published file: it has {size:,} bytes, expected {judge.size:,}"
    if judge.sha256 is not None and (found := sha256(path)) != judge.sha256:
        return f"is not the published file: its SHA-256 is {found}, expected {judge.sha256}"
    return "is empty" if size == 0 else ""


def examine_judges() -> Iterator[Finding]:
    """A line for each judge: whether it is here, and what to type where it is not."""
    for name, judge in manifest.judges().items():
        path = place_of(judge)
        use = f"{judge.what} ({judge.command} {judge.option})"
        if not path.is_file():
            size = f"{size_text(judge.size)}, " if judge.size else ""
            detail = f"{use}; {size}licence {judge.licence}: {judge.licence_url}"
            yield Finding(name, MISSING, detail, fetching(judge))
            continue
        try:
            problem = damage(judge, path)
            with path.open("rb") as file:
                old = file.read(len(MAGIC)) == MAGIC
        except OSError as error:
            problem, old = f"cannot be read ({one_line(error.strerror)})", False
        if problem:
            yield Finding(name, PROBLEM, f"{path} {problem}", fetching(judge))
        elif old and find_spec("torch") is None:
            detail = f"{path} is in PyTorch's format of before 1.6, which takes PyTorch to read"
            yield Finding(name, PROBLEM, detail, "pip install -e '.[convert]'")
        else:
            known = "as published" if judge.sha256 else "no hash of it is known"
            yield Finding(name, OK, f"{use}; {path}, {known}; licence {judge.licence}")


def fetching(judge: Judge) -> str:
    """The line that puts its file into the folder."""
    where = shlex.quote(str(place_of(judge)))
    return f"curl -L --fail --create-dirs -o {where} {shlex.quote(judge.url)}"
