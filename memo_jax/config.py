"""Every network's shape, and the switches where the published release and the paper differ.

A config is a frozen dataclass. `from_torch` reads the PyTorch `config.json` of the published
release and sets every switch to the release's behaviour; a config made afresh has the defaults
of a newly initialised model.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from memo_jax.errors import UserError

# The meaning of the classes is emotion2vec's; the release names none. One more row, after the
# last class, is the null class of guidance and of dropped labels.
NUM_EMOTIONS = 9

MemoryDecay = Literal["released", "paper"]
KeyActivation = Literal["frames", "features"]
Rows = Literal["mixed", "own"]
MotionKind = Literal["linear", "softmax"]
AudioAttention = Literal["joint", "cross"]


@dataclass(frozen=True)
class Config:
    """What all configs share: to and from a plain dict, with unknown fields refused."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A config from what `to_dict` gave.

        Raises:
          UserError: a field that this config does not have, or a required one is missing.
        """
        types = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - set(types))
        if unknown:
            raise UserError(f"{cls.__name__} has no field {', '.join(unknown)}")
        values = {name: _freeze(value) for name, value in fields.items()}
        if isinstance(values.get("motion"), Mapping):
            values["motion"] = MotionConfig.from_dict(values["motion"])
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"{cls.__name__}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON can hold it."""
        return dataclasses.asdict(self)


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value


def _require(what: str, fields: Mapping[str, Any], **expected: Any) -> None:
    """Raise unless each named field, where present, has the one value we implement."""
    for name, value in expected.items():
        if name in fields and _freeze(fields[name]) != _freeze(value):
            raise UserError(f"{what}: {name}={fields[name]!r} is not supported, expected {value!r}")


def _one(what: str, config: Mapping[str, Any], name: str, default: int | None = None) -> Any:
    """`config[name]`, or the one value that all levels share where it lists one for each."""
    value = config[name] if default is None else config.get(name, default)
    values = set(_flat(value))
    if len(values) != 1:
        raise UserError(f"{what}: {name}={value!r} is not supported, expected one for all levels")
    return values.pop()


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in _flat(part)]
    return [value]


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values or any(isinstance(v, bool) or int(v) != v or v < 1 for v in values):
            raise UserError(f"{type(config).__name__}: {name} must be positive, got {value!r}")


def _groups_divide(config: Any, channels: tuple[int, ...]) -> None:
    for width in channels:
        if width % config.norm_num_groups:
            raise UserError(
                f"{type(config).__name__}: {width} channels do not divide into "
                f"norm_num_groups={config.norm_num_groups} groups"
            )


