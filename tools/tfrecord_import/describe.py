"""What features a set has, and a map that may fit it."""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.errors import UserError, one_line
from tools.tfrecord_import.sources import Input, Source
from tools.tfrecord_import.wire import Feature

RECORDS = 32
EXAMPLES = 20
SAMPLES = 2000  # numbers; a list of more is sound

# By what a file starts with, at an offset.
MAGIC = {
    "jpeg picture": (0, b"\xff\xd8\xff"),
    "png picture": (0, b"\x89PNG"),
    "webp picture": (8, b"WEBP"),
    "mp4 video": (4, b"ftyp"),
    "mkv or webm video": (0, b"\x1a\x45\xdf\xa3"),
    "avi video": (8, b"AVI "),
    "wav sound": (8, b"WAVE"),
    "flac sound": (0, b"fLaC"),
    "ogg sound": (0, b"OggS"),
    "mp3 sound": (0, b"ID3"),
}
# By what a name has in it, in the order in which they are asked.
NAMES = {
    "fps": r"fps|frame_?rate",
    "audio_rate": r"sampl\w*_?rate|audio\w*rate|^rate$|_sr$|^sr$|hz",
    "audio_channels": r"channels?$",
    "emotion": r"emotion|expression|affect|label|feel",
    "identity": r"identity|speaker|person|subject|actor",
    "licence": r"licen[cs]e",
    "source": r"source|file|path|url|name|(^|[/_])key$",
    "corpus": r"corpus|dataset",
}


@dataclass
class Seen:
    """A feature of several records.

    Attributes:
      kind: "bytes", "float" or "int"; "mixed" where records differ.
      records: how many have it.
      lengths: how many values each has.
      steps: whether it is of a sequence.
      content: what the values are, as far as they tell.
      examples: the first few short values.
    """

    kind: str
    records: int = 0
    lengths: list[int] = field(default_factory=list)
    steps: bool = False
    content: set[str] = field(default_factory=set)
    examples: list[str] = field(default_factory=list)

    def add(self, feature: Feature) -> None:
        """One more record's."""
        self.kind = self.kind if self.kind == feature.kind else "mixed"
        self.records += 1
        self.steps |= feature.steps is not None
        self.lengths.append(len(feature.values))
        self.content.add(_content(feature))
        if len(feature.values) == 1 and len(self.examples) < EXAMPLES:
            shown = _shown(feature.values[0])
            if shown and shown not in self.examples:
                self.examples.append(shown)

    @property
    def single(self) -> bool:
        """Whether every record has one value."""
        return set(self.lengths) == {1}

    @property
    def range(self) -> str:
        """The lengths, as a person reads them."""
        low, high = min(self.lengths), max(self.lengths)
        return str(low) if low == high else f"{low} to {high}"


def survey(source: Source, inputs: Sequence[Input]) -> tuple[dict[str, Seen], int]:
    """The features of the first records, by name, and how many records that were.

    Raises:
      UserError: there are no records that can be read.
    """
    found: dict[str, Seen] = {}
    count = 0
    entries = (entry for file in inputs for entry in source.read(file, count=RECORDS))
    readable = (entry.features for entry in entries if entry.features is not None)
    for features in itertools.islice(readable, RECORDS):
        count += 1
        for name, feature in features.items():
            found.setdefault(name, Seen(feature.kind)).add(feature)
    if not count:
        raise UserError(f"{inputs[0].path} and the others have no record that can be read")
    return dict(sorted(found.items())), count


def table(found: Mapping[str, Seen], count: int) -> str:
    """Features, one on a line."""
    rows = [("feature", "type", "values", "records", "what")]
    for name, seen in found.items():
        what = ", ".join(seen.examples[:3]) or ", ".join(sorted(seen.content - {""}))
        kind = f"{seen.kind} sequence" if seen.steps else seen.kind
        rows.append((name, kind, seen.range, f"{seen.records}/{count}", what))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in rows
    )


