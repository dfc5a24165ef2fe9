"""A run's folder: what is done, video by video, and the data set that is made of it.

    DIR/dataset.json, DIR/clips-*.array_record    the data set, as training opens it
    DIR/rejects.jsonl                             what is not used, and why
    DIR/.prepare/settings.json                    of the run: all runs of a folder have the same
    DIR/.prepare/done/KEY.json                    a video that is done: its clips and rejects
    DIR/.prepare/parts/KEY.array_record           its clips, until they are in a shard
    DIR/.prepare/plans/000.json                   which parts make which shards
    DIR/.prepare/shards/NAME.json                 a shard that is whole, as the index names it

Every file appears whole, by a rename, and what has been renamed is never written again: whoever
is killed at any moment leaves only what is done or what is not. A part is done when its KEY.json
is there, a shard when its NAME.json is; parts go when all their clips are in shards.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python.array_record_module import ArrayRecordReader

from memo_jax.data.clip import Layout
from memo_jax.data.store import INDEX, Shard, write_index, write_shard
from memo_jax.errors import UserError, one_line
from memo_jax.prepare.reasons import Rejected
from memo_jax.prepare.video import Kept, Times

STATE = ".prepare"
REJECTS = "rejects.jsonl"
UNFINISHED = re.compile(r"\..+\.\d+")  # as this module and `store` name files they write
ENDS = 1 << 20  # bytes at either end of a file that, with its size, tell its content


class Piece(NamedTuple):
    """Clips of a part: `many` from its `first` on."""

    key: str
    first: int
    many: int


class Folder:
    """The files of a run; see the module."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).absolute()
        state = self.path / STATE
        self._done, self._parts = state / "done", state / "parts"
        self._plans, self._shards = state / "plans", state / "shards"
        self._settings, self._lock = state / "settings.json", state / "lock"

    def prepare(
        self, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> None:
        """Make the folder, or go on in it.

        Args:
          settings: of the run, as JSON can hold them.
          defaults: what a setting was that did not exist yet when the folder was made.

        Raises:
          UserError: it cannot be written to, holds something else, or was made with other
            settings.
        """
        ours = not self.path.exists() or (self.path / STATE).is_dir()
        if not ours and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(
                f"{self.path} holds something that preparation did not make; give a new folder"
            )
        try:
            for folder in (self._done, self._parts, self._plans, self._shards):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written to: {one_line(error)}") from error
        text = json.dumps(settings, indent=1, sort_keys=True)
        if not self._settings.exists():
            _write(self._settings, text)
            return
        was = _leaves(defaults or {}) | _leaves(json.loads(self._settings.read_text("utf-8")))
        now = _leaves(json.loads(text))
        differ = [name for name in now if now[name] != was.get(name)]
        if differ:
            told = "; ".join(f"{n} {was.get(n)!r} and not {now[n]!r}" for n in differ)
            raise UserError(
                f"{self.path} was made with other settings: {one_line(told)}; "
                "give the same ones, or a new folder"
            )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within it no other run works in the folder; what killed runs left half done is gone.

        Raises:
          UserError: another run is at work here.
        """
        with self._lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"another run is at work in {self.path}; wait for it or stop it"
                ) from error
            state = self.path / STATE
            for folder in (self.path, state, *(p for p in state.iterdir() if p.is_dir())):
                for rest in folder.iterdir():
                    if UNFINISHED.fullmatch(rest.name) and rest.is_file():
                        rest.unlink(missing_ok=True)
            yield

    def is_done(self, key: str) -> bool:
        """Whether a video needs no work."""
        return (self._done / f"{key}.json").exists()

    def forget(self, videos: Mapping[str, str]) -> None:
        """Make sure that no video is known by another content than it has now.

        Args:
          videos: the keys of all videos, by name.

        Raises:
          UserError: a video of which there are clips has changed.
        """
        changed = []
        for key, receipt in self.receipts().items():
            if videos.get(receipt["video"], key) != key:
                if receipt["clips"]:
                    changed.append(receipt["video"])
                else:
                    (self._done / f"{key}.json").unlink(missing_ok=True)
        if changed:
            raise UserError(
                f"{len(changed)} videos have changed since their clips were made, the first "
                f"{min(changed)!r}; give a new folder"
            )

    def count(self, keys: Iterable[str]) -> int:
        """How many of these videos are done."""
        return sum(map(self.is_done, keys))

    def finish(self, key: str, video: str, made: Iterable[Kept | Rejected], times: Times) -> None:
        """Write what a video gave; it is done when all is written.

        `times` is looked at after the last clip.
        """
        rejects: list[Rejected] = []
        kept: list[dict[str, Any]] = []

        def records() -> Iterator[bytes]:
            for item in made:
                if isinstance(item, Rejected):
                    rejects.append(item)
                else:
                    about = {"start": item.start, "end": item.end, "frames": item.frames}
                    kept.append(about | {"scores": item.scores})
                    yield item.record

        stream = records()
        first = next(stream, None)
        if first is not None:
            write_shard(self._parts / f"{key}.array_record", _chained(first, stream))
        about = {
            "video": video,
            "clips": kept,
            "rejects": [dataclasses.asdict(reject) for reject in rejects],
            "times": times.steps,
            "seconds": times.video,
        }
        _write(self._done / f"{key}.json", json.dumps(about))

    def receipts(self) -> dict[str, dict[str, Any]]:
        """What each video gave, by key, in the order of the keys."""
        paths = sorted(self._done.glob("*.json"))
        return {path.stem: json.loads(path.read_text("utf-8")) for path in paths}

    def assemble(self, shard_size: int) -> None:
        """Put the clips of all videos that are done into shards, and write the index.

        Clips that are in shards already stay there. The order is that of the keys, which is the
        same for every run and has nothing to do with the videos' names.

        Raises:
          UserError: there are no clips at all.
        """
        receipts = self.receipts()
        plans = [json.loads(p.read_text("utf-8")) for p in sorted(self._plans.glob("*.json"))]
        planned = {key for plan in plans for pieces in plan.values() for key, *_ in pieces}
        new = {
            key: len(receipt["clips"])
            for key, receipt in receipts.items()
            if receipt["clips"] and key not in planned
        }
        if new:
            plan = _plan(new, shard_size, len(plans))
            _write(self._plans / f"{len(plans):03d}.json", json.dumps(plan))
            plans.append(json.loads(json.dumps(plan)))
        shards = {}
        for plan in plans:
            for name, following in itertools.zip_longest(plan, list(plan)[1:]):
                shards[name] = self._shard(name, [Piece(*piece) for piece in plan[name]])
                needed = {key for key, *_ in plan.get(following, ())}
                for key in {key for key, *_ in plan[name]} - needed:
                    (self._parts / f"{key}.array_record").unlink(missing_ok=True)
        if not shards:
            more = f"{self.path / REJECTS} says more, line by line"
            raise UserError(f"no clip is left to use{self._why()}; {more}")
        kept = [shard for shard in shards.values() if shard is not None]
        if kept:
            write_index(self.path, kept)
        self._sweep({shard.file for shard in kept})

    def _why(self) -> str:
        """How often each reason was one, and the most frequent one's own words."""
        rejects = [reject for receipt in self.receipts().values() for reject in receipt["rejects"]]
        if not rejects:
            return ""
        codes = Counter(reject["code"] for reject in rejects).most_common()
        text = next(reject["text"] for reject in rejects if reject["code"] == codes[0][0])
        return f" ({', '.join(f'{code} {n}' for code, n in codes)}; such as: {text})"

    def write_rejects(self, failed: Iterable[Rejected]) -> int:
        """Write rejects.jsonl, by video and time; returns how many lines it has."""
        found = [reject for receipt in self.receipts().values() for reject in receipt["rejects"]]
        found += [dataclasses.asdict(reject) for reject in failed]
        found += [dataclasses.asdict(reject) for reject in self.dropped()]
        found.sort(key=lambda reject: (reject["video"], reject["start"], reject["code"]))
        _write(self.path / REJECTS, "".join(json.dumps(reject) + "\n" for reject in found))
        return len(found)

    def dropped(self) -> list[Rejected]:
        """Clips that review took out."""
        path = self.path / STATE / "dropped.json"
        if not path.exists():
            return []
        return [Rejected(**line) for line in json.loads(path.read_text("utf-8"))]

    def replace(self, plan: Mapping[str, list[bytes]], dropped: Iterable[Rejected]) -> None:
        """Write shards anew: by the old shard's name, the records that stay."""
        _write(
            self.path / STATE / "dropped.json",
            json.dumps([dataclasses.asdict(line) for line in dropped]),
        )
        for name, records in plan.items():
            about = None
            if records:
                digest = hashlib.sha256(b"".join(hashlib.sha256(r).digest() for r in records))
                stem = name.removesuffix(".array_record").split("+")[0]
                file = f"{stem}+{digest.hexdigest()[:8]}.array_record"
                about = dataclasses.asdict(write_shard(self.path / file, records))
            _write(self._shards / f"{name}.json", json.dumps(about))
        shards = [self._known(path) for path in sorted(self._shards.glob("*.json"))]
        kept = [shard for shard in shards if shard is not None]
        if not kept:
            raise UserError("review drops every clip; keep one at least")
        write_index(self.path, kept)
        self._sweep({shard.file for shard in kept})

    def shard_files(self) -> dict[str, str]:
        """Each shard's first name, and the file that it is in now."""
        known = {path.stem: self._known(path) for path in sorted(self._shards.glob("*.json"))}
        return {name: shard.file for name, shard in known.items() if shard is not None}

    def _shard(self, name: str, pieces: list[Piece]) -> Shard | None:
        """A shard's description, of one that is there or is written now."""
        path = self._shards / f"{name}.json"
        if not path.exists():
            shard = write_shard(self.path / name, self._read(pieces))
            _write(path, json.dumps(dataclasses.asdict(shard)))
        return self._known(path)

    def _known(self, path: Path) -> Shard | None:
        about = json.loads(path.read_text("utf-8"))
        return (
            None
            if about is None
            else Shard(**about | {"layout": Layout.from_dict(about["layout"])})
        )

    def _read(self, pieces: Iterable[Piece]) -> Iterator[bytes]:
        for key, first, count in pieces:
            reader = ArrayRecordReader(str(self._parts / f"{key}.array_record"))
            try:
                for i in range(first, first + count):
                    (record,) = reader.read([i])
                    yield record
            finally:
                reader.close()

    def _sweep(self, used: set[str]) -> None:
        """Removes shards that the index no longer names."""
        for path in self.path.glob("clips-*.array_record"):
            if path.name not in used:
                path.unlink(missing_ok=True)


def video_key(name: str, path: Path) -> str:
    """What a video is known by: its name and content (its size and both ends), 16 hex digits."""
    digest = hashlib.sha256(name.encode())
    with contextlib.suppress(OSError), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"\0{size}\0".encode())
        digest.update(file.read(ENDS))
        if size > ENDS:
            file.seek(max(ENDS, size - ENDS))
            digest.update(file.read(ENDS))
    return digest.hexdigest()[:16]


def is_set(folder: Path) -> bool:
    """Whether there is a data set in the folder."""
    return (folder / INDEX).exists()


def _leaves(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"cuts": {"longest": 30}} -> {"cuts.longest": 30}."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{before}{name}.")
        else:
            found[before + name] = value
    return found


def _plan(clips: Mapping[str, int], shard_size: int, number: int) -> dict[str, list[Piece]]:
    """Shards of equal size of these parts' clips, in order."""
    flat = [(key, i) for key, count in sorted(clips.items()) for i in range(count)]
    plan = {}
    for i, first in enumerate(range(0, len(flat), shard_size)):
        pieces: list[Piece] = []
        for key, index in flat[first : first + shard_size]:
            if pieces and pieces[-1].key == key:
                pieces[-1] = pieces[-1]._replace(many=pieces[-1].many + 1)
            else:
                pieces.append(Piece(key, index, 1))
        plan[f"clips-{number:03d}-{i:05d}.array_record"] = pieces
    return plan


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _write(path: Path, text: str) -> None:
    """Put a file in place in one step."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, "utf-8")
    os.replace(unfinished, path)
