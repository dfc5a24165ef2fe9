"""The native model folder: model.json beside one Orbax checkpoint for each component.

model.json          format version, sampler, components' configs, licence and origin
<component>/        an Orbax checkpoint of {"path": {"to": {"kernel": array}}}
face_analysis/      optional: the release's ONNX face models
vocal_separator/    optional: the release's ONNX vocal separator
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from memo_jax.errors import UserError, one_line
from memo_jax.weights import build, checkpoint
from memo_jax.weights.components import COMPONENTS, assemble
from memo_jax.weights.rules import ConversionError
from memo_jax.weights.spec import ModelSpec


@dataclass
class Model:
    """A model in memory: its spec, its networks by component name, and the folder they are from
    (None for one made in memory)."""

    spec: ModelSpec
    modules: dict[str, nnx.Module] = field(default_factory=dict)
    folder: Path | None = None


def read_component(folder: Path, spec: ModelSpec, name: str, dtype: Any) -> nnx.Module:
    """One network of a native folder, to multiply in `dtype`.

    Raises:
      UserError: its checkpoint is missing or damaged, or does not fit its config.
    """
    path = component_path(folder, name)
    found = checkpoint.shapes(path)
    try:
        graphdef, shapes = COMPONENTS[name].abstract(spec.parts[name].config, dtype)
    except UserError:
        raise
    except Exception as error:  # whatever sizes that do not go together lead to
        raise UserError(f"{folder}: nothing has the config of {name}: {one_line(error)}") from error
    problems = [f"missing {path}" for path in shapes if path not in found]
    problems += [f"unknown {path}" for path in found if path not in shapes]
    problems += [
        f"{path} has shape {found[path].shape}, its config means {leaf.shape}"
        for path, leaf in shapes.items()
        if path in found and found[path].shape != leaf.shape
    ]
    if problems:
        raise ConversionError(str(path), problems)
    values: dict[str, Any] = {}
    for group in checkpoint.groups(found):
        read = checkpoint.restore(path, group)
        values |= {name: stored(value, dtype) for name, value in read.items()}
    return assemble(graphdef, values)


def component_path(folder: Path, name: str) -> Path:
    """Where a component's checkpoint lies.

    Raises:
      UserError: it is not there.
    """
    path = (folder / name).absolute()
    if not path.is_dir():
        raise UserError(f"{folder}: no {name}/ beside model.json; the model is incomplete")
    return path


def stored(value: np.ndarray, dtype: Any) -> Any:
    """A weight as generation holds it: matrices in the dtype they are multiplied in, the rest
    (norms, biases, tables of one axis) in float32."""
    return jnp.asarray(value, dtype if value.ndim > 1 else jnp.float32)


def write_model(folder: Path, model: Model) -> None:
    """Write a native model folder, whole or not at all.

    Raises:
      UserError: the folder exists already.
    """
    with new_folder(folder) as unfinished:
        for name, module in model.modules.items():
            values = build.flatten(nnx.state(module))
            checkpoint.save(unfinished / name, {k: np.asarray(v) for k, v in values.items()})
        (unfinished / "model.json").write_text(model.spec.to_json(), "utf-8")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes the name `folder` when the block ends, whole, or is removed
    when it fails.

    Raises:
      UserError: `folder` exists already, or cannot be made.
    """
    folder = folder.absolute()
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists already; give a new folder")
    try:
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {one_line(error)}") from error
    unfinished.chmod(0o755)  # mkdtemp's are closed to others
    try:
        yield unfinished
        os.replace(unfinished, folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(unfinished)