def proposal(found: Mapping[str, Seen]) -> tuple[dict[str, Any], list[str]]:
    """A map as JSON, and what is to be checked or filled in."""
    chosen: dict[str, Any] = {}
    notes: list[str] = []
    of = {kind: [n for n, s in found.items() if _is(s, kind)] for kind in ("video", "picture")}
    if of["video"]:
        chosen["video"] = {"feature": of["video"][0]}
    elif of["picture"]:
        chosen["images"] = {"feature": max(of["picture"], key=lambda n: max(found[n].lengths))}
    else:
        notes.append("no video and no pictures were recognised: say which feature they are")
    chosen |= _sound(found, notes)
    taken = {entry["feature"] for entry in chosen.values()}
    for wanted, pattern in NAMES.items():
        for name, seen in found.items():
            plain = seen.single and seen.content <= {"", "text"} and name not in taken
            if plain and wanted not in chosen and re.search(pattern, name.lower()):
                chosen[wanted] = {"feature": name}
                taken.add(name)
    form = chosen.get("audio", {}).get("form", "file")
    if form == "file":
        for name in ("audio_rate", "audio_channels"):
            chosen.pop(name, None)
    elif "audio_rate" not in chosen:
        chosen["audio_rate"] = {"value": 16000}
        notes.append("audio_rate: no feature says it; 16000 Hz is a guess")
    if "images" in chosen and "fps" not in chosen:
        chosen["fps"] = {"value": 25}
        notes.append("fps: no feature says it; 25 is a guess")
    if "emotion" not in chosen:
        notes.append("emotion: no feature says it; it is what the model hears, or unknown")
    else:
        labels = found[chosen["emotion"]["feature"]].examples
        others = sorted(label for label in labels if label.casefold() not in EMOTIONS)
        if others:
            chosen["emotion"]["names"] = {label: _class(label) for label in others}
            notes.append("emotion: names say which class each label is; look at them")
    if "licence" not in chosen:
        chosen["licence"] = {"value": ""}
        notes.append("licence: say what may be done with the clips")
    return chosen, notes


def _class(label: str) -> str:
    """The class whose name is most like a label's; "" where none is."""
    return next(iter(difflib.get_close_matches(label.casefold(), EMOTIONS, 1, 0.5)), "")


def _sound(found: Mapping[str, Seen], notes: list[str]) -> dict[str, Any]:
    for name, seen in found.items():
        if _is(seen, "sound"):
            return {"audio": {"feature": name}}
    for name, seen in found.items():
        if seen.kind in ("float", "int") and min(seen.lengths) >= SAMPLES and not seen.steps:
            big = any("beyond 1" in content for content in seen.content)
            form = "int16" if seen.kind == "int" or big else "float"
            return {"audio": {"feature": name, "form": form}}
    for name, seen in found.items():
        named = re.search(r"audio|wav|sound|pcm|speech", name.lower())
        if named and seen.single and seen.content == {"bytes"}:
            notes.append("audio: bytes of no known file, taken for samples of 16 bits")
            return {"audio": {"feature": name, "form": "bytes-int16"}}
    return {}


def _is(seen: Seen, what: str) -> bool:
    return bool(seen.content) and all(content.endswith(what) for content in seen.content)


def _content(feature: Feature) -> str:
    if not len(feature.values):
        return ""
    if feature.kind != "bytes":
        if len(feature.values) == 1:
            return ""
        low, high = np.min(feature.values), np.max(feature.values)
        return "numbers beyond 1" if max(-low, high) > 1 else "numbers of at most 1"
    value = feature.values[0]
    for name, (at, start) in MAGIC.items():
        if value[at : at + len(start)] == start:
            return name
    if value[:1] == b"\xff" and len(value) > 1 and value[1] & 0xE0 == 0xE0:
        return "mp3 sound"
    return "text" if _shown(value) else "bytes"


def _shown(value: Any) -> str:
    """A short value as text; "" where it is none."""
    if not isinstance(value, bytes):
        return f"{value:g}"
    try:
        text = value[:400].decode() if len(value) <= 400 else ""
    except UnicodeDecodeError:
        return ""
    return one_line(text)[:40] if text.isprintable() else ""
