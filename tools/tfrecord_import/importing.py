"""The import: every part that is not done yet, and at the end the data set of all."""

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from memo_jax.data.store import write_shard
from memo_jax.errors import UserError
from tools.tfrecord_import.journal import Bad, Journal, Part, claimed, count
from tools.tfrecord_import.mapping import RecordMap, check_features
from tools.tfrecord_import.reasons import Tally, Unusable
from tools.tfrecord_import.sources import Entries, Entry, Input, Source
from tools.tfrecord_import.wire import Feature

Convert = Callable[[Mapping[str, Feature], str], bytes]
"""Makes a record of features and of where they are from; raises Unusable."""

LOOKED_AT = 16  # records of the first file, in one of which every feature of the map must be


def import_set(
    folder: Path,
    source: Source,
    inputs: Sequence[Input],
    convert: Convert,
    plan: dict[str, Any],
    *,
    bad_share: float = 0.01,
    shard_size: int = 64,
    threads: int = 2,
    quiet: bool = False,
) -> Tally:
    """Import all inputs into a folder, going on with what is there.

    Args:
      folder: a new one, or that of an import that was stopped.
      source: what reads the inputs.
      inputs: the files, in order.
      convert: called by several threads.
      plan: all that decides what the clips are, as JSON can hold it.
      bad_share: more of the records than this share make no clip: the import stops.
      shard_size: records of an input that go into one shard.
      threads: that convert.
      quiet: without a progress bar.

    Raises:
      UserError: whatever the user can mend.
    """
    if threads < 1 or shard_size < 1 or not 0 <= bad_share <= 1:
        raise UserError(
            f"{threads} threads, shards of {shard_size}, bad share {bad_share:g}; expected 1 and "
            "1 at least, and 0 to 1"
        )
    with claimed(folder), contextlib.ExitStack() as stack:
        journal = Journal(folder, {**plan, "shard_size": shard_size}, inputs)
        tally = journal.tally(bad_share)
        tally.judge()
        bar = stack.enter_context(_bar(inputs, quiet))
        pool = ThreadPoolExecutor(threads)
        stack.callback(pool.shutdown, cancel_futures=True)
        before = 0
        for file in inputs:
            done = journal.parts[file]
            if not (done and done[-1].last):
                entries = source.read(file, sum(part.records for part in done))
                made = _converted(entries, file, pool, convert, 2 * threads)
                shown = _shown(made, bar, before)
                for part in _parts(journal, file, entries, shown, shard_size):
                    count(tally, part)
                    tally.judge()
            before += file.size
            bar.update(before - bar.n)
        tally.judge(whole=True)
        if not tally.seen - tally.bad.total():
            raise UserError(f"there is no clip: {tally}")
        journal.finish(tally)
    return tally


def look(source: Source, inputs: Sequence[Input], record_map: RecordMap) -> None:
    """Whether the first records have what the map reads, before all of them are found wanting.

    Raises:
      UserError: a feature that none of them has.
    """
    for file in inputs:
        found = list(source.read(file, count=LOOKED_AT))
        features = [entry.features for entry in found if entry.features is not None]
        if features:
            names = set(itertools.chain.from_iterable(features))
            where = f"{file.path} (its first {len(found)} records)"
            check_features(record_map, names, where)
            return


class _Made(NamedTuple):
    """What became of an entry: how far the file is read, its name, its record or why it has none,
    and how many are lost with it."""

    position: int
    name: str
    record: bytes | Unusable
    lost: int


def _parts(
    journal: Journal,
    file: Input,
    entries: Entries,
    made: Generator[_Made, None, None],
    shard_size: int,
) -> Iterator[Part]:
    """Makes the parts of a file that are missing, and notes them."""
    done = journal.parts[file]
    first = sum(part.records for part in done)
    with contextlib.closing(entries), contextlib.closing(made):
        while not (done and done[-1].last):
            bad: list[Bad] = []
            seen = itertools.count()
            records = _good(itertools.islice(made, shard_size), bad, seen)
            head = next(records, None)
            shard = None
            if head is not None:
                name = journal.name(file, len(done))
                shard = write_shard(name, itertools.chain([head], records))
            n = next(seen)
            part = Part(first, n, bad, shard, last=n < shard_size)
            journal.add(file, part)
            yield part
            first += n


def _converted(
    entries: Iterator[Entry], file: Input, pool: ThreadPoolExecutor, convert: Convert, ahead: int
) -> Generator[_Made, None, None]:
    """What becomes of entries, in order; `ahead` are in work at once."""

    def made(entry: Entry) -> _Made:
        name = f"{file.path}[{entry.number}]"
        record: bytes | Unusable = Unusable(entry.code, entry.text)
        if entry.features is not None:
            try:
                record = convert(entry.features, os.path.basename(name))
            except Unusable as error:
                record = error
        return _Made(entry.position, name, record, max(1, entry.lost))

    waiting: deque[Future[_Made]] = deque()
    for entry in entries:
        waiting.append(pool.submit(made, entry))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


def _shown(made: Iterator[_Made], bar: Any, before: int) -> Generator[_Made, None, None]:
    """The same, with the bar moved on; `before` are the bytes of the files that are done."""
    for one in made:
        bar.update(max(0, before + one.position - bar.n))
        yield one


def _good(made: Iterator[_Made], bad: list[Bad], seen: Iterator[int]) -> Iterator[bytes]:
    """The records alone; what is none goes to `bad`, and `seen` counts both."""
    for one in made:
        next(seen)
        if isinstance(one.record, bytes):
            yield one.record
        else:
            bad.append((one.name, one.record.code, one.record.text, one.lost))


def _bar(inputs: Sequence[Input], quiet: bool) -> Any:
    total = sum(file.size for file in inputs)
    return tqdm(total=total, unit="B", unit_scale=True, disable=quiet)
