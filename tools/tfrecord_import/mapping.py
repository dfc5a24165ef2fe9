"""The map: which feature of an Example holds what of a clip. A JSON file.

    {"video": {"feature": "video/encoded"},
     "emotion": {"feature": "label", "names": {"0": "neutral", "joy": "happy"}},
     "identity": {"feature": "speaker"},
     "licence": {"value": "research only"}}

docs/tfrecord.md lists the fields.
"""

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memo_jax.errors import UserError, one_line
from tools.tfrecord_import.reasons import Unusable
from tools.tfrecord_import.wire import Feature

FIELDS = {
    "video": "an encoded video file",
    "images": "a list of encoded pictures, in order",
    "audio": "sound; a video's own unless given",
    "audio_rate": "Hz of samples",
    "audio_channels": "of samples, interleaved; 1 unless given",
    "fps": "frames per second; a video's own unless given",
    "identity": "who it is",
    "emotion": "the clip's emotion",
    "licence": "what may be done with it",
    "source": "the file it is from",
    "corpus": "the name of the collection",
}
"""What a map may have."""

FORMS = {
    "file": "an encoded file: wav, flac, mp3, ogg, m4a",
    "float": "a list of samples between -1 and 1",
    "int16": "a list of samples between -32768 and 32767",
    "bytes-int16": "samples of 16 bits, little endian, as one string of bytes",
    "bytes-float32": "samples of 32 bits between -1 and 1, as one string of bytes",
    "tensorflow-io": "an encoded file that tensorflow-io decodes (with --tensorflow)",
}
"""How a feature may hold sound."""

ONLY_FEATURES = ("video", "images", "audio")
EXTRA = {"audio": "form", "emotion": "names"}


@dataclass(frozen=True)
class Field:
    """Where a field comes from: a feature of each record, or one value for all of them."""

    feature: str | None = None
    value: str | float | None = None


@dataclass(frozen=True)
class RecordMap:
    """A map that was checked.

    Attributes:
      fields: by name, those that were given.
      form: of FORMS; of the sound.
      names: the class of each of the set's own labels, those that are classes already aside.
    """

    fields: Mapping[str, Field]
    form: str
    names: Mapping[str, str]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def features(self) -> list[str]:
        """The names of all features that it reads."""
        return [field.feature for field in self.fields.values() if field.feature is not None]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        fields = {k: [f.feature, f.value] for k, f in sorted(self.fields.items())}
        return {"fields": fields, "form": self.form, "names": dict(sorted(self.names.items()))}

    def feature(self, found: Mapping[str, Feature], name: str) -> Feature:
        """The feature of a field of ONLY_FEATURES, or of audio_rate and audio_channels.

        Raises:
          Unusable: the record has none of that name, or an empty one.
        """
        wanted = self.fields[name].feature
        assert wanted is not None
        if wanted not in found:
            raise Unusable("feature", f"there is no feature {wanted!r} ({name})")
        if not len(found[wanted].values):
            raise Unusable("feature", f"feature {wanted!r} ({name}) is empty")
        return found[wanted]

    def text(self, found: Mapping[str, Feature], name: str) -> str:
        """A field as text; "" where the map has none.

        Raises:
          Unusable: the record's feature is no single value, or no text.
        """
        value = self._single(found, name)
        if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise Unusable("feature", f"{name} is no text") from error
        return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    def number(self, found: Mapping[str, Feature], name: str) -> float | None:
        """A field as a number above 0; None where the map has none.

        Raises:
          Unusable: the record's feature is none.
        """
        value = self._single(found, name)
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = np.nan
        if not 0 < number < np.inf:
            raise Unusable("feature", f"{name} is {str(value)[:40]!r}, expected a number above 0")
        return number

    def _single(self, found: Mapping[str, Feature], name: str) -> Any:
        if name not in self.fields:
            return None
        if self.fields[name].feature is None:
            return self.fields[name].value
        feature = self.feature(found, name)
        if len(feature.values) != 1:
            raise Unusable("feature", f"{name} has {len(feature.values)} values, expected one")
        value = feature.values[0]
        return value if isinstance(value, bytes) else value.item()


def read_map(path: Path) -> RecordMap:
    """The map of a JSON file.

    Raises:
      UserError: it cannot be read, or does not say what is needed.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(
            f"map {str(path)!r} cannot be read ({error.strerror}); --describe proposes one"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"map {str(path)!r} is no JSON: {one_line(error)}") from error
    try:
        return make_map(data)
    except UserError as error:
        raise UserError(f"map {str(path)!r}: {error}") from error


def make_map(data: Any) -> RecordMap:
    """The map of parsed JSON.

    Raises:
      UserError: it does not say what is needed.
    """
    if not isinstance(data, dict):
        raise UserError("expected an object such as " + '{"video": {"feature": "video/encoded"}}')
    form, names, fields = "file", {}, {}
    for name, entry in data.items():
        known(name, FIELDS, "field")
        fields[name] = _field(name, entry)
    if "audio" in data:
        form = known(data["audio"].get("form", "file"), FORMS, "audio form")
    if "emotion" in data:
        names = data["emotion"].get("names", {})
        if isinstance(names, list):
            names = {str(i): name for i, name in enumerate(names)}
        if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
            raise UserError('emotion names: expected {"label": "class"}, or a list of classes')
    if ("video" in fields) == ("images" in fields):
        raise UserError("expected either video or images")
    if "images" in fields and not {"audio", "fps"} <= set(fields):
        raise UserError("images have no sound and no frame rate of their own: give audio and fps")
    if form not in ("file", "tensorflow-io") and "audio_rate" not in fields:
        raise UserError(f"sound of form {form!r} says no rate: give audio_rate")
    return RecordMap(fields, form, names)


def known(name: Any, names: Collection[str], what: str) -> str:
    """`name`, which must be one of `names`.

    Raises:
      UserError: it is not; the nearest is named.
    """
    if isinstance(name, str) and name in names:
        return name
    near = difflib.get_close_matches(str(name), names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"no {what} {name!r}; {hint}expected one of {', '.join(names)}")


def check_features(record_map: RecordMap, found: Collection[str], where: str) -> None:
    """Whether records have what the map reads; `found` are names of features of some of them.

    Raises:
      UserError: a feature that none has.
    """
    for name, field in record_map.fields.items():
        if field.feature is not None and field.feature not in found:
            near = difflib.get_close_matches(field.feature, found, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(
                f"map: {name} is feature {field.feature!r}, which {where} does not have; {hint}"
                f"it has {', '.join(sorted(found)) or 'none'}"
            )


def _field(name: str, entry: Any) -> Field:
    allowed = {"feature", "value"} | {EXTRA.get(name, "feature")}
    if not isinstance(entry, dict) or not set(entry) <= allowed:
        raise UserError(f"{name}: expected an object of {', '.join(sorted(allowed))}")
    if ("feature" in entry) == ("value" in entry):
        raise UserError(f"{name}: expected either feature or value")
    feature, value = entry.get("feature"), entry.get("value")
    if "feature" in entry and (not isinstance(feature, str) or not feature):
        raise UserError(f"{name}: feature is {feature!r}, expected a name")
    if "value" in entry and name in ONLY_FEATURES:
        raise UserError(f"{name}: one value cannot serve all records, expected a feature")
    if "value" in entry and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        raise UserError(f"{name}: value is {value!r}, expected text or a number")
    if name in ("fps", "audio_rate", "audio_channels") and isinstance(value, str):
        raise UserError(f"{name}: value is {value!r}, expected a number")
    return Field(feature, value)
