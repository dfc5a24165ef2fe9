"""What `--model` takes: a bundled preset, a native folder, PyTorch's layouts, or a hub id."""

import difflib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memo_jax.errors import UserError, one_line
from memo_jax.weights import hub
from memo_jax.weights.cache import cache_folder, content_key
from memo_jax.weights.folder import Model, read_component
from memo_jax.weights.found import places_in
from memo_jax.weights.importing import ONNX_FOLDERS, Told, import_model, merged
from memo_jax.weights.published import PLACES
from memo_jax.weights.readers import open_tensors
from memo_jax.weights.spec import REQUIRED, read_spec

_BUNDLED = Path(__file__).parent.parent / "assets" / "models"

# Counted up when the same files would be converted otherwise, so that none is taken from the cache.
_CONVERSION = 1


def presets() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in _BUNDLED.glob("*/model.json"))


def preset_folder(name: str) -> Path:
    """Where a bundled model lies."""
    return _BUNDLED / name


def load_model(source: str | Path, dtype: Any) -> Model:
    """The model that `source` names, to multiply in `dtype`.

    Raises:
      UserError: there is nothing of that name, or it is no whole model.
    """
    folder = model_folder(source)
    spec = read_spec(folder)
    modules = {name: read_component(folder, spec, name, dtype) for name in spec.parts}
    return Model(spec, modules, folder)


def model_folder(source: str | Path, tell: Told | None = None) -> Path:
    """The native folder of the model that `source` names.

    A folder in PyTorch's layouts is converted the first time, into the user's cache, and found
    there by its content ever after. A hub id is downloaded first.

    Raises:
      UserError: there is nothing of that name, it cannot be had, or is no whole model.
    """
    folder = Path(source)
    if str(source) in presets():
        return preset_folder(str(source))
    known: dict[str, tuple[str, str]] = {}
    if not os.path.isdir(folder):  # unlike Path.is_dir, also for a name that is too long
        if not hub.is_hub_id(str(source)):
            near = difflib.get_close_matches(str(source), presets(), 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(
                f"no model {str(source)!r}; {hint}expected a model folder, a hub id such as "
                f"memoavatar/memo, or one of the bundled {', '.join(presets())}"
            )
        try:
            folder = hub.fetch(str(source))
        except UserError as error:
            raise UserError(f"no model {str(source)!r} here, and from the hub: {error}") from error
        known = hub.licences(str(source))
    if (folder / "model.json").is_file():
        return folder
    return _converted(folder, known, tell or _stderr)


def _stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _converted(folder: Path, known: dict[str, tuple[str, str]], tell: Told) -> Path:
    """The native form of a folder in PyTorch's layouts, from the cache once it has been made."""
    files = list(_read_files(folder))
    if not files:
        raise UserError(
            f"{folder} is no model: expected model.json (a native model) or diffusion_net/ and its "
            "companions (the published layout) in it"
        )
    models = cache_folder() / "models"
    kept = models / f"{folder.resolve().name}-{content_key(folder, files, _CONVERSION)}"
    if (kept / "model.json").is_file():
        return kept
    have = merged([folder])
    for name in (*REQUIRED, "wav2vec2"):
        if name not in have:
            raise UserError(f"{folder} has no {PLACES[name][0]}/; put that part of the model there")
    tell(f"converting {folder} once; the native model stays in {kept}")
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{models} cannot be made: {one_line(error)}; name another cache in MEMO_JAX_CACHE, or "
            "convert the model with tools/convert_weights"
        ) from error
    try:
        import_model([folder], kept, name=folder.resolve().name, licences=known, tell=tell)
    except (OSError, UserError):
        if not (kept / "model.json").is_file():  # made by another run meanwhile
            raise
    return kept


def _read_files(folder: Path) -> Iterator[Path]:
    """Every file that a conversion of `folder` reads."""
    for place in places_in(folder):
        yield from open_tensors(place).files
        for name in ("config.json", "config.yaml", "configuration.json"):
            if (place / name).is_file():
                yield place / name
    for name in ONNX_FOLDERS:
        for found in (folder / name, folder / "misc" / name):
            yield from sorted(found.rglob("*.onnx"))
