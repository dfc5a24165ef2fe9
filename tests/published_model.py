"""A folder in the published layout, small, as PyTorch users have it."""

import json

import numpy as np
from golden_case import GoldenCase
from safetensors.numpy import save_file
from small_model import CASE, WAV2VEC2, random_module

from memo_jax.weights.components import to_torch

PLACES = {
    "vae": "vae",
    "reference_net": "reference_net",
    "diffusion_net": "diffusion_net",
    "image_proj": "image_proj",
    "audio_proj": "audio_proj",
    "wav2vec2": "wav2vec2-base-960h",
    "emotion_classifier": "misc/audio_emotion_classifier",
}
WAV2VEC2_TORCH = {
    "hidden_size": WAV2VEC2.width,
    "num_hidden_layers": WAV2VEC2.layers,
    "num_attention_heads": WAV2VEC2.heads,
    "intermediate_size": WAV2VEC2.hidden,
    "conv_dim": list(WAV2VEC2.conv_channels),
    "num_conv_pos_embeddings": WAV2VEC2.position_kernel,
    "num_conv_pos_embedding_groups": WAV2VEC2.position_groups,
}


def write_published(folder):
    """Make a folder in the published layout with a recorded case's weights; gives it back."""
    case = GoldenCase(CASE)
    projections = GoldenCase("f_projections")
    for name, place in PLACES.items():
        (folder / place).mkdir(parents=True)
        if name == "wav2vec2":
            config = WAV2VEC2_TORCH
            tensors = to_torch(name, random_module(name, WAV2VEC2))
        elif name == "emotion_classifier":
            config, tensors = projections.config[name], projections.w(name)
        else:
            config, tensors = case.config[name], case.w(name)
        config = {"_class_name": "X", "_diffusers_version": "0.31.0", **config}
        (folder / place / "config.json").write_text(json.dumps(config))
        own = name in ("wav2vec2", "emotion_classifier")
        file = "model.safetensors" if own else "diffusion_pytorch_model.safetensors"
        tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
        save_file(tensors, folder / place / file, metadata={"format": "pt"})
    return folder
