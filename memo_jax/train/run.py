"""A run's folder: what it is made from, and everything that it leaves.

config.json     the resolved config, and the starting model; another one does not go on from here
model.json      the networks' shapes and the sampler, as in a model folder
starts.jsonl    a line for every start: versions, devices, processes, what was changed
metrics.jsonl   a line for every log step; tensorboard/ holds the same
checkpoints/    <step>/ for every checkpoint kept
samples/        videos made on the way
"""

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from memo_jax.config import Config
from memo_jax.data.clip import Layout
from memo_jax.errors import UserError, one_line
from memo_jax.train import lora
from memo_jax.train.checkpoint import step_folder, trained_values
from memo_jax.train.config import TrainConfig
from memo_jax.weights import checkpoint
from memo_jax.weights.cache import cache_folder
from memo_jax.weights.folder import new_folder
from memo_jax.weights.found import Found, find
from memo_jax.weights.importing import copy_onnx, writable
from memo_jax.weights.spec import ModelSpec, read_spec

PACKAGES = ("memo_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
LORA = (f"/{lora.A}", f"/{lora.B}")
TRAINED = 1  # counted up when a run's model would be made otherwise from the same files
SHOWN = 4  # fields that differ, named in a refusal


@dataclass(frozen=True)
class RunConfig(Config):
    """How a run is kept and watched, beside what `TrainConfig` says; it changes no result.

    Attributes:
      keep_every: checkpoints of steps that are multiples of it are kept for good; 0 for none.
      tensorboard: whether to write TensorBoard's files, where tensorboardX is installed.
      sample_image: the portrait of sample videos; the bundled one unless given.
      sample_audio: the recording; the bundled one unless given.
      sample_seconds: how much of it.
      sample_steps: Euler steps; 0 for the model's own.
    """

    keep_every: int = 0
    tensorboard: bool = True
    sample_image: str = ""
    sample_audio: str = ""
    sample_seconds: float = 2.0
    sample_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("keep_every", "sample_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"run.{name} {getattr(self, name)}, expected 0 or more")
        if not self.sample_seconds > 0:
            raise UserError(f"run.sample_seconds {self.sample_seconds}, expected more than 0")


@dataclass(frozen=True)
class RunFolder:
    """Where a run's files lie."""

    path: Path

    @classmethod
    def of(cls, path: Path) -> Self:
        """The run that `path` is, or is a checkpoint of; raises UserError where it has none."""
        return cls(step_folder(path).parents[1])

    @property
    def checkpoints(self) -> Path:
        """Of the CheckpointManager."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Of the sample videos."""
        return self.path / "samples"

    @property
    def spec(self) -> ModelSpec:
        """What the run's networks are; raises UserError where it cannot be read."""
        return read_spec(self.path)

    @property
    def model(self) -> Path:
        """The native folder of the model that the run started from.

        Raises:
          UserError: it is not there any more, or this is no run.
        """
        folder = Path(_read(self.path / "config.json")["model"])
        if not (folder / "model.json").is_file():
            raise UserError(
                f"{self.path} started from the model in {folder}, which is not there; put it back, "
                'or give its new place as "model" in config.json'
            )
        return folder


def open_run(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    spec: ModelSpec,
    model: Path,
    *,
    accept_changes: bool = False,
    write: bool = True,
) -> RunFolder:
    """Begin a run, or open one to go on with it.

    Args:
      path: its folder; made unless it is there.
      config: all of the resolved config, as JSON can hold it.
      spec: the networks that are trained.
      model: the native folder they start from.
      accept_changes: go on with this config where the run was begun with another.
      write: leave the folder as it is; for all processes but one.

    Raises:
      UserError: the run was begun with another config or model, and changes are not accepted; or
        the folder holds something else, or cannot be written.
    """
    if ":/" in os.fspath(path):  # gs://bucket, of which Path leaves one slash
        raise UserError(f"{path} is no local folder; mount the bucket and give its path")
    run = RunFolder(Path(path).absolute())
    new = {**json.loads(json.dumps(dict(config))), "model": str(model.absolute())}
    try:
        old = _read(run.path / "config.json") if (run.path / "config.json").exists() else None
        if old is None and run.path.is_dir() and any(run.path.glob("checkpoints/*")):
            raise UserError(f"{run.path} has checkpoints but no config.json; give a new folder")
        if old is not None and not write:  # on another machine it may lie elsewhere
            new["model"] = old["model"]
        changed = list(differences(old, new)) if old is not None else []
        if changed and not accept_changes:
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            raise UserError(
                f"{run.path} was begun with {'; '.join(changed[:SHOWN])}{more}; give another "
                "--run, or --accept-changes to go on with what is new"
            )
        if old is not None and run.spec.to_json() != spec.to_json():
            raise UserError(
                f"{run.path} trains networks other than those of {model}; give the model that it "
                "started from, or another --run"
            )
        if write:
            run.path.mkdir(parents=True, exist_ok=True)
            _replace(run.path / "model.json", spec.to_json())
            _replace(run.path / "config.json", json.dumps(new, indent=1))
            with (run.path / "starts.jsonl").open("a", encoding="utf-8") as starts:
                starts.write(json.dumps({**versions(), "changed": changed}) + "\n")
    except OSError as error:
        raise UserError(f"{run.path} cannot be a run's folder: {one_line(error)}") from error
    return run


def is_run(path: Path) -> bool:
    """Whether `path` is a run's folder, or RUN/checkpoints/<step>."""
    path = path.absolute()
    if path.parent.name == "checkpoints" and path.name.isdigit():
        path = path.parents[1]
    # Unlike Path's, for names that are too long too.
    return os.path.isdir(path / "checkpoints") and os.path.isfile(path / "model.json")


def trained(path: Path, *, ema: bool | None = None) -> list[Found]:
    """Every component of the model that a run has made: trained values where there are some, all
    else from the model that it started from.

    Args:
      path: a run's folder, for its newest checkpoint, or RUN/checkpoints/<step>.
      ema: averaged values; where the run kept them, unless said. Low-rank changes are merged.

    Raises:
      UserError: there is no checkpoint, it is damaged, or the model it started from is gone.
    """
    folder = step_folder(path)
    run = RunFolder.of(folder)
    values = trained_values(folder, ema=ema)
    config = _read(run.path / "config.json")
    scale = config["lora_alpha"] / config["lora_rank"] if config.get("lora_rank") else 0.0
    return [_merged(one, values.get(one.component, {}), scale) for one in find(run.model)]


def write_trained(path: Path, folder: Path, *, ema: bool | None = None) -> None:
    """Write what a run has made as a native model folder, whole or not at all; as `trained`.

    Raises:
      UserError: the folder exists already, and as `trained`.
    """
    run = RunFolder.of(path)
    with new_folder(folder) as unfinished:
        for one in trained(path, ema=ema):
            checkpoint.save(unfinished / one.component, *writable(one))
        copy_onnx([run.model], unfinished)
        (unfinished / "model.json").write_text(run.spec.to_json(), "utf-8")


def run_model(path: Path, tell: Callable[[str], None]) -> Path:
    """The native folder of what a run has made, written into the user's cache the first time.

    It is found there for as long as the files of the checkpoint, and of the model that the run
    started from, are those that they were by name, size and time of change.

    Args:
      path: a run's folder, for its newest checkpoint, or RUN/checkpoints/<step>.
      tell: is given a line with the step that it is of.

    Raises:
      UserError: it cannot be written, and as `trained`.
    """
    folder = step_folder(path.absolute())
    run = RunFolder.of(folder)
    models = cache_folder() / "models"
    kept = models / f"{run.path.name}-{folder.name}-{_key(run, folder)}"
    if (kept / "model.json").is_file():
        tell(f"{run.path} at step {folder.name}: the model in {kept}")
        return kept
    tell(f"{run.path} at step {folder.name}: its model is written once, and stays in {kept}")
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{models} cannot be made: {one_line(error)}; name another cache in MEMO_JAX_CACHE"
        ) from error
    try:
        write_trained(folder, kept)
    except (OSError, UserError):
        if not (kept / "model.json").is_file():  # made by another process meanwhile
            raise
    return kept


def _key(run: RunFolder, step: Path) -> str:
    """20 hex digits that tell what a run's model is made from; large files by size and time."""
    config = _read(run.path / "config.json")
    low_rank = [config.get(name) for name in ("lora_rank", "lora_alpha")]
    lines = [json.dumps([TRAINED, *low_rank]), run.spec.to_json()]
    for file in [*sorted(step.rglob("*")), *sorted(run.model.rglob("*"))]:
        if file.is_file():
            stat = file.stat()
            lines.append(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:20]


def _merged(one: Found, values: Mapping[str, np.ndarray], scale: float) -> Found:
    """A component with these values in the place of its own, and low-rank changes added."""
    factors = {name: jnp.asarray(value) for name, value in values.items() if name.endswith(LORA)}
    own = {name: value for name, value in values.items() if name not in factors}
    layers = {name.removesuffix(LORA[0]) for name in factors if name.endswith(LORA[0])}
    changed = {f"{layer}/kernel": layer for layer in layers}
    strangers = sorted({*own, *changed} - set(one.shapes))
    if strangers:
        raise UserError(f"{one.where} has no {strangers[0]}, which was trained; is it another one?")

    def read(names: Sequence[str]) -> dict[str, np.ndarray]:
        found = one.read([name for name in names if name not in own])
        for name in names:
            if name in own:
                found[name] = own[name]
            elif name in changed:
                more = np.asarray(lora.change(factors, changed[name], scale))
                found[name] = found[name].astype(np.float32) + more
        return found

    float32 = {
        name: jax.ShapeDtypeStruct(one.shapes[name].shape, np.float32) for name in {*own, *changed}
    }
    shapes = {name: float32.get(name, leaf) for name, leaf in one.shapes.items()}
    return dataclasses.replace(one, form="trained", shapes=shapes, read=read)


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """What differs between two configs, as `name old, now new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            below = f"{name}.{key}" if name else key
            yield from differences(old.get(key), new.get(key), below)
    elif old != new:
        yield f"{name} {json.dumps(old)}, now {json.dumps(new)}"


def versions() -> dict[str, Any]:
    """What a result may depend on beside config and data."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "commit": _commit(),
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def _commit() -> str | None:
    """The commit that the package is run from, with + where files differ; None without one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed, maybe below somebody's own repository
        return None
    git = ["git", "-C", str(root)]
    try:
        told = [
            subprocess.run([*git, *rest], capture_output=True, text=True, timeout=10, check=True)
            for rest in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0].stdout.strip() + ("+" if told[1].stdout.strip() else "")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found["model"], str):
            raise TypeError("model is no text")
        return found
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} is no run's config ({one_line(error)}); give a run's folder, or a new one"
        ) from error


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is there whole at any moment."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, "utf-8")
    os.replace(unfinished, path)


def check_data(layout: Layout, spec: ModelSpec, config: TrainConfig) -> None:
    """Raises UserError where the data set is not of what the model sees and hears."""
    configs = {name: part.config for name, part in spec.parts.items()}
    size = config.image_size or spec.sampler.image_size
    side = size // configs["vae"].factor
    audio = configs["audio_proj"]
    pairs: dict[str, tuple[Any, Any]] = {
        "pixels a side": (layout.size, size),
        "audio (layers, channels)": (layout.audio, (audio.layers, audio.channels)),
        "values of a face": (layout.face, configs["image_proj"].embedding_dim),
        "emotions": (layout.emotions, spec.emotions),
    }
    if layout.audio_features:  # which data sets did not always tell
        pairs["audio features"] = layout.audio_features, spec.audio_features
    if config.form == "latents" and layout.latents is None:
        raise UserError(
            "the data set has no latents; store them with python -m memo_jax.train.latents, or set "
            'form="images" to encode its pictures as they come'
        )
    if config.form == "latents":
        expected = side, side, configs["vae"].latent_channels
        pairs["latents (h, w, c)"] = layout.latents, expected
    wrong = [
        f"{what}: {ours}, the model {its}" for what, (ours, its) in pairs.items() if ours != its
    ]
    if wrong:
        raise UserError(
            f"the data set has other {'; '.join(wrong)}; prepare it for this model, or give the "
            "model that it was prepared for"
        )
