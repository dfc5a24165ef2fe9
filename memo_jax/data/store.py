"""A data set on disk: shards of records, and one file that says what is in them.

dataset.json                              schema, layout, counts, shards, who shows which emotion
clips-00000-of-000NN.array_record         records (`memo_jax.data.record`), each readable alone

A file that ends too soon opens as an empty one, and one that is not there as well; so the sizes
of all shards stand in dataset.json and are compared when a data set is opened.
"""

import bisect
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from grain.sources import ArrayRecordDataSource
from jaxtyping import Int

from memo_jax.data.clip import BadRecord, Clip, Layout
from memo_jax.data.record import SCHEMA, encode, peek
from memo_jax.errors import UserError, one_line

INDEX = "dataset.json"
# Groups of one, because training reads in random order. Pictures do not get smaller, and reading
# compressed features takes three times as long for a fifth less of them.
OPTIONS = "group_size:1,uncompressed"

People = dict[str, dict[str, dict[str, list[int]]]]
"""Record numbers by corpus, identity and the clip's emotion, where all three are known."""


@dataclass(frozen=True)
class Shard:
    """One file of records. `people` counts records from the shard's first."""

    file: str
    records: int
    bytes: int
    seconds: float
    layout: Layout
    people: People


def write_shards(
    folder: str | os.PathLike[str], clips: Iterable[Clip | bytes], shard_size: int = 64
) -> None:
    """Write a data set, whole or not at all.

    Args:
      folder: a new or empty one.
      clips: clips, or records of them.
      shard_size: records in a shard; the last one may have fewer.

    Raises:
      UserError: the folder holds something, there are no clips, or they differ in layout.
      BadRecord: a clip that the schema refuses.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already; give a new folder")
    if shard_size < 1:
        raise UserError(f"shard_size {shard_size}, expected 1 or more")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {one_line(error)}") from error
    unfinished.chmod(0o755)  # mkdtemp's are closed to others
    try:
        records = (clip if isinstance(clip, bytes) else encode(clip) for clip in clips)
        parts: list[Shard] = []
        for first in records:
            rest = itertools.islice(records, shard_size - 1)
            path = unfinished / f"{len(parts)}.array_record"
            parts.append(write_shard(path, itertools.chain([first], rest)))
        shards = []
        for i, part in enumerate(parts):
            name = f"clips-{i:05d}-of-{len(parts):05d}.array_record"
            os.replace(unfinished / part.file, unfinished / name)
            shards.append(dataclasses.replace(part, file=name))
        write_index(unfinished, shards)
        os.replace(unfinished, folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(unfinished)


def write_shard(path: str | os.PathLike[str], records: Iterable[bytes]) -> Shard:
    """Write one shard, whole or not at all; `write_index` makes a data set of several.

    Raises:
      UserError: no records, or records that differ in layout.
      BadRecord: bytes that are no record.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    people: People = {}
    layout, count, seconds = None, 0, 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        writer = ArrayRecordWriter(str(unfinished), OPTIONS)
        try:
            for record in records:
                clip = peek(record)
                layout = _same(layout, clip.layout, f"record {count} of {path.name}")
                if clip.corpus and clip.identity and clip.clip_emotion:
                    emotions = people.setdefault(clip.corpus, {}).setdefault(clip.identity, {})
                    emotions.setdefault(clip.clip_emotion, []).append(count)
                writer.write(record)
                count, seconds = count + 1, seconds + clip.seconds
        finally:
            writer.close()
        if layout is None:
            raise UserError(f"{path.name} would have no records; give at least one clip")
        size = unfinished.stat().st_size
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return Shard(path.name, count, size, seconds, layout, people)


def write_index(folder: str | os.PathLike[str], shards: Sequence[Shard]) -> None:
    """Make a data set of the shards in a folder, in the order given.

    Raises:
      UserError: no shards, or shards that differ in layout.
    """
    people: People = {}
    layout, first = None, 0
    for shard in shards:
        layout = _same(layout, shard.layout, shard.file)
        _join(people, shard.people, first)
        first += shard.records
    if layout is None:
        raise UserError(f"{folder} would have no clips; give at least one")
    text = json.dumps(
        {
            "schema": SCHEMA,
            "records": first,
            "hours": sum(shard.seconds for shard in shards) / 3600,
            "layout": dataclasses.asdict(layout),
            "shards": [{"file": s.file, "records": s.records, "bytes": s.bytes} for s in shards],
            "people": people,
        }
    )
    unfinished = Path(folder) / f".{INDEX}.{os.getpid()}"
    unfinished.write_text(text, "utf-8")
    os.replace(unfinished, Path(folder) / INDEX)


