"""What of a model is here, without reading its weights: what `memo_jax.doctor` says of a model."""

import importlib.util
import json
import os
import shlex
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import safetensors

from memo_jax.errors import UserError, one_line
from memo_jax.weights import checkpoint, manifest
from memo_jax.weights.components import COMPONENTS
from memo_jax.weights.hub import is_hub_id, size_text
from memo_jax.weights.published import PLACES
from memo_jax.weights.sources import presets
from memo_jax.weights.spec import REQUIRED, read_spec

OK: Final = "ok"
MISSING: Final = "missing"
PROBLEM: Final = "problem"

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")

_BUNDLED = Path(__file__).parent.parent / "assets" / "models"


@dataclass(frozen=True)
class Finding:
    """A part of a model: `fix` is what to type, `needed` whether no video is made without it."""

    name: str
    state: Literal["ok", "missing", "problem"]
    detail: str
    fix: str = ""
    needed: bool = False


def examine(name: str) -> Iterator[Finding]:
    """All parts of what `--model name` means: a preset, a folder, or a hub id."""
    yield Finding("presets", OK, ", ".join(presets()))
    if name in presets():
        yield from _folder(_BUNDLED / name)
    elif os.path.isdir(name):
        yield from _folder(Path(name))
    elif is_hub_id(name):
        yield from _hub_model(name)
    else:
        detail = f"{_short(name)}: no preset, folder or hub id (owner/name)"
        fix = f"--model with one of {', '.join(presets())}, a folder that exists, or a hub id"
        yield Finding("model", MISSING, detail, fix, needed=True)


def _folder(folder: Path) -> Iterator[Finding]:
    if (folder / "model.json").exists():
        yield from _native(folder)
    elif any((folder / place).is_dir() for place in ("diffusion_net", "reference_net")):
        yield from _published(folder)
    else:
        detail = f"{folder} holds neither model.json nor the published layout's diffusion_net/"
        fix = f"python -m tools.convert_weights import {folder} NEW_FOLDER"
        yield Finding("model", MISSING, detail, fix, needed=True)


def _native(folder: Path) -> Iterator[Finding]:
    again = "python -m tools.convert_weights import memoavatar/memo NEW_FOLDER"
    try:
        spec = read_spec(folder, whole=False)
    except UserError as error:
        yield Finding("model.json", PROBLEM, _short(error), again, needed=True)
        return
    notes = f" ({spec.notes})" if spec.notes else ""
    yield Finding("model.json", OK, f"{folder}, native{notes}")
    needed = _needed(heard_by_wav2vec2=spec.log_mel is None)
    for name in COMPONENTS:
        path = folder / name
        if name not in spec.parts:
            if name in needed or spec.log_mel is None:
                detail = f"not in this model{_without(name)}"
                yield Finding(name, MISSING, detail, again, name in needed)
            continue
        terms = spec.parts[name].licence or "not stated"
        if not path.is_dir():
            detail = f"expected in {path}"
            yield Finding(name, MISSING, detail, "copy the model again", True)
            continue
        try:
            count = len(checkpoint.shapes(path))
        except Exception as error:  # damaged files make Orbax raise many kinds
            detail = f"damaged: {_short(error).removesuffix('; copy the model again')}"
            yield Finding(name, PROBLEM, detail, "copy the model again", True)
            continue
        yield Finding(name, OK, f"{count} tensors, {size_text(_bytes(path))}; licence {terms}")
    yield from _onnx(folder, spec.identity == "arcface", spec.log_mel is None)


def _published(folder: Path) -> Iterator[Finding]:
    yield Finding("layout", OK, f"{folder}, as published")
    needed = _needed(heard_by_wav2vec2=True)
    published = {file.component for _, file in _memo().files()}
    for name, places in PLACES.items():
        path = next((folder / place for place in places if (folder / place).is_dir()), None)
        if path is None and name not in published:
            continue
        fix = _download(name, folder) if name in published else "copy it again"
        if path is None:
            detail = f"expected in {folder / places[0]}{_without(name)}"
            yield Finding(name, MISSING, detail, fix, name in needed)
        elif problem := _damage(path):
            yield Finding(name, PROBLEM, f"{path}: {problem}", fix, needed=True)
        else:
            detail = (
                f"{path.relative_to(folder)}, {size_text(_bytes(path))}; licence {_licence(name)}"
            )
            yield Finding(name, OK, detail)
    yield from _onnx(folder, arcface=True, separates=True)


