"""How to tell, by the names of its tensors, which network a file holds and in whose layout.

Names decide, not file names: users rename files, and folders called `unet` hold many things.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memo_jax.config import (
    MotionAdapterConfig,
    MotionConfig,
    StableDiffusionConfig,
    VAEConfig,
)
from memo_jax.errors import UserError
from memo_jax.weights.published import PLACES
from memo_jax.weights.rules import Rule
from memo_jax.weights.tables import original

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """One way in which files name a component's tensors.

    `prefix` is what all of them begin with, `signature` patterns of names that tell the layout:
    each must match some name, and `absent` none. `config` reads ours from PyTorch's (None where
    the layout has none) and the tensors; `settings` says in which file it is.
    """

    component: str
    name: str
    signature: tuple[str, ...]
    absent: tuple[str, ...] = ()
    prefix: str = ""
    rules: Callable[[Any], Sequence[Rule]] | None = None
    config: Callable[[Tensors], Any] | None = None
    settings: str = "config.json"

    def matches(self, names: Collection[str]) -> bool:
        """Whether a file with these names holds this."""
        own = [name.removeprefix(self.prefix) for name in names if name.startswith(self.prefix)]
        return all(_some(pattern, own) for pattern in self.signature) and not any(
            _some(pattern, own) for pattern in self.absent
        )

    def own(self, tensors: Tensors) -> Tensors:
        """The tensors of this component alone, without the prefix."""
        return _Below(tensors, self.prefix) if self.prefix else tensors


def _some(pattern: str, names: Collection[str]) -> bool:
    return any(re.match(pattern, name) for name in names)


class _Below(Mapping[str, np.ndarray]):
    """The tensors below a prefix, read when asked for."""

    def __init__(self, tensors: Tensors, prefix: str):
        self._tensors, self._prefix = tensors, prefix
        self._names = [n.removeprefix(prefix) for n in tensors if n.startswith(prefix)]

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _original_unet(tensors: Tensors) -> StableDiffusionConfig:
    """Widths and depth as the shapes tell; heads and groups, which none tells, are SD1.5's."""
    if any(name.startswith("label_emb.") for name in tensors):
        raise UserError("this is a Stable Diffusion XL checkpoint; expected Stable Diffusion 1.5")
    downs = [n for n in range(1, 100) if f"input_blocks.{n}.0.op.weight" in tensors]
    step = downs[0] if downs else 1
    first = [1 + i * step for i in range(len(downs) + 1)]
    attention = tuple(f"input_blocks.{n}.1.norm.weight" in tensors for n in first)
    cross = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    if not downs or cross not in tensors:
        raise UserError("the UNet's layers are not those of Stable Diffusion 1.5")
    if tensors["input_blocks.1.1.proj_in.weight"].ndim == 2:
        raise UserError("this is a Stable Diffusion 2 checkpoint; expected Stable Diffusion 1.5")
    return StableDiffusionConfig(
        in_channels=tensors["input_blocks.0.0.weight"].shape[1],
        out_channels=tensors["out.2.weight"].shape[0],
        block_out_channels=tuple(
            tensors[f"input_blocks.{n}.0.out_layers.3.weight"].shape[0] for n in first
        ),
        down_attention=attention,
        up_attention=attention[::-1],
        layers_per_block=step - 1,
        cross_attention_dim=tensors[cross].shape[1],
    )


def _original_vae(tensors: Tensors) -> VAEConfig:
    levels = _count(tensors, r"encoder\.down\.(\d+)\.")
    return VAEConfig(
        in_channels=tensors["encoder.conv_in.weight"].shape[1],
        latent_channels=tensors["decoder.conv_in.weight"].shape[1],
        block_out_channels=tuple(
            tensors[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)
        ),
        layers_per_block=_count(tensors, r"encoder\.down\.0\.block\.(\d+)\."),
    )


def _original_motion(tensors: Tensors) -> MotionAdapterConfig:
    module = "down_blocks.0.motion_modules.0.temporal_transformer"
    code = tensors.get(f"{module}.transformer_blocks.0.attention_blocks.0.pos_encoder.pe")
    levels = _count(tensors, r"down_blocks\.(\d+)\.")
    return MotionAdapterConfig(
        block_out_channels=tuple(
            tensors[f"down_blocks.{i}.motion_modules.0.temporal_transformer.norm.weight"].shape[0]
            for i in range(levels)
        ),
        layers_per_block=_count(tensors, r"down_blocks\.0\.motion_modules\.(\d+)\."),
        mid=any(name.startswith("mid_block.") for name in tensors),
        motion=MotionConfig(
            num_blocks=_count(tensors, re.escape(module) + r"\.transformer_blocks\.(\d+)\."),
            attentions_per_block=_count(
                tensors,
                re.escape(module) + r"\.transformer_blocks\.0\.attention_blocks\.(\d+)\.",
            ),
            position_code=code is not None,
            max_frames=32 if code is None else code.shape[1],
            attention="softmax",
        ),
    )


