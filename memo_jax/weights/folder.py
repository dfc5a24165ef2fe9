"""The native model folder: model.json beside one Orbax checkpoint for each component.

model.json          format version, sampler, components' configs, licence and origin
<component>/        an Orbax checkpoint of {"path": {"to": {"kernel": array}}}
face_analysis/      optional: the release's ONNX face models
vocal_separator/    optional: the release's ONNX vocal separator
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.audio.logmel import LogMelConfig
from memo_jax.config import SamplerConfig
from memo_jax.errors import UserError, one_line
from memo_jax.weights import build
from memo_jax.weights.components import COMPONENTS, assemble, component
from memo_jax.weights.rules import ConversionError

FORMAT = 1

# A model without one of these makes no frames.
REQUIRED = ("vae", "reference_net", "diffusion_net", "image_proj", "audio_proj")


@dataclass(frozen=True)
class Part:
    """One component of a model: its config, where it came from, and under which licence."""

    config: Any
    origin: str = ""
    licence: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """All of a model but its weights; what model.json holds.

    `identity` is how a face becomes an embedding: "arcface" (the release's ONNX models) or
    "pixels" (a thumbnail, for models trained that way). `log_mel` is set where log-mel bands take
    the place of wav2vec2.
    """

    name: str
    sampler: SamplerConfig
    parts: dict[str, Part]
    emotions: tuple[str, ...] = EMOTIONS
    identity: Literal["arcface", "pixels"] = "arcface"
    log_mel: LogMelConfig | None = None
    notes: str = ""

    def to_json(self) -> str:
        """model.json's text."""
        parts = {
            name: {**dataclasses.asdict(part), "config": dataclasses.asdict(part.config)}
            for name, part in self.parts.items()
        }
        return json.dumps(
            {
                "format": FORMAT,
                "name": self.name,
                "notes": self.notes,
                "sampler": dataclasses.asdict(self.sampler),
                "emotions": list(self.emotions),
                "identity": self.identity,
                "log_mel": dataclasses.asdict(self.log_mel) if self.log_mel else None,
                "components": parts,
            },
            indent=1,
        )


@dataclass
class Model:
    """A model in memory: its spec, its networks by component name, and the folder they are from
    (None for one made in memory)."""

    spec: ModelSpec
    modules: dict[str, nnx.Module] = field(default_factory=dict)
    folder: Path | None = None


def read_spec(folder: Path) -> ModelSpec:
    """The spec of a native model folder.

    Raises:
      UserError: model.json is missing, not JSON, of a newer format, or holds a config that does
        not make sense.
    """
    path = folder / "model.json"
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}; is this a model?") from error
    try:
        if data["format"] != FORMAT:
            raise UserError(
                f"{path} has format {data['format']}, this version reads {FORMAT}; "
                "update memo_jax or convert the model again"
            )
        parts = {
            name: Part(
                _config(component(name).config, part["config"]),
                part.get("origin", ""),
                part.get("licence", ""),
            )
            for name, part in data["components"].items()
        }
        missing = [name for name in REQUIRED if name not in parts]
        if missing:
            raise UserError(f"{path} lacks the component(s) {', '.join(missing)}")
        log_mel = data.get("log_mel")
        spec = ModelSpec(
            name=data["name"],
            sampler=_config(SamplerConfig, data["sampler"]),
            parts=parts,
            emotions=_tuple(data["emotions"]),
            identity=data["identity"],
            log_mel=_config(LogMelConfig, log_mel) if log_mel else None,
            notes=data.get("notes", ""),
        )
        _check_types(spec)
        return spec
    except UserError as error:
        text = one_line(error)
        raise UserError(text if str(path) in text else f"{path}: {text}") from error
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{path} is not a model description: {one_line(repr(error))}") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _config(kind: Any, fields: Mapping[str, Any]) -> Any:
    config = kind.from_dict(fields)
    _check_types(config)
    return config


