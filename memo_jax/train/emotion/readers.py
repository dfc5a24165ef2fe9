"""What a corpus's folder holds: its recordings, with the label and the speaker of each.

Most corpora say both in their files' names (`named`), some in sheets (`tabled`); any corpus can be
given as a listing (`listed`), a JSON, JSONL or CSV file with a row for each recording.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memo_jax.errors import UserError, one_line

# Features that somebody computed stand in for the sound: [width] or [time, width], float.
FEATURES = ".npy"
SOUNDS = (FEATURES, *".wav .flac .mp3 .m4a .ogg .opus .webm .avi .mp4 .mov .aif .aiff".split())
LISTINGS = (".json", ".jsonl", ".csv", ".tsv")

# What a listing may call its columns; the first names are ours, the second ones EmoBox's.
COLUMNS = {
    "path": ("path", "wav", "audio", "file"),
    "label": ("label", "emo", "emotion"),
    "speaker": ("speaker", "spk"),
    "split": ("split",),
    "start": ("start", "start_time"),
    "stop": ("stop", "end_time"),
}
SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}
NOBODY = ("", "unknown", "none", "nan", "/")

# A share of files that cannot be used above which the corpus is taken to be another one.
SKIPPED = 0.01


@dataclass(frozen=True)
class Recording:
    """One recording: its file, the corpus's own label, and who speaks ("" where nobody says).

    `start` and `stop` (seconds) cut a part out of the file. `split` is "train", "valid" or "test"
    where a listing decides, else "".
    """

    path: Path
    label: str
    speaker: str = ""
    start: float | None = None
    stop: float | None = None
    split: str = ""


@dataclass
class Listing:
    """The recordings of a corpus, and what of it could not be understood or found."""

    recordings: list[Recording] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def judged(self, where: Path) -> "Listing":
        """Itself.

        Raises:
          UserError: it is empty, or more than `SKIPPED` of it cannot be used.
        """
        if not self.recordings and not self.skipped:
            raise UserError(f"{where} holds no recordings; expected the corpus as it is published")
        bad, total = len(self.skipped), len(self.skipped) + len(self.recordings)
        if bad > SKIPPED * total:
            first = ", ".join(repr(name) for name in self.skipped[:3])
            raise UserError(
                f"{where}: {bad} of {total} entries are not named as the corpus is published, or "
                f"their files are missing, such as {first}; name the corpus's own folder or give a "
                "listing"
            )
        return self


Reader = Callable[[Path], Listing]


class Folder:
    """The sounds below a folder, found by the ends of their paths without suffix."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._tails: dict[str, list[str]] = {}
        self.files: dict[str, Path] = {}
        order = {suffix: i for i, suffix in enumerate(SOUNDS)}
        found = [
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in order
            and not any(p.startswith((".", "__MACOSX")) for p in path.relative_to(folder).parts)
        ]
        # Of files that differ in their suffix alone the features win.
        for path in sorted(found, key=lambda path: (order[path.suffix.lower()], str(path))):
            name = path.relative_to(folder).with_suffix("").as_posix()
            self.files.setdefault(name, path)

    def find(self, tail: str) -> Path | None:
        """The one sound whose path ends with `tail`; None where there is none, or several."""
        if not self._tails:
            for name in self.files:
                parts = name.split("/")
                for i in range(len(parts)):
                    self._tails.setdefault("/".join(parts[i:]), []).append(name)
        names = self._tails.get(_without_suffix(tail), [])
        return self.files[names[0]] if len(names) == 1 else None


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot + suffix.lower() in SOUNDS else name


def named(pattern: str, aside: str = "") -> Reader:
    """A reader of files whose paths say all.

    `pattern` matches a path's end, without suffix and whatever the case, from the start of a
    file's or folder's name, with groups `label` and `speaker` (both joined with `voice`, where it
    takes two). Files that match `aside` belong to something else that lies there.
    """
    other = re.compile(_ending(aside), re.IGNORECASE) if aside else None

    def read(folder: Path) -> Listing:
        listing = Listing()
        for name, path in sorted(Folder(folder).files.items()):
            if found := matched(pattern, name):
                listing.recordings.append(Recording(path, found["label"], found["speaker"]))
            elif not (other and other.search(name)):
                listing.skipped.append(name)
        return listing

    return read


def _ending(pattern: str) -> str:
    return rf"(?:^|/)(?:{pattern})$"


def matched(pattern: str, name: str) -> dict[str, str] | None:
    """`label` and `speaker` ("" for a group that is not there) of a path without suffix."""
    found = re.search(_ending(pattern), name, re.IGNORECASE)
    if not found:
        return None
    groups = {key: value or "" for key, value in found.groupdict().items()}
    return {
        "label": groups.get("label", ""),
        "speaker": groups.get("speaker", "") + groups.get("voice", ""),
    }


@dataclass(frozen=True)
class Sheet:
    """A file with a row for each recording: CSV, or JSON that maps names to fields.

    `files` is a glob below the corpus's folder; `path` gives the end of a recording's path,
    formatted with the row's fields (JSON: and `key`), of which only the file's name counts where
    it may lie `anywhere`; `label` and `speaker` name fields.
    """

    files: str
    path: str
    label: str
    speaker: str = ""
    delimiter: str = ","
    anywhere: bool = False


