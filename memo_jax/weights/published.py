"""The layout in which MEMO is published: PyTorch components, each a config and safetensors.

diffusion_net/ reference_net/ image_proj/ audio_proj/     config.json + *.safetensors
misc/audio_emotion_classifier/                            the same
misc/face_analysis/models/*.onnx  misc/vocal_separator/*.onnx
vae/ wav2vec2/ emotion2vec/       put here from their own releases
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from memo_jax.config import SamplerConfig
from memo_jax.errors import UserError, one_line
from memo_jax.weights.components import COMPONENTS, assemble, import_torch
from memo_jax.weights.folder import REQUIRED, Model, ModelSpec, Part, stored
from memo_jax.weights.rules import ConversionError

# Where each component may lie; the first name is the one that messages give.
PLACES = {
    "vae": ("vae", "sd-vae-ft-mse"),
    "reference_net": ("reference_net",),
    "diffusion_net": ("diffusion_net",),
    "image_proj": ("image_proj",),
    "audio_proj": ("audio_proj",),
    "wav2vec2": ("wav2vec2", "wav2vec2-base-960h"),
    "emotion_classifier": ("misc/audio_emotion_classifier", "audio_emotion_classifier"),
    "emotion2vec": ("emotion2vec", "emotion2vec_plus_large", "misc/emotion2vec_plus_large"),
}

WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")


def is_published(folder: Path) -> bool:
    """Whether a folder looks like a published model."""
    return (folder / "diffusion_net" / "config.json").is_file()


def read_published(folder: Path, dtype: Any) -> Model:
    """A published model, every switch as released, to multiply in `dtype`.

    Raises:
      UserError: a part is missing, cannot be read, or does not fit.
    """
    parts, modules = {}, {}
    for name, places in PLACES.items():
        found = next((folder / place for place in places if (folder / place).is_dir()), None)
        if found is None:
            if name in REQUIRED or name == "wav2vec2":
                raise UserError(f"{folder} has no {places[0]}/; put that part of the model there")
            continue
        with _Tensors(found) as tensors:
            part = COMPONENTS[name]
            try:
                read = _wav2vec2_config if name == "wav2vec2" else _config
                config, graphdef, values = import_torch(part, read(found), tensors, dtype)
            except ConversionError:
                raise
            except Exception as error:  # whatever sizes that do not go together lead to
                raise UserError(f"{found}/config.json: {one_line(error)}") from error
            parts[name] = Part(config, origin=str(found))
            modules[name] = assemble(graphdef, {k: stored(v, dtype) for k, v in values.items()})
    spec = ModelSpec(name=folder.name, sampler=SamplerConfig.released(), parts=parts)
    return Model(spec, modules, folder)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}; copy it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a config: expected a JSON object")
    return config


def _wav2vec2_config(folder: Path) -> dict[str, Any]:
    """The config with what its file leaves to transformers' defaults."""
    from transformers import Wav2Vec2Config  # slow to import, and only this layout needs it

    return Wav2Vec2Config(**_config(folder)).to_dict()


class _Tensors(Mapping[str, np.ndarray]):
    """The tensors of a folder's safetensors file, read one by one as they are asked for."""

    def __init__(self, folder: Path):
        self._path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if self._path is None:
            raise UserError(f"{folder} has none of {', '.join(WEIGHTS)}; put its weights there")

    def __enter__(self) -> "_Tensors":
        try:
            self._file = safetensors.safe_open(self._path, "np")
            self._names = list(self._file.keys())
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(
                f"{self._path} is not a whole safetensors file ({one_line(error)}); "
                "download it again"
            ) from error
        return self

    def __exit__(self, *exception: object) -> None:
        del self._file

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