def _damage(place: Path) -> str:
    """What is wrong with a published component's files, as far as their ends and heads tell."""
    configs = [place / "config.json", place / "config.yaml"]
    if not any(path.is_file() for path in configs):
        return "has no config.json"
    if configs[0].is_file():
        try:
            json.loads(configs[0].read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            return f"config.json cannot be read ({_short(error)})"
    files = sorted(path for path in place.iterdir() if path.suffix in WEIGHTS)
    if not files:
        return f"has no weights ({', '.join(WEIGHTS)})"
    for path in files:
        try:
            if path.suffix == ".safetensors":
                with safetensors.safe_open(path, "np"):
                    pass
            elif not zipfile.is_zipfile(path) and path.read_bytes()[:1] != b"\x80":
                return f"{path.name} is no whole PyTorch file"
        except (OSError, safetensors.SafetensorError) as error:
            return f"{path.name} is not whole ({_short(error)})"
    return ""


def _hub_model(name: str) -> Iterator[Finding]:
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    fetched = f"python -m memo_jax.sample --model {name}   (fetches it first)"
    repository, _, revision = name.partition("@")
    known = manifest.model(repository)
    if known is None:
        try:
            at = snapshot_download(repository, revision=revision or None, local_files_only=True)
        except Exception:  # huggingface_hub's many ways to say no
            detail = f"{name} is not on this machine"
            yield Finding("model", MISSING, detail, fetched, needed=True)
            return
        yield from _folder(Path(at))
        return
    files: dict[str, list[tuple[int | None, bool]]] = {}
    for part, file in known.files():
        own = part.source.repository == repository
        at = (own and revision) or part.source.revision or "main"
        cached = try_to_load_from_cache(part.source.repository, file.path, revision=at)
        files.setdefault(file.component, []).append((file.size, isinstance(cached, str)))
    needed = _needed(heard_by_wav2vec2=True)
    lacking = [component for component in needed if component not in files]
    if lacking:
        detail = f"{name} is no whole model: it has only {', '.join(files)}"
        yield Finding("model", PROBLEM, detail, "--model memoavatar/memo", needed=True)
    here = {component for component, those in files.items() if all(got for _, got in those)}
    if not lacking:
        whole = len(here) == len(files)
        detail = f"{name}, {len(here)} of its {len(files)} parts are on this machine"
        yield Finding("model", OK if whole else MISSING, detail, fetched, not here >= set(needed))
    for component, those in files.items():
        sizes = [size for size, _ in those if size]
        size = f"{size_text(sum(sizes))}, " if len(sizes) == len(those) else ""
        detail = f"{size}licence {_licence(component, repository)}"
        if component in here:
            yield Finding(component, OK, f"in the hub's cache, {detail}")
        else:
            yield Finding(component, MISSING, f"not fetched yet, {detail}", "", component in needed)
    if "face_analysis" in files:
        yield from _runtime()


def _onnx(folder: Path, arcface: bool, separates: bool) -> Iterator[Finding]:
    """The face models and the vocal separator beside a model."""
    found = {}
    for name in ("face_analysis", "vocal_separator"):
        places = (folder / name, folder / "misc" / name)
        place = next((path for path in places if path.is_dir()), None)
        found[name] = sorted(place.rglob("*.onnx")) if place else []
    stems = [path.stem for path in found["face_analysis"]]
    whole = any(s.startswith("scrfd") for s in stems) and {"glintr100", "w600k_r50"} & set(stems)
    if not arcface and not stems:
        yield Finding("face_analysis", OK, "not used: this model tells faces by pixels")
    elif whole:
        yield Finding("face_analysis", OK, f"licence {_licence('face_analysis')}")
    else:
        detail = f"scrfd_*.onnx and glintr100.onnx expected in {folder / 'face_analysis'}"
        detail += "; without them videos show the face less faithfully"
        fix = _download("face_analysis", folder)
        yield Finding("face_analysis", MISSING, detail, fix)
    if found["vocal_separator"]:
        yield Finding("vocal_separator", OK, f"licence {_licence('vocal_separator')}")
    elif separates:
        detail = f"an .onnx file expected in {folder / 'vocal_separator'}; needed only for music"
        fix = _download("vocal_separator", folder)
        yield Finding("vocal_separator", MISSING, detail, fix)
    else:
        yield Finding("vocal_separator", OK, "not used")
    if stems or found["vocal_separator"]:
        yield from _runtime()


def _runtime() -> Iterator[Finding]:
    if importlib.util.find_spec("onnxruntime") is None:
        detail, fix = (
            "not installed, and this model's .onnx files need it",
            "pip install -e '.[onnx]'",
        )
        yield Finding("onnxruntime", MISSING, detail, fix, needed=True)


def _needed(heard_by_wav2vec2: bool) -> tuple[str, ...]:
    return (*REQUIRED, "wav2vec2") if heard_by_wav2vec2 else REQUIRED


def _without(name: str) -> str:
    emotional = name in ("emotion2vec", "emotion_classifier")
    return "; without it emotions are not heard, only given by --emotion" if emotional else ""


def _download(component: str, folder: Path) -> str:
    """The line that puts a published component into a folder of the published layout."""
    those = [(part, file) for part, file in _memo().files() if file.component == component]
    part = those[0][0]
    at = f" --revision {part.source.revision}" if part.source.revision else ""
    paths = " ".join(file.path for _, file in those)
    where = shlex.quote(str(folder / part.into))
    return f"hf download {part.source.repository} {paths}{at} --local-dir {where}"


def _licence(component: str, model: str = "memoavatar/memo") -> str:
    """The licence under which a component is published, where it is."""
    found = manifest.model(model)
    files = found.files() if found else ()
    return next((file.licence for _, file in files if file.component == component), "not stated")


def _memo() -> manifest.PublishedModel:
    memo = manifest.model("memoavatar/memo")
    assert memo is not None
    return memo


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _short(error: object) -> str:
    text = one_line(error)
    return text if len(text) <= 160 else f"{text[:157]}..."
