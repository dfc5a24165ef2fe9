"""Components as they are found in somebody's files, whatever the form, under our names."""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from memo_jax.errors import UserError, one_line
from memo_jax.weights import checkpoint
from memo_jax.weights.components import COMPONENTS, renamed
from memo_jax.weights.folder import component_path
from memo_jax.weights.layouts import Layout, Tensors, named, recognise, unaccounted
from memo_jax.weights.readers import is_weights, open_tensors
from memo_jax.weights.rules import ConversionError, import_tensors
from memo_jax.weights.spec import check_types, read_spec

# Parts of other people's folders that hold weights and nothing of MEMO's.
_NOT_OURS = {"text_encoder", "text_encoder_2", "safety_checker", "tokenizer", "image_encoder"}
_DEPTH = 3
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Found:
    """One component in files.

    `shapes` are those of our parameters by path; `read` gives the named ones as numpy arrays,
    views on mapped files where it can. `form` says what the files are.
    """

    component: str
    config: Any
    form: str
    where: Path
    shapes: Mapping[str, Any]
    read: Callable[[Sequence[str]], dict[str, np.ndarray]]
    origin: str = ""
    licence: str = ""

    @property
    def parameters(self) -> int:
        """How many numbers."""
        return sum(int(np.prod(leaf.shape)) for leaf in self.shapes.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """How many numbers of each dtype."""
        counts: dict[str, int] = {}
        for leaf in self.shapes.values():
            kind = str(np.dtype(leaf.dtype))
            counts[kind] = counts.get(kind, 0) + int(np.prod(leaf.shape))
        return counts

    def groups(self) -> Iterator[dict[str, np.ndarray]]:
        """All parameters, some at a time."""
        for names in checkpoint.groups(self.shapes):
            yield self.read(names)


def find(path: Path) -> list[Found]:
    """Every component below `path`: a native folder, one in the published layout, a diffusers or
    transformers folder, a single file of weights.

    Raises:
      UserError: there is none, one is there twice, or its files are damaged.
      ConversionError: tensors missing, unknown or misshapen.
    """
    if (path / "model.json").is_file():
        return _native(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a folder or a file of weights")
    places = list(places_in(path))
    found: dict[str, Found] = {}
    for place in places:
        for one in _in_place(place):
            if one.component in found:
                raise UserError(
                    f"{path} holds {one.component} twice, in {found[one.component].where} and "
                    f"{one.where}; name the one to use"
                )
            found[one.component] = one
    if not found:
        raise UserError(
            f"{path} holds no weights that are known here; expected MEMO, Stable Diffusion 1.5, "
            "AnimateDiff, wav2vec2 or emotion2vec"
        )
    return sorted(found.values(), key=lambda one: list(COMPONENTS).index(one.component))


def only(path: Path, component: str) -> Found:
    """The one named component below `path`.

    Raises:
      UserError: it is not there, and as `find`.
    """
    found = find(path)
    for one in found:
        if one.component == component:
            return one
    raise UserError(
        f"{path} holds {', '.join(one.component for one in found)}; expected {component}"
    )


def _native(folder: Path) -> list[Found]:
    spec = read_spec(folder, whole=False)
    found = []
    for name, part in spec.parts.items():
        path = component_path(folder, name)
        found.append(
            Found(
                component=name,
                config=part.config,
                form="native",
                where=path,
                shapes=checkpoint.shapes(path),
                read=functools.partial(checkpoint.restore, path),
                origin=part.origin,
                licence=part.licence,
            )
        )
    return found


def places_in(path: Path) -> Iterator[Path]:
    """Files and folders that hold the weights of something."""
    if path.is_file():
        yield path
        return
    # A diffusers repository has whole checkpoints beside its folders: the same weights again.
    if _has_weights(path) and not (path / "model_index.json").is_file():
        yield path
        return
    yield from _below(path, _DEPTH)


def _below(folder: Path, depth: int) -> Iterator[Path]:
    for child in sorted(folder.iterdir()):
        if not child.is_dir() or child.name.startswith(".") or child.name in _NOT_OURS:
            continue
        if _claims_weights(child):
            yield child
        elif depth > 1:
            yield from _below(child, depth - 1)


def _claims_weights(folder: Path) -> bool:
    """Whether a folder says that it holds a network, even if its weights are lost or damaged."""
    return (folder / "config.json").is_file() or _has_weights(folder)


def _has_weights(folder: Path) -> bool:
    return any(
        child.is_file() and (child.suffix in _WEIGHTS or is_weights(child))
        for child in folder.iterdir()
    )


def _in_place(place: Path) -> list[Found]:
    tensors = open_tensors(place)
    layouts = recognise(tensors) or named(place.name)
    strangers = unaccounted(tensors, layouts)
    if strangers:
        raise ConversionError(str(place), [f"unknown tensor {name}" for name in strangers])
    return [_torch(place, layout, layout.own(tensors)) for layout in layouts]


def _torch(place: Path, layout: Layout, tensors: Tensors) -> Found:
    part = COMPONENTS[layout.component]
    try:
        if layout.config is not None:
            config = layout.config(tensors)
        else:
            config = part.config.from_torch(_settings(place, layout))
        check_types(config)
        _, expected = part.abstract(config)
    except UserError as error:
        text = one_line(error)
        raise UserError(text if str(place) in text else f"{place}: {text}") from error
    except Exception as error:  # whatever sizes that do not go together lead to
        where = place if layout.config is not None else _beside(place, layout.settings)
        raise UserError(f"{where}: {layout.component}: {one_line(repr(error))}") from error
    values = import_tensors(
        f"{place} ({layout.component})",
        (layout.rules or part.rules)(config),
        renamed(part, tensors),
        {name: leaf.shape for name, leaf in expected.items()},
    )
    return Found(
        component=layout.component,
        config=config,
        form=layout.name,
        where=place,
        shapes={k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in values.items()},
        read=lambda names: {name: values[name] for name in names},
        origin=str(place.name),
    )


def _beside(place: Path, name: str) -> Path:
    return (place if place.is_dir() else place.parent) / name


class _Yaml(yaml.SafeLoader):
    """Plain values alone, and 1e-05 is a number, as in JSON and in what writes these files."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def _settings(place: Path, layout: Layout) -> dict[str, Any]:
    """The PyTorch config that lies with the weights."""
    names = dict.fromkeys((layout.settings, "config.json", "configuration.json"))
    path = next(
        (file for name in names if (file := _beside(place, name)).is_file()),
        _beside(place, layout.settings),
    )
    try:
        text = path.read_text("utf-8")
        settings = yaml.load(text, _Yaml) if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read: {one_line(error)}; it comes with the weights, copy it again"
        ) from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} is not a config: expected named values")
    if layout.component == "emotion2vec":
        settings = settings.get("model_conf", settings)
    if layout.component == "wav2vec2":
        from transformers import Wav2Vec2Config  # slow to import, and only its defaults are needed

        settings = Wav2Vec2Config(**settings).to_dict()
    return settings


def to_dtype(name: str, value: np.ndarray, kind: np.dtype) -> np.ndarray:
    """`value` in another dtype.

    Raises:
      UserError: a finite number becomes infinite.
    """
    if value.dtype == kind:
        return value
    with np.errstate(over="ignore"):
        changed = value.astype(kind)
    lost = ~np.isfinite(changed.astype(np.float32)) & np.isfinite(value.astype(np.float32))
    if lost.any():
        raise UserError(
            f"{name} has {int(lost.sum())} numbers too large for {kind}; use bfloat16 or float32"
        )
    return changed
