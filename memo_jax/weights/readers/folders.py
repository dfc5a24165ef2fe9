"""From a path to its tensors: what kind of file it is, and which files of a folder are meant."""

import json
from pathlib import Path

import numpy as np

from memo_jax.errors import UserError, one_line
from memo_jax.weights.readers.legacy import MAGIC, open_legacy
from memo_jax.weights.readers.machine import shown
from memo_jax.weights.readers.pickled import open_pickled
from memo_jax.weights.readers.safetensors import open_safetensors
from memo_jax.weights.readers.tensors import Tensors

HEAD = 512
ZIP = b"PK\x03\x04"
MAX_HEADER = 100_000_000  # of safetensors, by its own rule
OPENERS = {"safetensors": open_safetensors, "zip": open_pickled, "legacy": open_legacy}

# In order of preference. Within a line the first wins; two lines of one kind are ambiguous.
SAFETENSORS = (
    ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
    ("model.safetensors",),
)
PICKLES = (
    ("diffusion_pytorch_model.bin",),
    ("pytorch_model.bin",),
    ("model.pt",),
    ("model.ckpt",),
)
KINDS = ((".safetensors.index.json", SAFETENSORS), (".bin.index.json", PICKLES))


def open_tensors(path: Path) -> Tensors:
    """The tensors of a weight file, told by its content, or of a folder of weights.

    A folder: a sharded set with its index, else a file of a usual name, else its only weight
    file; safetensors before pickles.

    Raises:
      UserError: nothing there, not weights, damaged, ambiguous, or unsafe to read.
    """
    path = Path(path)
    if not path.is_dir():
        return _open_file(path)
    found = _in_folder(path)
    return _open_shards(found) if found.name.endswith(".index.json") else _open_file(found)


def is_weights(path: Path) -> bool:
    """Whether a file looks like weights by its first bytes, or a folder holds such files."""
    path = Path(path)
    try:
        if path.is_dir():
            return any(_is_index(p) or _looks_like_weights(p) for p in path.iterdir())
        return _looks_like_weights(path)
    except OSError:
        return False


def _looks_like_weights(path: Path) -> bool:
    if not path.is_file():
        return False
    head = _head(path)
    kind = _kind(head)
    # A spreadsheet is a zip too; torch.save and TorchScript begin with one of these.
    return kind is not None and (kind != "zip" or any(n in head for n in (b"/data.pkl", b"/data/")))


def _is_index(path: Path) -> bool:
    return path.name.endswith(tuple(suffix for suffix, _ in KINDS)) and path.is_file()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _kind(head: bytes) -> str | None:
    if head.startswith(ZIP):
        return "zip"
    if head.startswith(MAGIC):
        return "legacy"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER:
        return "safetensors"
    return None


def _open_file(path: Path) -> Tensors:
    try:
        head = _head(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({one_line(error.strerror)})") from error
    start = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path} is a Git LFS pointer, not the weights; "
            "run `git lfs pull` where it was cloned, or download the file itself"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(
            f"{path} is a web page, not weights: its download failed; "
            "download it again (some models ask for a login first)"
        )
    kind = _kind(head)
    if kind is None and path.suffix == ".safetensors":
        kind = "safetensors"  # whose reader says what is wrong with it
    if kind is None:
        raise UserError(
            f"{path} is neither a safetensors file nor one that torch.save wrote; "
            "expected weights: download it again"
        )
    return OPENERS[kind](path)


def _in_folder(folder: Path) -> Path:
    """The index or weight file that a folder means."""
    try:
        files = sorted(p for p in folder.iterdir() if p.is_file())
        names = {p.name for p in files}
        for suffix, lines in KINDS:
            indexes = [name for name in sorted(names) if name.endswith(suffix)]
            known = [name for line in lines for name in [n for n in line if n in names][:1]]
            if found := indexes or known:
                return folder / _only(folder, found)
        weights = [p for p in files if _looks_like_weights(p)]
        safe = [p for p in weights if _kind(_head(p)) == "safetensors"]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({one_line(error.strerror)})") from error
    if not weights:
        usual = [name for _, lines in KINDS for line in lines for name in line]
        raise UserError(f"{folder} holds no weights; expected one of {', '.join(usual)}")
    return folder / _only(folder, [p.name for p in safe or weights])


def _only(folder: Path, names: list[str]) -> str:
    if len(names) > 1:
        raise UserError(f"{folder} holds several weights ({', '.join(names)}); name the one meant")
    return names[0]


def _open_shards(index: Path) -> Tensors:
    """The tensors that an index lists, each from its shard; nothing outside the folder."""
    try:
        listed = json.loads(index.read_text("utf-8"))["weight_map"].items()
        shards = {name: _shard(index, file) for name, file in listed}
        files = list(dict.fromkeys(shards.values()))
        missing = [path.name for path in files if not path.is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{index} is not an index of shards ({shown(error)}); download it again"
        ) from error
    if not files:
        raise UserError(f"{index} lists no tensors; download it again")
    if missing:
        lacks = ", ".join(shown(name) for name in missing)
        raise UserError(f"{index.parent} lacks {lacks}; download the whole set")
    opened = {path: _open_file(path) for path in files}
    arrays: dict[str, np.ndarray] = {}
    for name, path in shards.items():
        if name not in opened[path]:
            raise UserError(
                f"{index} places {name!r} in {path.name}, which lacks it; download the set again"
            )
        arrays[name] = opened[path][name]
    metadata = {k: v for tensors in opened.values() for k, v in tensors.metadata.items()}
    return Tensors(arrays, files, metadata)


def _shard(index: Path, file: str) -> Path:
    # By name, not by resolving: in the hub's cache the files themselves are links to elsewhere.
    if file in ("", ".", "..") or "/" in file or "\\" in file or "\0" in file:
        raise UserError(f"{index} points outside its folder ({file!r}); refused")
    return index.parent / file
