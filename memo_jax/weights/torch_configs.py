"""The config.json that PyTorch's classes read, made from our configs: the inverse of `from_torch`.

Keys are those of the published files, so that the official code loads an exported folder.
"""

from collections.abc import Callable
from typing import Any

from memo_jax import config as configs
from memo_jax.audio.config import Emotion2VecConfig, Wav2Vec2Config

# What the published code does, whatever the weights were trained with.
RELEASED = {
    "reference_net": {"face_rows": "mixed"},
    "diffusion_net": {"reference_rows": "mixed"},
}
RELEASED_MOTION = {"memory_decay": "released", "key_activation": "frames", "decay": 0.9}


def torch_config(component: str, config: Any) -> dict[str, Any]:
    """PyTorch's config for ours."""
    return _CONFIGS[component](config)


def not_in_torch(component: str, config: Any) -> list[str]:
    """What of a config PyTorch's code cannot be told, and will do as the release does."""
    lost = [
        f"{component}.{name}={getattr(config, name)!r} (the published code: {value!r})"
        for name, value in RELEASED.get(component, {}).items()
        if getattr(config, name) != value
    ]
    if component == "diffusion_net":
        lost += [
            f"diffusion_net.motion.{name}={getattr(config.motion, name)!r} "
            f"(the published code: {value!r})"
            for name, value in RELEASED_MOTION.items()
            if getattr(config.motion, name) != value
        ]
        # Fields that only networks of other kinds than the published one have otherwise.
        plain = {"attention": "linear", "norm_per_frame": True}
        lost += [
            f"diffusion_net.motion.{name}={getattr(config.motion, name)!r}"
            for name, value in plain.items()
            if getattr(config.motion, name) != value
        ]
        lost += [
            f"diffusion_net.{name}=False" for name in ("audio_modules", "mid_motion")
            if not getattr(config, name)
        ]  # fmt: skip
        if config.audio_attention != "joint":
            lost.append(f"diffusion_net.audio_attention={config.audio_attention!r}")
    return lost


def _vae(c: configs.VAEConfig) -> dict[str, Any]:
    levels = len(c.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": c.in_channels,
        "out_channels": c.in_channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(c.block_out_channels),
        "layers_per_block": c.layers_per_block,
        "act_fn": "silu",
        "latent_channels": c.latent_channels,
        "norm_num_groups": c.norm_num_groups,
        "sample_size": 256,
        "scaling_factor": c.scaling_factor,
    }


def _blocks(kind: str, attention: tuple[bool, ...]) -> list[str]:
    return [f"{'CrossAttn' if has else ''}{kind}" for has in attention]


def _unet(c: configs.UNetConfig, dimensions: int) -> dict[str, Any]:
    """What all three UNets' configs have; `dimensions` tells their blocks' names apart."""
    return {
        "sample_size": 64,
        "in_channels": c.in_channels,
        "flip_sin_to_cos": c.flip_sin_to_cos,
        "freq_shift": c.freq_shift,
        "down_block_types": _blocks(f"DownBlock{dimensions}D", c.down_attention),
        "mid_block_type": f"UNetMidBlock{dimensions}DCrossAttn",
        "up_block_types": _blocks(f"UpBlock{dimensions}D", c.up_attention),
        "only_cross_attention": False,
        "block_out_channels": list(c.block_out_channels),
        "layers_per_block": c.layers_per_block,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "norm_num_groups": c.norm_num_groups,
        "norm_eps": c.norm_eps,
        "cross_attention_dim": c.cross_attention_dim,
        "attention_head_dim": c.num_heads,
        "use_linear_projection": c.use_linear_projection,
        "upcast_attention": False,
        "resnet_time_scale_shift": "default",
    }


def _stable_diffusion(c: configs.DiffusionNetConfig) -> dict[str, Any]:
    return {"_class_name": "UNet2DConditionModel", **_unet(c, 2), "out_channels": c.out_channels}


def _reference_net(c: configs.ReferenceNetConfig) -> dict[str, Any]:
    return {
        "_class_name": "UNet2DConditionModel",
        **_unet(c, 2),
        "dropout": 0.0,
        "_out_channels": 4,
        "_center_input_sample": False,
    }


def _diffusion_net(c: configs.DiffusionNetConfig) -> dict[str, Any]:
    return {
        "_class_name": "UNet3DConditionModel",
        **_unet(c, 3),
        "out_channels": c.out_channels,
        "dual_cross_attention": False,
        "class_embed_type": None,
        "num_class_embeds": None,
        "use_inflated_groupnorm": c.norm_per_frame,
        "motion_module_resolutions": list(c.motion_resolutions),
        "motion_module_kwargs": {
            "num_attention_heads": c.motion.num_heads,
            "num_transformer_block": c.motion.num_blocks,
            "attention_block_types": ["Temporal_Self"] * c.motion.attentions_per_block,
            "temporal_position_encoding": c.motion.position_code,
            "temporal_position_encoding_max_len": c.motion.max_frames,
            "temporal_attention_dim_div": c.motion.dim_div,
        },
        "unet_use_cross_frame_attention": False,
        "unet_use_temporal_attention": False,
        "audio_attention_dim": c.audio_attention_dim,
        "emo_drop_rate": c.emotion_drop_rate,
    }


