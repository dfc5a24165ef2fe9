"""The trained classifier as a component: in a folder of its own, or in a copy of a model."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
from flax import nnx

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.config import SamplerConfig
from memo_jax.errors import UserError
from memo_jax.models.projections import EmotionClassifier
from memo_jax.weights import build, checkpoint
from memo_jax.weights.folder import Model, new_folder, write_model
from memo_jax.weights.spec import ModelSpec, Part, read_spec

NAME = "emotion_classifier"


def write_classifier(folder: Path, module: EmotionClassifier, origin: str) -> None:
    """A native folder that holds the classifier alone; `tools.convert_weights` exports it, or makes
    a model start with it.

    Raises:
      UserError: the folder exists already.
    """
    spec = ModelSpec(
        name=folder.name,
        sampler=SamplerConfig(),
        parts={NAME: Part(module.config, origin)},
        notes=f"not a whole model: {NAME} alone",
    )
    write_model(folder, Model(spec, {NAME: module}))


def put_into(model: Path, module: EmotionClassifier, origin: str, folder: Path) -> None:
    """A copy of a native model with this classifier in place of its own.

    Raises:
      UserError: `model` is none, its emotions or emotion2vec do not go with the classifier, or
        `folder` exists already.
    """
    spec = read_spec(model)
    if spec.emotions != EMOTIONS:
        raise UserError(
            f"{model} numbers its emotions {', '.join(spec.emotions)}; the classifier's are "
            f"{', '.join(EMOTIONS)}"
        )
    hearing = spec.parts.get("emotion2vec")
    if hearing is None or hearing.config.width != module.config.in_features:
        has = f"one of width {hearing.config.width}" if hearing else "none"
        raise UserError(
            f"{model}: the classifier needs an emotion2vec of width {module.config.in_features}, "
            f"the model has {has}"
        )
    parts = spec.parts | {NAME: Part(module.config, origin)}
    with new_folder(folder) as unfinished:
        for child in model.iterdir():
            if child.name in (NAME, "model.json") or child.name.startswith("."):
                continue
            if child.is_dir():
                shutil.copytree(child, unfinished / child.name)
            else:
                shutil.copy2(child, unfinished / child.name)
        values = build.flatten(nnx.state(module))
        checkpoint.save(unfinished / NAME, {k: np.asarray(v) for k, v in values.items()})
        (unfinished / "model.json").write_text(
            dataclasses.replace(spec, parts=parts).to_json(), "utf-8"
        )


def write_json(path: Path, value: object) -> None:
    """JSON, whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    unfinished.replace(path)