@dataclass(frozen=True)
class VAEConfig(Config):
    """Stable Diffusion's autoencoder (diffusers AutoencoderKL)."""

    in_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    def __post_init__(self) -> None:
        _positive(self, "in_channels", "latent_channels", "block_out_channels", "layers_per_block")
        _positive(self, "norm_num_groups")
        _groups_divide(self, self.block_out_channels)

    @property
    def factor(self) -> int:
        """Pixels per latent along a side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_torch(cls, config: Mapping[str, Any]) -> Self:
        levels = len(config["block_out_channels"])
        _require(
            "vae",
            config,
            act_fn="silu",
            out_channels=config.get("in_channels", 3),
            shift_factor=None,
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
        )
        return cls(**_shared(cls, config))


@dataclass(frozen=True)
class UNetConfig(Config):
    """What the Reference Net and the Diffusion Net have in common: Stable Diffusion 1.5's UNet.

    `down_attention` and `up_attention` say, level by level in the order they run, whether the
    level has transformers. `num_heads` is the PyTorch config's `attention_head_dim`, which has
    always meant the number of heads.
    """

    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_attention: tuple[bool, ...] = (True, True, True, False)
    up_attention: tuple[bool, ...] = (False, True, True, True)
    layers_per_block: int = 2
    num_heads: int = 8
    cross_attention_dim: int = 768
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    use_linear_projection: bool = False

    def __post_init__(self) -> None:
        _positive(self, "in_channels", "block_out_channels", "layers_per_block", "num_heads")
        _positive(self, "cross_attention_dim", "norm_num_groups")
        _groups_divide(self, self.block_out_channels)
        for name in ("down_attention", "up_attention"):
            if len(getattr(self, name)) != len(self.block_out_channels):
                raise UserError(
                    f"{type(self).__name__}: {name} has {len(getattr(self, name))} levels, "
                    f"block_out_channels {len(self.block_out_channels)}"
                )

    @classmethod
    def _unet_fields(cls, what: str, config: Mapping[str, Any]) -> dict[str, Any]:
        _require(
            what,
            config,
            act_fn="silu",
            only_cross_attention=False,
            dual_cross_attention=False,
            downsample_padding=1,
            mid_block_scale_factor=1,
            resnet_time_scale_shift="default",
            class_embed_type=None,
            center_input_sample=False,
        )
        fields = _shared(cls, config)
        for side in ("down", "up"):
            types = config[f"{side}_block_types"]
            fields[f"{side}_attention"] = tuple(name.startswith("CrossAttn") for name in types)
        fields["num_heads"] = config["attention_head_dim"]
        return fields


@dataclass(frozen=True)
class ReferenceNetConfig(UNetConfig):
    """The Reference Net.

    `face_rows`: "own" gives each image its sample's face tokens; "mixed", the release, gives row
    n those of sample n mod b.
    """

    face_rows: Rows = "own"

    @classmethod
    def from_torch(cls, config: Mapping[str, Any]) -> Self:
        return cls(**cls._unet_fields("reference_net", config), face_rows="mixed")


@dataclass(frozen=True)
class MotionConfig(Config):
    """The memory-guided motion modules.

    `decay` is g of arXiv:2412.04448. `memory_decay`: "paper" fades each sum once (eq. 3-4);
    "released" fades keys and values both, so that the numerator fades twice as fast, and fades
    the memory once more when it is read. `key_activation`: softmax of the keys over "features"
    (paper) or over the clip's "frames" (release).

    `attention` "softmax" is AnimateDiff's own, over the clip's frames alone: no past frame is
    seen and nothing is remembered. It serves to check converted motion modules, and as the
    baseline without memory; of the fields above it reads neither `decay` nor those after it.
    `norm_per_frame`: the group norm takes each frame's own statistics; otherwise the whole
    clip's, as diffusers has it.
    """

    num_heads: int = 8
    num_blocks: int = 1
    attentions_per_block: int = 2
    position_code: bool = True
    max_frames: int = 32
    dim_div: int = 1
    decay: float = 0.9
    memory_decay: MemoryDecay = "paper"
    key_activation: KeyActivation = "features"
    attention: MotionKind = "linear"
    norm_per_frame: bool = True

    def __post_init__(self) -> None:
        _positive(self, "num_heads", "num_blocks", "attentions_per_block", "max_frames", "dim_div")
        if not 0.0 <= self.decay <= 1.0:
            raise UserError(f"MotionConfig: decay must lie in [0, 1], got {self.decay}")

    @classmethod
    def from_torch(cls, config: Mapping[str, Any]) -> Self:
        kinds = config["attention_block_types"]
        if any(kind != "Temporal_Self" for kind in kinds):
            raise UserError(f"motion_module_kwargs: attention_block_types {kinds} not supported")
        return cls(
            num_heads=config["num_attention_heads"],
            num_blocks=config["num_transformer_block"],
            attentions_per_block=len(kinds),
            position_code=config["temporal_position_encoding"],
            max_frames=config["temporal_position_encoding_max_len"],
            dim_div=config.get("temporal_attention_dim_div", 1),
            memory_decay="released",
            key_activation="frames",
        )


@dataclass(frozen=True)
class DiffusionNetConfig(UNetConfig):
    """The Diffusion Net.

    `norm_per_frame`: group norms of the resnets take each frame's own statistics
    (`use_inflated_groupnorm`); otherwise the whole clip's. `reference_rows`: "own" lets each
    frame attend to its own sample's portrait; "mixed", the release, lets row n attend to that of
    sample n mod b. `motion_resolutions` are the scales (latent pixels per feature) of the levels
    that have motion modules, `mid_motion` whether the middle has one. Without audio and motion
    modules the net sees frame by frame, which is how training begins.

    `audio_attention`: "joint" over video and audio tokens; "cross" lets video tokens read audio
    tokens that never change, the paper's baseline.
    """

    out_channels: int = 4
    audio_attention_dim: int = 768
    emotion_drop_rate: float = 0.05
    num_emotions: int = NUM_EMOTIONS
    norm_per_frame: bool = True
    audio_modules: bool = True
    audio_attention: AudioAttention = "joint"
    motion: MotionConfig = dataclasses.field(default_factory=MotionConfig)
    motion_resolutions: tuple[int, ...] = (1, 2, 4, 8)
    mid_motion: bool = True
    reference_rows: Rows = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "out_channels", "audio_attention_dim", "num_emotions")

    @property
    def null_emotion(self) -> int:
        """The class of a dropped label."""
        return self.num_emotions

    @property
    def emotion_rows(self) -> int:
        """Rows of an emotion table: a null row exists only if training drops labels."""
        return self.num_emotions + (1 if self.emotion_drop_rate > 0 else 0)

    @classmethod
    def from_torch(cls, config: Mapping[str, Any]) -> Self:
        fields = cls._unet_fields("diffusion_net", config)
        return cls(
            **fields,
            emotion_drop_rate=config.get("emo_drop_rate", 0.0),
            norm_per_frame=config.get("use_inflated_groupnorm", False),
            motion=MotionConfig.from_torch(config["motion_module_kwargs"]),
            motion_resolutions=tuple(config.get("motion_module_resolutions", (1, 2, 4, 8))),
            reference_rows="mixed",
        )


@dataclass(frozen=True)
class StableDiffusionConfig(DiffusionNetConfig):
    """Stable Diffusion 1.5's own UNet (diffusers UNet2DConditionModel): the Diffusion Net without
    audio and motion modules. Text tokens stand where the Diffusion Net has face tokens."""

    audio_modules: bool = False
    motion_resolutions: tuple[int, ...] = ()
    mid_motion: bool = False

    @classmethod
    def from_torch(cls, config: Mapping[str, Any]) -> Self:
        _require("unet", config, mid_block_type="UNetMidBlock2DCrossAttn", attention_type="default")
        _require("unet", config, transformer_layers_per_block=1, resnet_skip_time_act=False)
        _require("unet", config, resnet_out_scale_factor=1.0, time_embedding_type="positional")
        _require("unet", config, conv_in_kernel=3, conv_out_kernel=3)
        unset = """num_attention_heads encoder_hid_dim_type addition_embed_type num_class_embeds
            time_embedding_dim time_embedding_act_fn timestep_post_act time_cond_proj_dim
            mid_block_only_cross_attention cross_attention_norm"""
        _require("unet", config, **dict.fromkeys(unset.split()))
        for side in ("Down", "Up"):
            name = f"{side.lower()}_block_types"
            known = (f"CrossAttn{side}Block2D", f"{side}Block2D")
            if any(kind not in known for kind in config[name]):
                raise UserError(f"unet: {name}={config[name]!r} is not supported, expected {known}")
        single = ("attention_head_dim", "layers_per_block", "cross_attention_dim")
        same = {name: _one("unet", config, name) for name in single}
        return cls(**cls._unet_fields("unet", {**config, **same}))


@dataclass(frozen=True)
class MotionAdapterConfig(Config):
    """Motion modules alone, for a UNet of these widths (diffusers MotionAdapter).

    Every level has them, and the middle too where `mid`.
    """

    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    mid: bool = True
    motion: MotionConfig = dataclasses.field(default_factory=MotionConfig)

    def __post_init__(self) -> None:
        _positive(self, "block_out_channels", "layers_per_block")

    @classmethod
    def from_torch(cls, config: Mapping[str, Any]) -> Self:
        what, mid = "motion_adapter", config["use_motion_mid_block"]
        blocks = _one(what, config, "motion_transformer_layers_per_block", 1)
        _require(what, config, motion_norm_num_groups=32, conv_in_channels=None)
        if mid:
            in_mid = _one(what, config, "motion_transformer_layers_per_mid_block", 1)
            config = {**config, "motion_transformer_layers_per_mid_block": in_mid}
            _require(what, config, motion_transformer_layers_per_mid_block=blocks)
            _require(what, config, motion_mid_block_layers_per_block=1)
        motion = MotionConfig(
            num_heads=_one(what, config, "motion_num_attention_heads"),
            num_blocks=blocks,
            max_frames=config["motion_max_seq_length"],
            attention="softmax",
            norm_per_frame=False,
        )
        return cls(
            block_out_channels=tuple(config["block_out_channels"]),
            layers_per_block=_one(what, config, "motion_layers_per_block"),
            mid=mid,
            motion=motion,
        )


@dataclass(frozen=True)
class ImageProjectionConfig(Config):
    """Face embedding -> face tokens."""

    embedding_dim: int = 512
    tokens: int = 4
    cross_attention_dim: int = 768

    def __post_init__(self) -> None:
        _positive(self, "embedding_dim", "tokens", "cross_attention_dim")

    @classmethod
    def from_torch(cls, config: Mapping[str, Any]) -> Self:
        return cls(
            embedding_dim=config.get("clip_embeddings_dim", 512),
            tokens=config.get("clip_extra_context_tokens", 4),
            cross_attention_dim=config.get("cross_attention_dim", 768),
        )


@dataclass(frozen=True)
class AudioProjectionConfig(Config):
    """A window of hidden states -> audio tokens."""

    window: int = 5
    layers: int = 12
    channels: int = 768
    hidden_dim: int = 512
    tokens: int = 32
    out_dim: int = 768

    def __post_init__(self) -> None:
        _positive(self, "window", "layers", "channels", "hidden_dim", "tokens", "out_dim")

    @classmethod
    def from_torch(cls, config: Mapping[str, Any]) -> Self:
        return cls(
            window=config.get("seq_len", 5),
            layers=config.get("blocks", 12),
            channels=config.get("channels", 768),
            hidden_dim=config.get("intermediate_dim", 512),
            tokens=config.get("context_tokens", 32),
            out_dim=config.get("output_dim", 768),
        )


@dataclass(frozen=True)
class EmotionClassifierConfig(Config):
    """emotion2vec features -> class probabilities."""

    in_features: int = 1024
    layers: int = 5
    channels: int = 2048
    num_emotions: int = NUM_EMOTIONS

    def __post_init__(self) -> None:
        _positive(self, "in_features", "layers", "channels", "num_emotions")

    @classmethod
    def from_torch(cls, config: Mapping[str, Any]) -> Self:
        return cls(
            in_features=config.get("in_features", 1024),
            layers=config.get("num_classifier_layers", 5),
            channels=config.get("num_classifier_channels", 2048),
            num_emotions=config.get("num_emotion_classes", NUM_EMOTIONS),
        )


@dataclass(frozen=True)
class SamplerConfig(Config):
    """How a model turns recordings into clips; stored in its model.json.

    `image_size` is the side of the generated square in pixels, `fps` frames per second,
    `past_frames` how many generated frames the next clip remembers, `first_past_frames` how often
    the portrait stands in for them in the first clip. `memory`: "long" remembers all frames since
    the first; "past" only the past frames, so that what went before them is forgotten; "none" makes
    each clip from the portrait alone. Switches: `null_audio` is what guidance's null branch hears
    ("zeros" after the projection as released, or the "projected" zeros that training uses);
    `audio_padding` and `emotion_times` are "released" or sample-"exact".

    `noise_span`: over how many clips the noise turns into another, so that what is read from it,
    such as how the head is held, goes on; with 1, as published, each clip's is drawn anew.

    Approximations, all off: guidance at the noise levels in `guidance_interval` alone, deep
    features that serve `cache_steps` steps, and with `latent_carry` past frames as the latents
    they were decoded from. `device_memory` "low" computes branches of guidance and pictures in
    turn, and keeps the memory in bfloat16 from clip to clip.
    """

    image_size: int = 512
    fps: int = 30
    clip_frames: int = 16
    past_frames: int = 16
    first_past_frames: int = 16
    noise_span: int = 1
    steps: int = 20
    guidance: float = 3.5
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    cache_steps: int = 1
    latent_carry: bool = False
    device_memory: Literal["normal", "low"] = "normal"
    memory: Literal["long", "past", "none"] = "long"
    null_audio: Literal["zeros", "projected"] = "projected"
    audio_padding: Literal["released", "exact"] = "exact"
    emotion_times: Literal["released", "exact"] = "exact"

    def __post_init__(self) -> None:
        _positive(self, "image_size", "fps", "clip_frames", "past_frames", "first_past_frames")
        _positive(self, "noise_span", "steps", "cache_steps")
        if not 0 <= self.guidance_interval[0] <= self.guidance_interval[1] <= 1:
            raise UserError(f"guidance_interval {self.guidance_interval}: expected say (0.3, 0.9)")
        if not math.isfinite(self.guidance):
            raise UserError(f"guidance must be a number such as 3.5, got {self.guidance}")

    @classmethod
    def released(cls) -> Self:
        """The published release's sampling, switch for switch."""
        return cls(null_audio="zeros", audio_padding="released", emotion_times="released")


def _shared(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `cls` that the PyTorch config has under the same name."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: _freeze(value) for name, value in config.items() if name in names}