def tabled(*sheets: Sheet) -> Reader:
    """A reader of sheets that list the recordings of their folder."""

    def read(folder: Path) -> Listing:
        sounds, listing = Folder(folder), Listing()
        for sheet in sheets:
            files = sorted(folder.glob(sheet.files))
            if not files:
                raise UserError(f"{folder} has no {sheet.files}; it comes with the corpus")
            for file in files:
                for row in rows(file, sheet.delimiter):
                    try:
                        path, label = sheet.path.format(**row), str(row[sheet.label])
                        speaker = str(row[sheet.speaker]) if sheet.speaker else ""
                    except KeyError as error:
                        raise UserError(
                            f"{file} has no column {error}; it has {', '.join(map(str, row))}"
                        ) from error
                    path = path.rpartition("/")[2] if sheet.anywhere else path
                    add(listing, sounds, path, label, speaker)
        return listing

    return read


def add(listing: Listing, sounds: Folder, path: str, label: str, speaker: str = "") -> None:
    """Append the recording whose path ends with `path`, or its name among the skipped."""
    if found := sounds.find(path):
        listing.recordings.append(Recording(found, label.strip(), somebody(speaker)))
    else:
        listing.skipped.append(path)


def somebody(speaker: str) -> str:
    """A speaker's name, "" for what corpora write where they do not know."""
    return "" if str(speaker).strip().casefold() in NOBODY else str(speaker).strip()


def rows(file: Path, delimiter: str = ",") -> Iterator[dict[str, Any]]:
    """The rows of a CSV, JSON or JSONL file; a JSON object's get their name as `key`.

    Raises:
      UserError: it cannot be read.
    """
    try:
        if file.suffix == ".jsonl":
            lines = file.read_text("utf-8").splitlines()
            yield from (dict(_mapping(json.loads(line))) for line in lines if line.strip())
        elif file.suffix == ".json":
            data = json.loads(file.read_text("utf-8"))
            items = data.items() if isinstance(data, dict) else enumerate(data)
            yield from ({"key": key, **_mapping(value)} for key, value in items)
        else:
            with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines_of:
                yield from (
                    {k.strip(): v for k, v in row.items() if k and v is not None}
                    for row in csv.DictReader(lines_of, delimiter=delimiter)
                )
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {one_line(error)}") from error


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected named values for each recording, found {str(value)[:40]!r}")
    return value


def listed(file: Path, pattern: str = "") -> Listing:
    """A listing of any corpus: JSON, JSONL or CSV with the columns of `COLUMNS`, as EmoBox's are.

    Paths are relative to the listing's folder or, as in EmoBox, to one above it. Where a listing
    names no speakers, `pattern` (`named`) finds them in the paths.

    Raises:
      UserError: it cannot be read, lacks a column, or names a split that is none.
    """
    entries = [_entry(file, row) for row in rows(file, "\t" if file.suffix == ".tsv" else ",")]
    base = _base(file, [entry["path"] for entry in entries])
    listing = Listing()
    for entry in entries:
        path = base / entry["path"]
        if not path.is_file():
            listing.skipped.append(str(entry["path"]))
            continue
        speaker = somebody(entry.get("speaker", ""))
        if not speaker and pattern:
            found = matched(pattern, _without_suffix(Path(entry["path"]).as_posix()))
            speaker = found["speaker"] if found else ""
        start, stop = (_seconds(file, entry.get(name)) for name in ("start", "stop"))
        split = str(entry.get("split") or "").strip().casefold()
        if split and split not in SPLITS:
            raise UserError(f"{file}: split {split!r}; expected one of {', '.join(SPLITS)}")
        listing.recordings.append(
            Recording(
                path, str(entry["label"]).strip(), speaker, start, stop, SPLITS.get(split, "")
            )
        )
    if any(r.split for r in listing.recordings) and not all(r.split for r in listing.recordings):
        raise UserError(f"{file}: some rows name a split and some do not; name all or none")
    return listing


def _entry(file: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    entry = {}
    for ours, names in COLUMNS.items():
        for name in names:
            if row.get(name) not in (None, ""):
                entry[ours] = row[name]
                break
    for needed in ("path", "label"):
        if needed not in entry:
            raise UserError(
                f"{file}: a row has no {needed}; expected one of the columns "
                f"{', '.join(COLUMNS[needed])}, found {', '.join(map(str, row))}"
            )
    return entry


def _seconds(file: Path, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError as error:
        raise UserError(f"{file}: {value!r} is no time; expected seconds") from error


def _base(file: Path, paths: Sequence[str]) -> Path:
    """The nearest folder at or above the listing that its first paths are relative to."""
    folders: Iterable[Path] = (file.parent, *file.absolute().parent.parents)
    for folder in folders:
        if any((folder / path).is_file() for path in paths[:20]):
            return folder
    return file.parent
