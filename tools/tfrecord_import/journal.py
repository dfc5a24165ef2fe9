"""What of an import is done: shards, and beside them what became of the records they are from.

DIR/clips-<file>-<part>.array_record    the clips of some consecutive records of one input
DIR/.import/plan.json                   the map, the model and the options
DIR/.import/<file>-<part>.json          a finished part, written after its shard
DIR/unused.txt                          records that make no clip, and why
DIR/dataset.json                        last: before it is there, the folder is no data set

<file> is a hash of the input's name, size and date. Every file appears whole, so a process that is
killed loses the part it was at and nothing else.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_jax.data.clip import Layout
from memo_jax.data.store import Shard, write_index
from memo_jax.errors import UserError, one_line
from tools.tfrecord_import.reasons import Tally
from tools.tfrecord_import.sources import Input

FOLDER = ".import"
UNUSED = "unused.txt"

Bad = tuple[str, str, str, int]
"""Name, code, text, and how many records that costs."""


@dataclass(frozen=True)
class Part:
    """Some consecutive records of an input.

    Attributes:
      first: the first one's number.
      records: how many, each damaged place as one.
      bad: those that make no clip.
      shard: of the others; None without any.
      last: whether the input ends with them.
    """

    first: int
    records: int
    bad: list[Bad]
    shard: Shard | None
    last: bool


class Journal:
    """The parts of the import into a folder; used within `opened`."""

    def __init__(self, folder: Path, plan: dict[str, Any], inputs: Sequence[Input]) -> None:
        """Goes on with what the folder holds.

        Raises:
          UserError: that is of another plan or of other inputs, or no import at all.
        """
        self._folder, self._inputs = folder, inputs
        self._keys = {file: _key(file) for file in inputs}
        self.parts: dict[Input, list[Part]] = {file: [] for file in inputs}
        self._goes_on(plan)
        self._clean()

    def name(self, file: Input, part: int) -> Path:
        """The shard of a part."""
        return self._folder / f"clips-{self._keys[file]}-{part:05d}.array_record"

    def add(self, file: Input, part: Part) -> None:
        """Note a finished part, whose shard is there."""
        name = f"{self._keys[file]}-{len(self.parts[file]):05d}.json"
        _write(self._folder / FOLDER / name, json.dumps(dataclasses.asdict(part)))
        self.parts[file].append(part)

    def tally(self, limit: float) -> Tally:
        """The counts of all parts."""
        tally = Tally(limit)
        for parts in self.parts.values():
            for part in parts:
                count(tally, part)
        return tally

    def finish(self, tally: Tally) -> None:
        """Make a data set of the shards, in the order of the inputs.

        Raises:
          UserError: there are none.
        """
        found = [part.shard for file in self._inputs for part in self.parts[file]]
        lines = [f"{name}\t{why}\n" for name, why in tally.names]
        if lines:
            _write(self._folder / UNUSED, "".join(lines))
        else:
            (self._folder / UNUSED).unlink(missing_ok=True)
        write_index(self._folder, [shard for shard in found if shard is not None])

    def _goes_on(self, plan: dict[str, Any]) -> None:
        state = self._folder / FOLDER
        path = state / "plan.json"
        found = {p.stem: _read(p) for p in sorted(state.glob("*-*.json"))}
        if path.exists() and json.loads(path.read_text("utf-8")) != plan:
            if any(part.shard for part in found.values()):
                raise UserError(
                    f"{self._folder} holds clips of another map, model or options; give those, or "
                    "a new folder"
                )
            for name in found:  # nothing but what failed, as with a wrong map
                (state / f"{name}.json").unlink()
            found = {}
        _write(path, json.dumps(plan))
        by_key = {key: file for file, key in self._keys.items()}
        for name, part in found.items():
            key, _, number = name.partition("-")
            if key not in by_key:
                raise UserError(
                    f"{self._folder} holds clips of a file that --input does not match, or that "
                    "has changed since; give all inputs, or a new folder"
                )
            parts = self.parts[by_key[key]]
            assert len(parts) == int(number)
            parts.append(part)

    def _clean(self) -> None:
        """Removes what a killed process left: unfinished files, and shards that nobody noted."""
        noted = {self._folder / p.shard.file for ps in self.parts.values() for p in ps if p.shard}
        for path in self._folder.glob("clips-*.array_record"):
            if path not in noted:
                path.unlink()
        for path in (*self._folder.glob(".*.*"), *(self._folder / FOLDER).glob(".*.*")):
            if path.is_file():
                path.unlink()


def count(tally: Tally, part: Part) -> None:
    """Add a part's records to a tally."""
    tally.add_good(part.records - len(part.bad))
    for bad in part.bad:
        tally.add_bad(*bad)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A new folder, or that of an import, for this process alone.

    Raises:
      UserError: it is another kind of folder, cannot be made, or another process has it.
    """
    state = folder / FOLDER
    try:
        if folder.is_dir() and any(folder.iterdir()) and not state.is_dir():
            raise UserError(f"{folder} holds something else than an import; give a new folder")
        state.mkdir(parents=True, exist_ok=True)
        lock = open(state / "lock", "w")  # noqa: SIM115  closed below
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {one_line(error)}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another import writes to {folder}; wait for its end") from error
        yield


def _key(file: Input) -> str:
    return hashlib.sha256(json.dumps(file).encode()).hexdigest()[:16]


def _read(path: Path) -> Part:
    data = json.loads(path.read_text("utf-8"))
    shard = data["shard"]
    if shard is not None:
        shard = Shard(**{**shard, "layout": Layout.from_dict(shard["layout"])})
    bad = [tuple(row) for row in data["bad"]]
    return Part(**{**data, "shard": shard, "bad": bad})


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, "utf-8")
    os.replace(unfinished, path)
