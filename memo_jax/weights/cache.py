"""The cache folder, and hashes of files that are read only once."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

BLOCK = 2**20

# Smaller files are read again faster than they are looked up.
REMEMBERED_FROM = 2**20


def cache_folder() -> Path:
    """Where memo_jax keeps what it can make again.

    $MEMO_JAX_CACHE, else memo_jax in $XDG_CACHE_HOME, else ~/.cache/memo_jax. Not made here.
    """
    if own := os.environ.get("MEMO_JAX_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memo_jax"


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file, 64 hex digits.

    A large file's is remembered under its real path, size and time of change. `progress` is
    called with the number of bytes of each block, and not at all where it is remembered.
    Raises OSError where the file cannot be read.
    """
    real = Path(os.path.realpath(path))
    stat = real.stat()
    state = [stat.st_size, stat.st_mtime_ns]
    known = _remembered().get(str(real)) if stat.st_size >= REMEMBERED_FROM else None
    if isinstance(known, list) and known[:2] == state and len(known) == 3:
        return str(known[2])
    digest = hashlib.sha256()
    with open(real, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            if progress:
                progress(len(block))
    if stat.st_size >= REMEMBERED_FROM:
        _remember(str(real), [*state, digest.hexdigest()])
    return digest.hexdigest()


def content_key(root: Path, files: Iterable[Path], version: int) -> str:
    """20 hex digits that tell these contents from others.

    They follow from the files' names within `root` (a folder, or the one file itself), from what
    is in them, and from `version`, that of the program that makes something of them.
    """
    base = root if root.is_dir() else root.parent
    lines = sorted(f"{file.relative_to(base).as_posix()}\0{sha256(file)}" for file in files)
    return hashlib.sha256("\n".join([str(version), *lines]).encode()).hexdigest()[:20]


def _memory() -> Path:
    return cache_folder() / "hashes.json"


def _remembered() -> dict[str, object]:
    try:
        hashes = json.loads(_memory().read_text("utf-8"))
    except (OSError, ValueError, RecursionError):  # lost or damaged: files are read again
        return {}
    return hashes if isinstance(hashes, dict) else {}


def _remember(name: str, entry: list[object]) -> None:
    hashes = {k: v for k, v in _remembered().items() if os.path.exists(k)}
    hashes[name] = entry
    # A folder that cannot be written to only costs reading the file again.
    with contextlib.suppress(OSError):
        _memory().parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=_memory().parent, prefix=".hashes-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(hashes, file)
            os.replace(unfinished, _memory())
        except OSError:
            os.unlink(unfinished)
            raise
