"""PyTorch weights of any known form -> a native model folder, a group of tensors at a time."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memo_jax.config import SamplerConfig
from memo_jax.errors import UserError, one_line
from memo_jax.weights import checkpoint
from memo_jax.weights.folder import new_folder
from memo_jax.weights.found import Found, find, to_dtype
from memo_jax.weights.spec import REQUIRED, ModelSpec, Part

# Folders of ONNX files that come with the release and are used as they are.
ONNX_FOLDERS = ("face_analysis", "vocal_separator")

Told = Callable[[str], None]


def import_model(
    sources: Sequence[Path],
    folder: Path,
    *,
    name: str | None = None,
    dtype: Any = None,
    licences: Mapping[str, tuple[str, str]] | None = None,
    tell: Told = lambda line: None,
) -> ModelSpec:
    """Write everything that `sources` hold as one native model folder, whole or not at all.

    Args:
      dtype: of all weights; as they are stored, unless given.
      licences: component -> (origin, licence), where they are known.
      tell: is given a line for every component.

    Raises:
      UserError: nothing is known there, a component is there twice, or files are damaged.
      ConversionError: tensors missing, unknown or misshapen.
    """
    found = merged(sources)
    if all(one.form == "native" for one in found.values()):
        raise UserError(f"{sources[0]} is a native model already; nothing to import")
    kind = None if dtype is None else np.dtype(dtype)
    known = licences or {}
    with new_folder(folder) as unfinished:
        for one in found.values():
            tell(f"{one.component}: {one.parameters / 1e6:,.1f} M parameters, {one.form}")
            checkpoint.save(unfinished / one.component, *writable(one, kind))
        onnx = copy_onnx(sources, unfinished)
        if onnx:
            tell(f"ONNX files: {', '.join(onnx)}")
        spec = ModelSpec(
            name=name or folder.name,
            sampler=_sampler(found.values()),
            parts={
                one.component: Part(
                    one.config, *known.get(one.component, (one.origin, one.licence))
                )
                for one in found.values()
            },
            notes=_notes(found),
        )
        (unfinished / "model.json").write_text(spec.to_json(), "utf-8")
    return spec


def merged(sources: Iterable[Path]) -> dict[str, Found]:
    """Every component of several sources, none of them twice; raises as `find`."""
    found: dict[str, Found] = {}
    for source in sources:
        for one in find(source):
            if one.component in found:
                raise UserError(
                    f"{one.component} is both in {found[one.component].where} and in {one.where}; "
                    "leave one of them out"
                )
            found[one.component] = one
    return found


def writable(
    found: Found, kind: np.dtype | None = None
) -> tuple[dict[str, Any], Callable[[str, Any], np.ndarray]]:
    """A component as `checkpoint.save` takes it: leaves, and what makes each ready for writing."""
    values = found.read(list(found.shapes))
    return values, lambda name, value: value if kind is None else to_dtype(name, value, kind)


def copy_onnx(sources: Iterable[Path], folder: Path) -> list[str]:
    """Copy the release's ONNX folders below `sources`; the names of those there were."""
    copied = []
    for source in sources:
        for name in ONNX_FOLDERS:
            for place in (source / name, source / "misc" / name):
                if place.is_dir() and any(place.rglob("*.onnx")) and name not in copied:
                    try:
                        shutil.copytree(place, folder / name)
                    except (OSError, shutil.Error) as error:
                        raise UserError(f"{place} cannot be copied: {one_line(error)}") from error
                    copied.append(name)
    return copied


def _sampler(found: Iterable[Found]) -> SamplerConfig:
    """The release samples in its own way; what was not trained by it, in the way of new models."""
    released = any(one.component == "diffusion_net" and one.form == "published" for one in found)
    return SamplerConfig.released() if released else SamplerConfig()


def _notes(found: Mapping[str, Found]) -> str:
    missing = [name for name in REQUIRED if name not in found]
    return f"not a whole model: without {', '.join(missing)}" if missing else ""
