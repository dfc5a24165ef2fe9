"""review.csv: decisions on clips, and a data set without those that are dropped."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from memo_jax.data.record import decode
from memo_jax.data.store import Store
from memo_jax.errors import UserError, one_line
from memo_jax.prepare.folder import Folder
from memo_jax.prepare.listing import clip_name, name_of
from memo_jax.prepare.reasons import Rejected

KEEP, DROP = "keep", "drop"
FIELDS = ("clip", "decision")


def read_review(path: Path) -> dict[str, str]:
    """Decisions by the clip's name; of several on one clip the last counts.

    Raises:
      UserError: no such file, or lines that are no decisions.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"review {str(path)!r} cannot be read: {one_line(error)}") from error
    found = {}
    for number, row in enumerate(rows, 2):
        if not row.get("clip") or row.get("decision") not in (KEEP, DROP):
            raise UserError(
                f"review {str(path)!r}, line {number}: expected the columns "
                f"{','.join(FIELDS)} with {KEEP} or {DROP}"
            )
        found[row["clip"]] = row["decision"]
    return found


def write_review(path: Path, decisions: Mapping[str, str]) -> None:
    """Write decisions, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        writer.writerows(sorted(decisions.items()))
    os.replace(unfinished, path)


def apply_review(folder: Folder, path: Path) -> int:
    """Take dropped clips out of a folder's data set; returns how many went now.

    Only shards that hold one are written anew.

    Raises:
      UserError: the list cannot be read, or drops every clip.
    """
    drop = {name for name, decision in read_review(path).items() if decision == DROP}
    dropped = {clip_name(line.video, line.start): line for line in folder.dropped()}
    store = Store(folder.path)
    kept: dict[str, list[bytes]] = {}
    touched, gone = set(), 0
    names = {file: name for name, file in folder.shard_files().items()}
    for number in range(len(store)):
        record = store[number]
        clip, file = decode(record), Path(store.where(number)).name.split("[")[0]
        name = names[file]
        if name_of(clip) in drop:
            touched.add(name)
            gone += 1
            source = clip.source
            dropped[name_of(clip)] = Rejected(
                source.file, source.start, source.end, "review", "dropped in review"
            )
        kept.setdefault(name, [])
    if gone == len(store):
        raise UserError(f"review {str(path)!r} drops every clip; keep one at least")
    if touched:
        for number in range(len(store)):
            name = names[Path(store.where(number)).name.split("[")[0]]
            if name in touched and name_of(decode(record := store[number])) not in drop:
                kept[name].append(record)
        folder.replace({name: kept[name] for name in sorted(touched)}, dropped.values())
    return gone