def _count(names: Collection[str], pattern: str) -> int:
    """How many different numbers the pattern finds."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


_SD = "model.diffusion_model."
_SPATIAL = (r"conv_in\.weight", r"down_blocks\.0\.resnets\.0\.conv1\.weight")

# In order: the first whose signature a file has is it; a file may hold several where one of them
# has a prefix.
LAYOUTS = (
    Layout(
        *("unet", "original Stable Diffusion"),
        (r"input_blocks\.0\.0\.weight",),
        prefix=_SD,
        rules=original.unet_rules,
        config=_original_unet,
    ),
    Layout(
        *("vae", "original Stable Diffusion"),
        (r"encoder\.down\.0\.block",),
        prefix="first_stage_model.",
        rules=original.vae_rules,
        config=_original_vae,
    ),
    Layout(
        *("vae", "original Stable Diffusion"),
        (r"encoder\.down\.0\.block",),
        rules=original.vae_rules,
        config=_original_vae,
    ),
    Layout("diffusion_net", "published", (*_SPATIAL, r".*\.audio_modules\.")),
    Layout(
        *("motion_adapter", "original AnimateDiff"),
        (r"down_blocks\.0\.motion_modules\.0\.temporal_transformer\.",),
        absent=_SPATIAL,
        rules=original.motion_rules,
        config=_original_motion,
    ),
    Layout(
        *("motion_adapter", "original AnimateDiff"),
        (r"down_blocks\.0\.motion_modules\.0\.temporal_transformer\.",),
        prefix="module.",
        rules=original.motion_rules,
        config=_original_motion,
    ),
    Layout(
        "motion_adapter", "diffusers", (r"down_blocks\.0\.motion_modules\.0\.",), absent=_SPATIAL
    ),
    Layout(
        "unet", "diffusers", (*_SPATIAL, r"conv_out\.weight"), absent=(r".*\.motion_modules\.",)
    ),
    Layout("reference_net", "published", _SPATIAL, absent=(r"conv_out\.weight", r".*\.motion_mod")),
    Layout("vae", "diffusers", (r"encoder\.down_blocks\.0\.", r"decoder\.conv_in\.")),
    Layout("audio_proj", "published", (r"proj3\.weight",)),
    Layout("emotion_classifier", "published", (r"layers\.fc1\.weight",)),
    Layout("wav2vec2", "transformers", (r"(wav2vec2\.)?feature_extractor\.conv_layers\.0\.",)),
    Layout(
        *("emotion2vec", "funasr"),
        (r"(d2v_model\.)?modality_encoders\.AUDIO\.",),
        settings="config.yaml",
    ),
    Layout("image_proj", "published", (r"proj\.weight", r"norm\.weight")),
)

# What whole checkpoints hold beside the networks, and why it is left out.
LEFT_OUT = {
    r"cond_stage_model\..*": "text encoder; MEMO has no text",
    r"conditioner\..*": "text encoder; MEMO has no text",
    r"model_ema\..*": "moving average of training, beside the weights themselves",
    r"(model\.diffusion_model\.)?(loss|discriminator)\..*": "training of the autoencoder",
    r"first_stage_model\.(loss|model_ema)\..*": "training of the autoencoder",
    r"(betas|alphas_cumprod(_prev)?|sqrt_.*|log_one_minus_.*|posterior_.*|lvlb_weights|logvar)": (
        "noise schedule of another sampler"
    ),
    r"(scale_factor|model_ema_decay|model_ema_num_updates)": "a number of training",
}


def recognise(tensors: Tensors) -> list[Layout]:
    """The components a file holds: one, or several below prefixes; none if it is something else."""
    names = list(tensors)
    below = [layout for layout in LAYOUTS if layout.prefix and layout.matches(names)]
    if below:
        return below
    return [layout for layout in LAYOUTS if not layout.prefix and layout.matches(names)][:1]


def named(folder: str) -> list[Layout]:
    """The component that the published layout keeps in a folder of this name, whose tensors then
    are not what they should be."""
    own = [layout for layout in LAYOUTS if layout.rules is None]
    return [
        layout
        for layout in own
        if any(folder == place.split("/")[-1] for place in PLACES[layout.component])
    ][:1]


def unaccounted(tensors: Tensors, layouts: Sequence[Layout]) -> list[str]:
    """Names in a file of several components that belong to none and are not known to be idle."""
    if not any(layout.prefix for layout in layouts):
        return []
    return [
        name
        for name in tensors
        if not any(name.startswith(layout.prefix) for layout in layouts)
        and not any(re.fullmatch(pattern, name) for pattern in LEFT_OUT)
    ]
