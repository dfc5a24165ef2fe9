"""The parts of a model: their configs, classes and rule tables, and PyTorch weights for them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from memo_jax import config as configs
from memo_jax.audio.config import Emotion2VecConfig, Wav2Vec2Config
from memo_jax.audio.emotion2vec import Emotion2Vec
from memo_jax.audio.wav2vec2 import Wav2Vec2
from memo_jax.errors import UserError
from memo_jax.models.diffusion_net import DiffusionNet
from memo_jax.models.motion_adapter import MotionAdapter
from memo_jax.models.projections import AudioProjection, EmotionClassifier, ImageProjection
from memo_jax.models.reference_net import ReferenceNet
from memo_jax.models.vae import VAE
from memo_jax.weights import build
from memo_jax.weights.rules import Rule, export_tensors, import_tensors
from memo_jax.weights.tables import audio, motion_adapter, projections, unet, vae


@dataclass(frozen=True)
class Component:
    """One network of a model.

    `aliases` rename tensors of other checkpoints' layouts before the rules see them; `dropped`
    maps patterns of names that carry nothing for us to the reason.
    """

    name: str
    config: Any
    module: Callable[..., nnx.Module]
    rules: Callable[[Any], Sequence[Rule]]
    aliases: Sequence[tuple[str, str]] = ()
    dropped: Mapping[str, str] | None = None

    def abstract(self, config: Any, dtype: Any = jnp.float32) -> tuple[nnx.GraphDef, dict]:
        """The module's structure and its parameters as shapes, by path."""
        return build.abstract(lambda rngs: self.module(config, dtype=dtype, rngs=rngs))


COMPONENTS = {
    component.name: component
    for component in (
        Component("vae", configs.VAEConfig, VAE, lambda config: vae.RULES, vae.ALIASES),
        Component(
            "reference_net", configs.ReferenceNetConfig, ReferenceNet, unet.reference_net_rules
        ),
        Component(
            "diffusion_net", configs.DiffusionNetConfig, DiffusionNet, unet.diffusion_net_rules
        ),
        Component(
            "image_proj",
            configs.ImageProjectionConfig,
            ImageProjection,
            lambda config: projections.IMAGE_PROJ,
        ),
        Component(
            "audio_proj",
            configs.AudioProjectionConfig,
            AudioProjection,
            lambda config: projections.AUDIO_PROJ,
        ),
        Component(
            "emotion_classifier",
            configs.EmotionClassifierConfig,
            EmotionClassifier,
            projections.emotion_classifier_rules,
        ),
        Component(
            "wav2vec2",
            Wav2Vec2Config,
            Wav2Vec2,
            audio.wav2vec2_rules,
            audio.WAV2VEC2_ALIASES,
            audio.WAV2VEC2_DROPPED,
        ),
        Component(
            "emotion2vec",
            Emotion2VecConfig,
            Emotion2Vec,
            audio.emotion2vec_rules,
            audio.EMOTION2VEC_ALIASES,
            audio.EMOTION2VEC_DROPPED,
        ),
        # What training starts from.
        Component("unet", configs.StableDiffusionConfig, DiffusionNet, unet.diffusion_net_rules),
        Component(
            "motion_adapter",
            configs.MotionAdapterConfig,
            MotionAdapter,
            lambda config: motion_adapter.RULES,
        ),
    )
}


def component(name: str) -> Component:
    """The component of that name.

    Raises:
      UserError: there is none.
    """
    if name not in COMPONENTS:
        raise UserError(f"no component {name!r}; expected one of {', '.join(COMPONENTS)}")
    return COMPONENTS[name]


def load_torch(
    name: str, config: Mapping[str, Any], tensors: Mapping[str, Any], *, dtype: Any = jnp.float32
) -> nnx.Module:
    """A module with PyTorch's weights and, for every switch, the release's behaviour.

    Args:
      name: the component (`COMPONENTS`).
      config: the PyTorch config as a dict.
      tensors: PyTorch name -> array in PyTorch's layout.
      dtype: what the module multiplies in; its parameters keep the dtype of the tensors.

    Raises:
      ConversionError: anything missing, unknown or misshapen; it lists all of it.
      UserError: a config we do not implement.
    """
    graphdef, values = import_torch(component(name), config, tensors, dtype)[1:]
    return assemble(graphdef, values)


def import_torch(
    part: Component, config: Mapping[str, Any], tensors: Mapping[str, Any], dtype: Any
) -> tuple[Any, nnx.GraphDef, dict[str, np.ndarray]]:
    """Our config, the module's structure and its weights on the host; raises as `load_torch`."""
    try:
        ours = part.config.from_torch(config)
    except KeyError as error:
        raise UserError(f"{part.name}: its config lacks {error}") from error
    graphdef, shapes = part.abstract(ours, dtype)
    values = import_tensors(
        part.name,
        part.rules(ours),
        renamed(part, tensors),
        {path: leaf.shape for path, leaf in shapes.items()},
    )
    return ours, graphdef, values


def to_torch(name: str, module: nnx.Module) -> dict[str, np.ndarray]:
    """The module's weights under PyTorch's names and in PyTorch's layout: the inverse of
    `load_torch`, to the bit."""
    part = component(name)
    config: Any = module.config  # type: ignore[attr-defined]  # every component keeps its own
    return export_tensors(name, part.rules(config), build.flatten(nnx.state(module)))


def assemble(graphdef: nnx.GraphDef, values: Mapping[str, Any]) -> nnx.Module:
    """A module from its structure and {path: array}."""
    return nnx.merge(graphdef, build.unflatten({k: jnp.asarray(v) for k, v in values.items()}))


def renamed(part: Component, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """`tensors` under the names that the rules know, without what carries nothing for us."""
    out = {}
    for name, tensor in tensors.items():
        for pattern, replacement in part.aliases:
            name = re.sub(f"^(?:{pattern})$", replacement, name)
        if any(re.fullmatch(pattern, name) for pattern in part.dropped or ()):
            continue
        out[name] = tensor
    return out
