"""The smallest model with every part that training knows, and batches for it."""

import ml_dtypes
import numpy as np
from small_model import random_module

from memo_jax import config as configs
from memo_jax.config import SamplerConfig
from memo_jax.weights.folder import Model
from memo_jax.weights.spec import ModelSpec, Part

# One level of residual blocks, and in the middle one layer with everything.
UNET = {
    "block_out_channels": (32,),
    "down_attention": (False,),
    "up_attention": (False,),
    "layers_per_block": 1,
    "num_heads": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
PARTS = {
    "vae": configs.VAEConfig(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=0.5
    ),
    "reference_net": configs.ReferenceNetConfig(**UNET),
    "diffusion_net": configs.DiffusionNetConfig(
        **UNET,
        audio_attention_dim=8,
        motion=configs.MotionConfig(num_heads=2, attentions_per_block=1, max_frames=8),
        motion_resolutions=(),
    ),
    "image_proj": configs.ImageProjectionConfig(embedding_dim=6, tokens=2, cross_attention_dim=8),
    "audio_proj": configs.AudioProjectionConfig(
        window=5, layers=2, channels=4, hidden_dim=8, tokens=2, out_dim=8
    ),
}
# Transformers and audio modules in every layer.
MORE = {"down_attention": (True,), "up_attention": (True,)}
SIZE, SIDE = 8, 4  # pixels, latents
FRAMES, PAST = 2, 3


def spec(**replaced):
    """The model's description, with other configs for some components."""
    sampler = SamplerConfig(image_size=SIZE, clip_frames=FRAMES, past_frames=PAST)
    parts = {name: Part(config, "drawn") for name, config in (PARTS | replaced).items()}
    return ModelSpec(name="smallest", sampler=sampler, parts=parts)


def model():
    """Every parameter is drawn: nothing is hidden by a zero."""
    return Model(spec(), {name: random_module(name, config) for name, config in PARTS.items()})


def batch(b=4, form="latents", frames=FRAMES, past=PAST, seed=0):
    """A batch as the loader gives it."""
    rng = np.random.default_rng(seed)
    rows = {"frames" if form == "images" else "latents": (b, frames)}
    rows |= {"past": (b, past), "reference": (b,)}
    found = {
        "audio": rng.normal(size=(b, frames, 5, 2, 4)).astype(ml_dtypes.bfloat16),
        "emotion": rng.integers(9, size=b).astype(np.int32),
        "face": rng.normal(size=(b, 6)).astype(np.float32),
        "record": np.arange(b),
    }
    for name, shape in rows.items():
        if form == "images":
            found[name] = rng.integers(256, size=(*shape, SIZE, SIZE, 3), dtype=np.uint8)
            continue
        latents = (*shape, SIDE, SIDE, 4)
        found[f"{name}_mean"] = rng.normal(size=latents).astype(np.float32)
        found[f"{name}_std"] = rng.uniform(0.1, 0.5, size=latents).astype(np.float32)
    return found