class _Part(NamedTuple):
    """A shard as ArrayRecord's reader takes it without opening it first."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class Store:
    """One data set, or several as one: `store[i]` is record i's bytes.

    Files are opened when they are first read, in each process anew.

    Attributes:
      layout: what all clips share.
      hours: of video.
      fingerprint: another one for another set of shards, wherever they lie.
    """

    def __init__(self, folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> None:
        """Opens folders as `write_shards` made them.

        Raises:
          UserError: no data set, a shard that is absent or cut short, or layouts that differ.
        """
        if isinstance(folders, str | os.PathLike):
            folders = [folders]
        layout, parts, self.hours = None, [], 0.0
        self._people: People = {}
        self._firsts: list[int] = []
        digest, count = hashlib.sha256(), 0
        for folder in folders:
            index = _read_index(Path(folder))
            layout = _same(layout, index.layout, str(folder))
            _join(self._people, index.people, count)
            self.hours += index.hours
            for file, records, size in index.shards:
                parts.append(_Part(str(_checked(Path(folder, file), size)), 0, records, records))
                digest.update(json.dumps([file, records, size]).encode())
                self._firsts.append(count)
                count += records
        if layout is None:
            raise UserError("no data set; give the folder of at least one")
        self.layout: Layout = layout
        self.fingerprint = digest.hexdigest()[:16]
        self._count = count
        self._parts = parts
        self._source = ArrayRecordDataSource(parts)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, record: int) -> bytes:
        """The bytes of a record.

        Raises:
          BadRecord: the file does not give it.
        """
        if not 0 <= record < self._count:
            raise IndexError(record)
        try:
            return self._source[record]
        except Exception as error:  # the reader has no exceptions of its own
            raise BadRecord("unreadable", f"the shard is damaged ({error})") from error

    def where(self, record: int) -> str:
        """A record's name: its shard, and its place in it from 0."""
        shard = bisect.bisect_right(self._firsts, record) - 1
        return f"{self._parts[shard].filename}[{record - self._firsts[shard]}]"

    def others(self, corpus: str, identity: str, emotion: str) -> Int[np.ndarray, "n"]:
        """The records of the same person with an emotion other than this, which must be known."""
        if not emotion:
            return np.zeros(0, np.int64)
        emotions = self._people.get(corpus, {}).get(identity, {})
        found = [records for name, records in sorted(emotions.items()) if name != emotion]
        return np.array(list(itertools.chain(*found)), np.int64)


def _same(layout: Layout | None, other: Layout, what: str) -> Layout:
    """`other`, which must be `layout` where there is one already; what one of them does not know
    of the audio features, the other may."""
    if layout is None:
        return other
    known = {one.audio_features for one in (layout, other)} - {""}
    if layout != other or len(known) > 1:
        ours, theirs = dataclasses.asdict(layout), dataclasses.asdict(other)
        differ = ", ".join(
            f"{k} {theirs[k]} and not {v}" for k, v in ours.items() if theirs[k] != v
        )
        raise UserError(f"{what} has {differ}; clips of one set must agree, so prepare them alike")
    return layout if layout.audio_features else other


def _join(people: People, more: People, first: int) -> None:
    """Adds `more`, whose records are counted from `first`."""
    for corpus, identities in more.items():
        for identity, emotions in identities.items():
            known = people.setdefault(corpus, {}).setdefault(identity, {})
            for emotion, records in emotions.items():
                known.setdefault(emotion, []).extend(first + record for record in records)


class _Index(NamedTuple):
    """dataset.json, read; shards as (file, records, bytes)."""

    layout: Layout
    people: People
    hours: float
    shards: list[tuple[str, int, int]]


def _read_index(folder: Path) -> _Index:
    if ":/" in str(folder):  # gs://bucket, of which Path leaves one slash
        raise UserError(f"{folder} is no local folder; mount the bucket and give its path")
    path = folder / INDEX
    try:
        found = json.loads(path.read_text("utf-8"))
        if found["schema"] != SCHEMA:
            raise UserError(
                f"{path} has schema {found['schema']!r}, expected {SCHEMA}; prepare the set again"
            )
        shards = [(s["file"], int(s["records"]), int(s["bytes"])) for s in found["shards"]]
        layout = Layout.from_dict(found["layout"])
        return _Index(layout, found["people"], float(found["hours"]), shards)
    except OSError as error:
        raise UserError(
            f"{folder} is no data set: {INDEX} cannot be read ({error.strerror}); "
            "give a folder that preparation wrote"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; copy or prepare the data set again") from error


def _checked(path: Path, expected: int) -> Path:
    """The path of a shard that is there and has its size."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"shard {path} cannot be read ({error.strerror}); copy the data set again"
        ) from error
    if size != expected:
        raise UserError(
            f"shard {path} has {size} bytes, expected {expected}; copy the data set again"
        )
    return path
