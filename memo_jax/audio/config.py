"""The shapes of the two speech encoders, read from their published configurations."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from memo_jax.audio.layers import receptive_field
from memo_jax.config import Config
from memo_jax.errors import UserError

# Only these values of a published config are built here.
WAV2VEC2_SUPPORTED = {
    "do_stable_layer_norm": False,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "hidden_act": "gelu",
    "add_adapter": False,
    "adapter_attn_dim": None,
}


@dataclass(frozen=True)
class Wav2Vec2Config(Config):
    """The shape of a wav2vec2; defaults are those of the published base model."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    conv_channels: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    position_kernel: int = 128
    position_groups: int = 16
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if not len(self.conv_channels) == len(self.conv_kernels) == len(self.conv_strides) > 0:
            raise UserError(
                "wav2vec2 config: conv_dim, conv_kernel and conv_stride differ in length: "
                f"{self.conv_channels}, {self.conv_kernels}, {self.conv_strides}"
            )
        for name, parts in (("heads", self.heads), ("position_groups", self.position_groups)):
            _divides("wav2vec2", self.width, name, parts)

    @classmethod
    def from_torch(cls, config: Mapping[str, Any]) -> Self:
        """Reads a published config.json. Fields without effect outside training are ignored.

        Raises:
          UserError: the config asks for a variant that is not built here.
        """
        _check("wav2vec2", config, WAV2VEC2_SUPPORTED)
        default = cls()
        return cls(
            width=config.get("hidden_size", default.width),
            layers=config.get("num_hidden_layers", default.layers),
            heads=config.get("num_attention_heads", default.heads),
            hidden=config.get("intermediate_size", default.hidden),
            conv_channels=tuple(config.get("conv_dim", default.conv_channels)),
            conv_kernels=tuple(config.get("conv_kernel", default.conv_kernels)),
            conv_strides=tuple(config.get("conv_stride", default.conv_strides)),
            conv_bias=config.get("conv_bias", default.conv_bias),
            position_kernel=config.get("num_conv_pos_embeddings", default.position_kernel),
            position_groups=config.get("num_conv_pos_embedding_groups", default.position_groups),
            epsilon=config.get("layer_norm_eps", default.epsilon),
        )


# The same for emotion2vec, of its whole configuration and of the part about audio.
EMOTION2VEC_SUPPORTED = {"layer_norm_first": False, "norm_affine": True}
EMOTION2VEC_AUDIO_SUPPORTED = {
    "extractor_mode": "layer_norm",
    "use_alibi_encoder": True,
    "learned_alibi": False,
    "alibi_max_pos": None,
    "conv_pos_pre_ln": False,
}