def _motion_adapter(c: configs.MotionAdapterConfig) -> dict[str, Any]:
    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": list(c.block_out_channels),
        "motion_layers_per_block": c.layers_per_block,
        "motion_max_seq_length": c.motion.max_frames,
        "motion_mid_block_layers_per_block": 1,
        "motion_norm_num_groups": 32,
        "motion_num_attention_heads": c.motion.num_heads,
        "use_motion_mid_block": c.mid,
        "conv_in_channels": None,
    }


def _image_proj(c: configs.ImageProjectionConfig) -> dict[str, Any]:
    return {
        "_class_name": "ImageProjModel",
        "cross_attention_dim": c.cross_attention_dim,
        "clip_embeddings_dim": c.embedding_dim,
        "clip_extra_context_tokens": c.tokens,
    }


def _audio_proj(c: configs.AudioProjectionConfig) -> dict[str, Any]:
    return {
        "_class_name": "AudioProjModel",
        "seq_len": c.window,
        "blocks": c.layers,
        "channels": c.channels,
        "intermediate_dim": c.hidden_dim,
        "output_dim": c.out_dim,
        "context_tokens": c.tokens,
    }


def _emotion_classifier(c: configs.EmotionClassifierConfig) -> dict[str, Any]:
    return {
        "_class_name": "AudioEmotionClassifierModel",
        "num_classifier_layers": c.layers,
        "num_classifier_channels": c.channels,
        "num_emotion_classes": c.num_emotions,
        "in_features": c.in_features,
    }


def _wav2vec2(c: Wav2Vec2Config) -> dict[str, Any]:
    return {
        "model_type": "wav2vec2",
        "architectures": ["Wav2Vec2Model"],
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "intermediate_size": c.hidden,
        "conv_dim": list(c.conv_channels),
        "conv_kernel": list(c.conv_kernels),
        "conv_stride": list(c.conv_strides),
        "conv_bias": c.conv_bias,
        "num_feat_extract_layers": len(c.conv_channels),
        "num_conv_pos_embeddings": c.position_kernel,
        "num_conv_pos_embedding_groups": c.position_groups,
        "layer_norm_eps": c.epsilon,
        "do_stable_layer_norm": False,
        "feat_extract_norm": "group",
    }


def _emotion2vec(c: Emotion2VecConfig) -> dict[str, Any]:
    layers, widest = c.position_layers, c.position_kernel * c.position_layers
    audio = {
        "type": "AUDIO",
        "prenet_depth": c.prenet_depth,
        "num_extra_tokens": c.extra_tokens,
        "use_alibi_encoder": True,
        "learned_alibi": False,
        "alibi_max_pos": None,
        "learned_alibi_scale": True,
        "learned_alibi_scale_per_head": c.alibi_heads > 1 or c.heads == 1,
        "learned_alibi_scale_per_layer": c.alibi_layers > 1,
        "num_alibi_heads": c.heads,
        "extractor_mode": "layer_norm",
        "feature_encoder_spec": repr([tuple(conv) for conv in c.convs]),
        "conv_pos_width": widest,
        "conv_pos_groups": c.position_groups,
        "conv_pos_depth": layers,
        "conv_pos_pre_ln": False,
    }
    if c.decoder_layers:
        audio["decoder"] = {
            "decoder_dim": c.decoder_width,
            "decoder_groups": c.decoder_groups,
            "decoder_kernel": c.decoder_kernel,
            "decoder_layers": c.decoder_layers,
            "projection_layers": 1,
        }
    return {
        "depth": c.depth,
        "num_heads": c.heads,
        "norm_eps": c.epsilon,
        "norm_affine": True,
        "embed_dim": c.width,
        "mlp_ratio": c.hidden / c.width,
        "layer_norm_first": False,
        "normalize": True,
        "modalities": {"_name": None, "audio": audio},
    }


_CONFIGS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "vae": _vae,
    "reference_net": _reference_net,
    "diffusion_net": _diffusion_net,
    "image_proj": _image_proj,
    "audio_proj": _audio_proj,
    "emotion_classifier": _emotion_classifier,
    "wav2vec2": _wav2vec2,
    "emotion2vec": _emotion2vec,
    "unet": _stable_diffusion,
    "motion_adapter": _motion_adapter,
}