def _check_types(config: Any) -> None:
    """JSON's values against the fields' types, which a dataclass does not look at."""
    hints = get_type_hints(type(config))
    for f in dataclasses.fields(config):
        if not _fits(getattr(config, f.name), hints[f.name]):
            kind = f.type.__name__ if isinstance(f.type, type) else str(f.type)
            raise UserError(
                f"{type(config).__name__}: {f.name} is {getattr(config, f.name)!r}, "
                f"expected {kind.removeprefix('typing.')}"
            )


def _fits(value: Any, hint: Any) -> bool:
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        return value in kinds
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        each = kinds[:1] * len(value) if kinds[-1] is ... else kinds
        return len(each) == len(value) and all(map(_fits, value, each))
    if dataclasses.is_dataclass(hint):
        _check_types(value)
    if hint is float:
        return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
    return type(value) is hint if hint in (int, bool, str) else True


def read_component(folder: Path, spec: ModelSpec, name: str, dtype: Any) -> nnx.Module:
    """One network of a native folder, to multiply in `dtype`.

    Raises:
      UserError: its checkpoint is missing or damaged, or does not fit its config.
    """
    path = (folder / name).absolute()
    if not path.is_dir():
        raise UserError(f"{folder}: no {name}/ beside model.json; the model is incomplete")
    try:
        tree = _restore(path)
    except Exception as error:  # Orbax and tensorstore raise many kinds for damaged files
        raise UserError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); copy the model again"
        ) from error
    values = {build.path_name(path): leaf for path, leaf in _leaves(tree)}
    try:
        graphdef, shapes = COMPONENTS[name].abstract(spec.parts[name].config, dtype)
    except UserError:
        raise
    except Exception as error:  # whatever sizes that do not go together lead to
        raise UserError(f"{folder}: nothing has the config of {name}: {one_line(error)}") from error
    problems = [f"missing {path}" for path in shapes if path not in values]
    problems += [f"unknown {path}" for path in values if path not in shapes]
    problems += [
        f"{path} has shape {values[path].shape}, its config means {leaf.shape}"
        for path, leaf in shapes.items()
        if path in values and values[path].shape != leaf.shape
    ]
    if problems:
        raise ConversionError(str(path), problems)
    return assemble(graphdef, {name: stored(value, dtype) for name, value in values.items()})


def _restore(path: Path) -> Any:
    """A checkpoint as numpy arrays, on whatever devices it was saved."""
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    on_host = ocp.RestoreArgs(restore_type=np.ndarray)
    restore_args = jax.tree.map(lambda _: on_host, checkpointer.metadata(path).item_metadata.tree)
    return checkpointer.restore(path, ocp.args.PyTreeRestore(restore_args=restore_args))


def stored(value: np.ndarray, dtype: Any) -> Any:
    """A weight as generation holds it: matrices in the dtype they are multiplied in, the rest
    (norms, biases, tables of one axis) in float32."""
    return jnp.asarray(value, dtype if value.ndim > 1 else jnp.float32)


def _leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], np.ndarray]]:
    if isinstance(tree, Mapping):
        return [item for key, child in tree.items() for item in _leaves(child, (*path, key))]
    return [(path, tree)]


def write_model(folder: Path, model: Model) -> None:
    """Write a native model folder, whole or not at all.

    Raises:
      UserError: the folder exists already.
    """
    folder = folder.absolute()
    if folder.exists():
        raise UserError(f"{folder} exists already; give a new folder")
    try:
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {one_line(error)}") from error
    unfinished.chmod(0o755)  # mkdtemp's are closed to others
    try:
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        for name, module in model.modules.items():
            tree = nnx.to_pure_dict(nnx.state(module))
            checkpointer.save(unfinished / name, _string_keys(tree))
            # Orbax's note of success names the folder it wrote to, which is not the model's.
            (unfinished / name / "commit_success.txt").unlink(missing_ok=True)
        (unfinished / "model.json").write_text(model.spec.to_json(), "utf-8")
        os.replace(unfinished, folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(unfinished)


def _string_keys(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _string_keys(child) for key, child in tree.items()}
    return tree
