"""Where training starts: Stable Diffusion 1.5, AnimateDiff and an autoencoder become a MEMO model.

Reference Net and Diffusion Net take the UNet's layers, whose attention to text becomes attention to
face tokens; motion modules take AnimateDiff's; what neither has is fresh. New modules end in
zeros, so that the Diffusion Net begins as the UNet it came from.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from memo_jax.config import (
    AudioProjectionConfig,
    DiffusionNetConfig,
    ImageProjectionConfig,
    MotionConfig,
    ReferenceNetConfig,
    SamplerConfig,
    StableDiffusionConfig,
    UNetConfig,
)
from memo_jax.errors import UserError
from memo_jax.weights import build, checkpoint
from memo_jax.weights.components import COMPONENTS
from memo_jax.weights.folder import new_folder
from memo_jax.weights.found import Found, only
from memo_jax.weights.importing import Told, copy_onnx
from memo_jax.weights.rules import torch_names
from memo_jax.weights.spec import ModelSpec, Part

REPORT = "initialised.txt"


@dataclass(frozen=True)
class Origins:
    """Where every parameter of a component came from.

    `values` are the parameters, `told` (PyTorch name, where from) of each, and `unused` what of
    the sources found no place, with the reason.
    """

    component: str
    values: Mapping[str, Any]
    told: Sequence[tuple[str, str]]
    unused: Sequence[tuple[str, str]] = ()

    def counts(self) -> dict[str, int]:
        """How many numbers came from where."""
        counts: dict[str, int] = {}
        for value, (_, where) in zip(self.values.values(), self.told, strict=True):
            counts[where] = counts.get(where, 0) + value.size
        return counts


def start_model(
    folder: Path,
    *,
    sd15: Path,
    animatediff: Path | None = None,
    vae: Path | None = None,
    wav2vec2: Path | None = None,
    others: Sequence[tuple[str, Path]] = (),
    motion: MotionConfig | None = None,
    seed: int = 0,
    keep_motion: bool = False,
    name: str | None = None,
    tell: Told = lambda line: None,
) -> list[Origins]:
    """Write the native model that training starts from, whole or not at all.

    Args:
      vae: in place of the autoencoder that comes with `sd15`.
      others: (component, file or folder) taken as they are: emotion2vec, emotion_classifier.
      motion: of the motion modules, a new model's unless given.
      seed: of all that is fresh.
      keep_motion: leave AnimateDiff's last projections as they are instead of zero. They were
        trained behind another attention, and the first forward is then not SD1.5's.
      tell: is given a summary, line by line; every parameter's origin is in initialised.txt.

    Raises:
      UserError: a source is not what it should be, or does not fit SD1.5.
    """
    unet = only(sd15, "unet")
    config = unet.config
    autoencoder = only(vae or sd15, "vae")
    if config.in_channels != autoencoder.config.latent_channels:
        raise UserError(
            f"{unet.where} has {config.in_channels} input channels, its latents "
            f"{autoencoder.config.latent_channels}; expected Stable Diffusion 1.5 itself, not an "
            "inpainting or other variant"
        )
    adapter = only(animatediff, "motion_adapter") if animatediff else None
    whole = {"vae": autoencoder}
    if wav2vec2:
        whole["wav2vec2"] = only(wav2vec2, "wav2vec2")
    for component, path in others:
        whole[component] = only(path, component)
    configs = new_configs(config, motion, whole.get("wav2vec2"))

    keys = dict(zip(configs, jax.random.split(jax.random.key(seed), len(configs)), strict=True))
    parts = {name: Part(one.config, one.origin, one.licence) for name, one in whole.items()}
    lines: list[str] = []
    done = []
    with new_folder(folder) as unfinished:
        for component, one in whole.items():
            checkpoint.save(unfinished / component, one.read(list(one.shapes)))
            tell(f"{component}: {one.parameters / 1e6:,.1f} M parameters of {one.where}")
        for component, ours in configs.items():
            origins = _origins(
                component, ours, keys[component], unet, adapter, keep_motion=keep_motion
            )
            checkpoint.save(unfinished / component, origins.values)
            counted = ", ".join(f"{n:,} {where}" for where, n in origins.counts().items())
            tell(f"{component}: {counted}")
            lines += _report(origins)
            parts[component] = Part(ours, _sources(component, unet, adapter, seed), unet.licence)
            done.append(dataclasses.replace(origins, values={}))
        copy_onnx([sd15], unfinished)
        notes = "not trained: initialised by tools/convert_weights, see initialised.txt"
        if "wav2vec2" not in whole:
            notes += "; without wav2vec2"
            tell("note: no wav2vec2 was given; it can train on prepared clips, but not make video")
        spec = ModelSpec(name or folder.name, SamplerConfig(), parts, notes=notes)
        (unfinished / "model.json").write_text(spec.to_json(), "utf-8")
        (unfinished / REPORT).write_text("\n".join(lines) + "\n", "utf-8")
    return done


def new_configs(
    unet: StableDiffusionConfig, motion: MotionConfig | None, hearing: Found | None
) -> dict[str, Any]:
    """The configs of a new model's networks around this UNet."""
    shared = {f.name: getattr(unet, f.name) for f in dataclasses.fields(UNetConfig)}
    width = unet.cross_attention_dim
    audio = AudioProjectionConfig(out_dim=width)
    if hearing is not None:
        audio = dataclasses.replace(
            audio, layers=hearing.config.layers, channels=hearing.config.width
        )
    return {
        "reference_net": ReferenceNetConfig(**shared),
        "diffusion_net": DiffusionNetConfig(
            **shared,
            out_channels=unet.out_channels,
            audio_attention_dim=width,
            motion=motion or MotionConfig(num_heads=unet.num_heads),
        ),
        "image_proj": ImageProjectionConfig(cross_attention_dim=width),
        "audio_proj": audio,
    }


