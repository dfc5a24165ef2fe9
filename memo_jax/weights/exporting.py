"""A native model folder -> the published PyTorch layout: safetensors with config.json."""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
from huggingface_hub.serialization import split_state_dict_into_shards_factory

from memo_jax.errors import UserError
from memo_jax.weights import checkpoint
from memo_jax.weights.components import COMPONENTS
from memo_jax.weights.folder import new_folder
from memo_jax.weights.found import Found, find, to_dtype
from memo_jax.weights.importing import copy_onnx
from memo_jax.weights.published import PLACES
from memo_jax.weights.rules import Owner, torch_names
from memo_jax.weights.torch_configs import not_in_torch, torch_config

_TRANSFORMERS = ("wav2vec2", "emotion2vec")

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

Told = Callable[[str], None]


def export_model(
    source: Path,
    folder: Path,
    *,
    dtype: Any = None,
    shard_size: int | str = "10GB",
    only: Sequence[str] = (),
    found: Sequence[Found] | None = None,
    tell: Told = lambda line: None,
) -> None:
    """Write a native model as PyTorch's code loads it, whole or not at all.

    Args:
      dtype: of all weights; as they are stored, unless given.
      shard_size: files above it are split, with an index, as the hub expects.
      only: components to write; all unless given.
      found: what to write, in place of what `source` holds.
      tell: is given a line for every component, and what the published code will do otherwise.

    Raises:
      UserError: there is no such model or component, or a number is too large for the dtype.
    """
    found = find(source) if found is None else found
    strangers = sorted(set(only) - {one.component for one in found})
    if strangers:
        raise UserError(f"{source} has no {', '.join(strangers)}; it has what inspect lists")
    kind = None if dtype is None else np.dtype(dtype)
    with new_folder(folder) as unfinished:
        for one in found:
            if only and one.component not in only:
                continue
            place = unfinished / PLACES[one.component][0]
            place.mkdir(parents=True)
            settings = torch_config(one.component, one.config)
            (place / "config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
            files = write_weights(place, one, kind, shard_size)
            tell(f"{one.component}: {one.parameters / 1e6:,.1f} M parameters in {files} file(s)")
            for line in not_in_torch(one.component, one.config):
                tell(f"note: PyTorch's config cannot say {line}")
        copy_onnx([source], unfinished / "misc")


def write_weights(folder: Path, found: Found, kind: np.dtype | None, shard_size: int | str) -> int:
    """Safetensors of one component, in as many files as its size asks for; how many."""
    names = torch_names(
        found.component, COMPONENTS[found.component].rules(found.config), found.shapes
    )
    leaves = {
        name: jax.ShapeDtypeStruct(
            owner.rule.torch_shape(found.shapes[owner.ours[0]].shape),
            kind or found.shapes[owner.ours[0]].dtype,
        )
        for name, owner in names.items()
    }
    stem = "model" if found.component in _TRANSFORMERS else "diffusion_pytorch_model"
    plan = split_state_dict_into_shards_factory(
        leaves,
        get_storage_size=checkpoint.nbytes,
        filename_pattern=stem + "{suffix}.safetensors",
        max_shard_size=shard_size,
    )
    for file, members in plan.filename_to_tensors.items():
        with (folder / file).open("wb") as out:
            _write_header(out, {name: leaves[name] for name in members})
            for group in checkpoint.groups({name: leaves[name] for name in members}):
                values = found.read([path for name in group for path in names[name].ours])
                for name in group:
                    out.write(_bytes(name, names[name], values, kind))
    if len(plan.filename_to_tensors) > 1:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        path = folder / f"{stem}.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")
    return len(plan.filename_to_tensors)


def _bytes(
    name: str, owner: Owner, values: dict[str, np.ndarray], kind: np.dtype | None
) -> memoryview:
    """One tensor as PyTorch lays it out."""
    value = owner.tensor(name, [values.pop(path) for path in owner.ours])
    return (value if kind is None else to_dtype(name, value, kind)).reshape(-1).view(np.uint8).data


def _write_header(out: BinaryIO, leaves: Mapping[str, Any]) -> None:
    """The format's beginning: the length of a JSON text, and the text. The library that writes
    such files takes all tensors at once, which for these would be three times their size."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, leaf in leaves.items():
        start, end = end, end + checkpoint.nbytes(leaf)
        kind = DTYPES[str(np.dtype(leaf.dtype))]
        header[name] = {"dtype": kind, "shape": list(leaf.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of their size
    out.write(struct.pack("<Q", len(text)) + text)
