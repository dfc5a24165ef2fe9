"""The published files memo_jax can use: where they are, how they are checked, who owns them.

`manifest.json` holds `sources` (a repository of the Hugging Face hub and its files), `models` (the
sources a model is put together from, and the folder each goes into) and `judges` (single files of
networks that judge videos, which the user fetches). A size or hash is there only where somebody
else states it, and `checked` says where; null means that a source's file is checked against what
the hub itself states for the revision that is downloaded, and a judge's by its tensors' names.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "manifest.json"

FORMAT = 1


@dataclass(frozen=True)
class File:
    """One file of a source.

    `usual` files are fetched unless others are asked for; the rest are other forms of the same
    weights. `sha256` is 64 hex digits, `size` is in bytes.
    """

    path: str
    component: str
    licence: str
    licence_url: str
    size: int | None = None
    sha256: str | None = None
    checked: str | None = None
    usual: bool = True
    note: str = ""


@dataclass(frozen=True)
class Source:
    """A repository: `revision` is a commit where one is pinned, else None for its newest state."""

    repository: str
    licence: str = ""
    licence_url: str = ""
    page: str = ""
    revision: str | None = None
    note: str = ""
    files: tuple[File, ...] = ()


@dataclass(frozen=True)
class Part:
    """A source within a model; its files lie in the folder `into` ("" is the model's own)."""

    source: Source
    into: str = ""

    def place(self, file: File) -> str:
        """Where the file lies in the model's folder."""
        return f"{self.into}/{file.path}" if self.into else file.path


@dataclass(frozen=True)
class PublishedModel:
    """A model by the name people know it by."""

    id: str
    parts: tuple[Part, ...]

    def files(self) -> Iterator[tuple[Part, File]]:
        """Every usual file, with the part it is of."""
        for part in self.parts:
            yield from ((part, file) for file in part.source.files if file.usual)


@dataclass(frozen=True)
class Judge:
    """A network that judges videos: one file, fetched by the user and never by this package.

    `command` takes it by `option`; `url` is where the file itself is, `page` its authors' own.
    """

    name: str
    what: str
    file: str
    command: str
    option: str
    url: str
    page: str
    licence: str
    licence_url: str
    size: int | None = None
    sha256: str | None = None
    checked: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Manifest:
    """All sources and models, by repository and by id, and judges by name."""

    sources: Mapping[str, Source]
    models: Mapping[str, PublishedModel]
    judges: Mapping[str, Judge]


def read_manifest() -> Manifest:
    """The manifest that comes with the package."""
    return _read(PATH)


def sources() -> tuple[Source, ...]:
    """Every repository that files come from."""
    return tuple(read_manifest().sources.values())


def model(model_id: str) -> PublishedModel | None:
    """The model of that id, None where the manifest has none."""
    return read_manifest().models.get(model_id)


def judges() -> Mapping[str, Judge]:
    """The networks that judge videos, by name."""
    return read_manifest().judges


@functools.cache
def _read(path: Path) -> Manifest:
    data = json.loads(path.read_text("utf-8"))
    assert data["format"] == FORMAT
    found = {name: _source(name, fields) for name, fields in data["sources"].items()}
    models = {
        name: PublishedModel(name, tuple(Part(found[p["source"]], p["into"]) for p in parts))
        for name, parts in data["models"].items()
    }
    judges = {name: Judge(name, **fields) for name, fields in data["judges"].items()}
    return Manifest(found, models, judges)


def _source(repository: str, fields: dict[str, Any]) -> Source:
    owner = {name: fields[name] for name in ("licence", "licence_url")}
    files = tuple(File(**{**owner, **file}) for file in fields["files"])
    return Source(repository, **{**fields, "files": files})
