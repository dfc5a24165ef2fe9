"""Sample videos on the way: what the weights of this moment make of a portrait and a recording."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from memo_jax.errors import UserError
from memo_jax.io.sound import read_recording
from memo_jax.io.video_write import VideoWriter
from memo_jax.pipeline import Pipeline
from memo_jax.pipeline.pipeline import DTYPES
from memo_jax.train.run import RunConfig, RunFolder
from memo_jax.weights import build
from memo_jax.weights.folder import Model, stored
from memo_jax.weights.sources import load_model

ASSETS = Path(__file__).parents[1] / "assets"


def make_sample(run: RunFolder, step: int, model: Model, config: RunConfig, *, seed: int) -> Path:
    """Write samples/<step>.mp4 in the run's folder; for one process.

    Args:
      run: where it is kept.
      step: that the model is of.
      model: as `read_with` gives it.
      config: what to show, and how long.
      seed: of the noise, the same for all of a run's samples.

    Raises:
      UserError: the model, the portrait or the recording cannot be used.
    """
    pipe = Pipeline(model, sampler=_sampler(model, config))
    image = config.sample_image or str(ASSETS / "portrait.png")
    audio = config.sample_audio or str(ASSETS / "recording.wav")
    recording = read_recording(audio)
    samples = recording.samples[: round(config.sample_seconds * recording.sample_rate)]
    scene = pipe.scene(image)
    hearing = pipe.hear((samples, recording.sample_rate))
    run.samples.mkdir(exist_ok=True)
    path = run.samples / f"{step:08d}.mp4"
    height, width = scene.image.shape[:2]
    with VideoWriter(path, width, height, pipe.sampler.fps, sound=Path(audio)) as writer:
        for frames in pipe.start(scene, hearing, seed=seed):
            writer.write(frames)
    return path


def read_with(folder: Path, values: Mapping[str, np.ndarray], dtype: str) -> Model:
    """The model of a folder with some parameters replaced; read by all processes together, for
    Orbax makes them wait for each other.

    Args:
      folder: a native model folder.
      values: {"<component>/<path>": array}.
      dtype: what matmuls run in, by name.

    Raises:
      UserError: the model cannot be read, or has no such parameter.
    """
    return _with_values(load_model(folder, DTYPES[dtype]), values, DTYPES[dtype])


def on_host(values: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Arrays that may lie on several processes' devices, in all processes' memory."""
    return {name: _whole(value) for name, value in values.items()}


def _whole(value: jax.Array) -> np.ndarray:
    if value.is_fully_addressable or value.is_fully_replicated:
        return np.asarray(value)
    return multihost_utils.process_allgather(value, tiled=True)


def _with_values(model: Model, values: Mapping[str, np.ndarray], dtype: Any) -> Model:
    """The model with some parameters replaced."""
    modules = dict(model.modules)
    left = dict(values)
    for name, module in model.modules.items():
        graphdef, state = nnx.split(module)
        flat = build.flatten(state)
        own = {path: left.pop(f"{name}/{path}") for path in flat if f"{name}/{path}" in left}
        if own:
            flat |= {path: stored(value, dtype) for path, value in own.items()}
            modules[name] = nnx.merge(graphdef, build.unflatten(flat))
    if left:
        raise UserError(f"the model has no parameter {next(iter(left))}, which was trained")
    return Model(model.spec, modules, model.folder)


def _sampler(model: Model, config: RunConfig) -> Any:
    sampler = model.spec.sampler
    return dataclasses.replace(sampler, steps=config.sample_steps or sampler.steps)