@dataclass(frozen=True)
class Emotion2VecConfig(Config):
    """The shape of an emotion2vec.

    `convs` are (channels, kernel, stride). The decoder serves pre-training alone; with no
    `decoder_layers` there is none.
    """

    width: int
    depth: int
    prenet_depth: int
    heads: int
    hidden: int
    convs: tuple[tuple[int, int, int], ...]
    position_kernel: int
    position_layers: int
    position_groups: int
    extra_tokens: int
    alibi_layers: int
    alibi_heads: int
    epsilon: float = 1e-5
    decoder_width: int = 0
    decoder_layers: int = 0
    decoder_kernel: int = 0
    decoder_groups: int = 0

    def __post_init__(self) -> None:
        for name, parts in (("heads", self.heads), ("position_groups", self.position_groups)):
            _divides("emotion2vec", self.width, name, parts)
        if self.alibi_heads not in (1, self.heads):
            raise UserError(
                f"emotion2vec config: {self.alibi_heads} ALiBi heads, expected 1 or {self.heads}"
            )
        if self.extra_tokens < 1:
            raise UserError(
                f"emotion2vec config: num_extra_tokens is {self.extra_tokens}, expected at least 1"
            )

    @property
    def shortest(self) -> int:
        """The fewest samples that give one feature."""
        return receptive_field(self.kernels, self.strides)

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernel of each strided convolution."""
        return tuple(kernel for _, kernel, _ in self.convs)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each strided convolution."""
        return tuple(stride for _, _, stride in self.convs)

    @classmethod
    def from_torch(cls, config: Mapping[str, Any]) -> Self:
        """Reads the `model_conf` of the published configuration.

        Raises:
          UserError: a field is missing, or asks for a variant that is not built here.
        """
        try:
            return cls._from_torch(config)
        except KeyError as missing:
            raise UserError(
                f"emotion2vec config: {missing.args[0]} is missing; give its model_conf part"
            ) from None

    @classmethod
    def _from_torch(cls, config: Mapping[str, Any]) -> Self:
        audio = config["modalities"]["audio"]
        _check("emotion2vec", config, EMOTION2VEC_SUPPORTED)
        _check("emotion2vec", audio, EMOTION2VEC_AUDIO_SUPPORTED)
        decoder = audio.get("decoder") or {}
        _check("emotion2vec", decoder, {"projection_layers": 1})
        depth, prenet, heads = config["depth"], audio["prenet_depth"], config["num_heads"]
        return cls(
            width=config["embed_dim"],
            depth=depth,
            prenet_depth=prenet,
            heads=heads,
            hidden=int(config["embed_dim"] * config["mlp_ratio"]),
            convs=parse_convs(audio["feature_encoder_spec"]),
            position_kernel=max(3, audio["conv_pos_width"] // audio["conv_pos_depth"]),
            position_layers=audio["conv_pos_depth"],
            position_groups=audio["conv_pos_groups"],
            extra_tokens=audio["num_extra_tokens"],
            alibi_layers=prenet + depth if audio["learned_alibi_scale_per_layer"] else 1,
            alibi_heads=heads if audio["learned_alibi_scale_per_head"] else 1,
            epsilon=config["norm_eps"],
            decoder_width=decoder.get("decoder_dim", 0),
            decoder_layers=decoder.get("decoder_layers", 0),
            decoder_kernel=decoder.get("decoder_kernel", 0),
            decoder_groups=decoder.get("decoder_groups", 0),
        )


def _check(what: str, config: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    for name, value in supported.items():
        if config.get(name, value) != value:
            raise UserError(
                f"{what} config: {name} is {config[name]!r}, expected {value!r}; "
                "use a model of the published kind"
            )


def _divides(what: str, width: int, name: str, parts: int) -> None:
    if parts < 1 or width % parts:
        raise UserError(f"{what} config: width {width} is no multiple of {name} {parts}")


def parse_convs(text: str) -> tuple[tuple[int, int, int], ...]:
    """Reads `[(512, 10, 5)] + [(512, 3, 2)] * 4`, which is Python, without running it.

    Raises:
      UserError: anything but lists of three whole numbers, `+` and `* count`.
    """
    try:
        convs = _convs(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        raise UserError(
            f"emotion2vec config: feature_encoder_spec is {text!r}, "
            "expected a sum of lists such as [(512, 10, 5)] + [(512, 3, 2)] * 4"
        ) from None
    return tuple(convs)


def _convs(node: ast.expr) -> list[tuple[int, int, int]]:
    match node:
        case ast.List(elts=items):
            return [_conv(item) for item in items]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _convs(left) + _convs(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(count))):
            # The bound keeps a strange file from filling the memory.
            return _convs(left) * min(count, 64)
    raise ValueError


def _conv(node: ast.expr) -> tuple[int, int, int]:
    match node:
        case ast.Tuple(
            elts=[
                ast.Constant(value=channels),
                ast.Constant(value=kernel),
                ast.Constant(value=stride),
            ]
        ):
            numbers = (channels, kernel, stride)
            # `is int` because True is one of the whole numbers.
            if all(type(n) is int and n > 0 for n in numbers):
                return cast(tuple[int, int, int], numbers)
    raise ValueError