def _origins(
    component: str,
    config: Any,
    key: jax.Array,
    unet: Found,
    adapter: Found | None,
    *,
    keep_motion: bool,
) -> Origins:
    """One network's parameters, each from where it can be had."""
    part = COMPONENTS[component]
    _, shapes = part.abstract(config)
    given: dict[str, tuple[Any, str]] = {}
    unused: list[tuple[str, str]] = []
    if component in ("reference_net", "diffusion_net"):
        _take(unet, shapes, "from SD1.5", given, unused)
    if component == "diffusion_net" and adapter is not None:
        _take(adapter, shapes, "from AnimateDiff", given, unused)
        for path in given:
            if "/motion_modules/" in path and "/proj_out/" in path and not keep_motion:
                zeros = np.zeros(shapes[path].shape, np.float32)
                given[path] = (zeros, "AnimateDiff's, zeroed")
    values: dict[str, Any] = {}
    fresh: dict[str, Any] = {}
    if set(shapes) - set(given):
        module = part.module(config, rngs=build.CountingRngs(key))
        fresh = {k: v for k, v in build.flatten(nnx.state(module)).items() if k not in given}
        del module  # the network's size again, of which little is used
    where: dict[str, str] = {}
    for path in shapes:
        values[path], where[path] = given.get(path) or _fresh(path, np.asarray(fresh[path]))
    names = torch_names(component, part.rules(config), shapes)
    torch = {path: name for name, owner in names.items() for path in owner.ours}
    told = [(torch[path], where[path]) for path in values]
    return Origins(component, values, told, unused)


def _take(
    source: Found,
    shapes: Mapping[str, Any],
    where: str,
    given: dict[str, tuple[Any, str]],
    unused: list[tuple[str, str]],
) -> None:
    """Put the parameters of `source` that have a place in `shapes` into `given`."""
    values = source.read(list(source.shapes))
    for path, value in values.items():
        if path not in shapes:
            unused.append((path, "no such layer"))
        elif value.shape != shapes[path].shape:
            unused.append((path, f"shape {value.shape}, expected {shapes[path].shape}"))
        else:
            given[path] = (value, where)


def _fresh(path: str, value: np.ndarray) -> tuple[np.ndarray, str]:
    if "pos_encoder" in path:
        return value, "computed"
    return value, "fresh" if value.any() else "zeros"


def _sources(component: str, unet: Found, adapter: Found | None, seed: int) -> str:
    fresh = f"fresh with seed {seed}"
    if component not in ("reference_net", "diffusion_net"):
        return fresh
    names = [unet.origin]
    if component == "diffusion_net":
        names += [*([adapter.origin] if adapter else []), fresh]
    return ", ".join(names)


def _report(origins: Origins) -> list[str]:
    lines = [f"{origins.component}.{name}: {where}" for name, where in origins.told]
    return lines + [
        f"not used in {origins.component}: {name} ({why})" for name, why in origins.unused
    ]
