"""What `--model` takes: a bundled preset, a native model folder, or a published PyTorch one."""

import difflib
import os
from pathlib import Path
from typing import Any

from memo_jax.errors import UserError
from memo_jax.weights.folder import Model, read_component, read_spec
from memo_jax.weights.published import is_published, read_published

_BUNDLED = Path(__file__).parent.parent / "assets" / "models"


def presets() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in _BUNDLED.glob("*/model.json"))


def load_model(source: str | Path, dtype: Any) -> Model:
    """The model that `source` names, to multiply in `dtype`.

    Raises:
      UserError: there is nothing of that name, or it is no whole model.
    """
    folder = Path(source)
    if str(source) in presets():
        folder = _BUNDLED / str(source)
    elif not os.path.isdir(folder):  # unlike Path.is_dir, also for a name that is too long
        near = difflib.get_close_matches(str(source), presets(), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"no model {str(source)!r}; {hint}expected a model folder or one of the bundled "
            f"{', '.join(presets())}"
        )
    if (folder / "model.json").is_file():
        spec = read_spec(folder)
        modules = {name: read_component(folder, spec, name, dtype) for name in spec.parts}
        return Model(spec, modules, folder)
    if is_published(folder):
        return read_published(folder, dtype)
    raise UserError(
        f"{folder} is no model: expected model.json (a native model) or diffusion_net/config.json "
        "(the published layout) in it"
    )
