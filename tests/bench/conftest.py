"""Networks of the published structure, small enough to run in a moment, compiled quickly."""

import pytest
from small_model import SAMPLER, WAV2VEC2, quick_compilation
from smallest import PARTS

from memo_jax.bench import random_models
from memo_jax.bench.pairs import Sizes
from memo_jax.config import (
    AudioProjectionConfig,
    DiffusionNetConfig,
    MotionConfig,
    StableDiffusionConfig,
    VAEConfig,
)

# A level with attention and one without; motion's norm needs 32 groups.
UNET = {
    "block_out_channels": (32, 64),
    "down_attention": (True, False),
    "up_attention": (False, True),
    "layers_per_block": 1,
    "num_heads": 2,
    "cross_attention_dim": 12,
    "norm_num_groups": 8,
}
NET = DiffusionNetConfig(
    **UNET,
    audio_attention_dim=16,
    motion=MotionConfig(
        num_heads=2, max_frames=8, memory_decay="released", key_activation="frames"
    ),
    motion_resolutions=(1, 2),
    reference_rows="mixed",
)
TINY = Sizes(
    unet=StableDiffusionConfig(**UNET),
    unet_side=4,
    text_tokens=5,
    vae=VAEConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4),
    vae_side=4,
    net=NET,
    net_side=4,
    frames=4,
    past=3,
    faces=2,
    sounds=3,
    steps=2,
    attention=8,
    heads=2,
    head_width=8,
)

HEARD = {"layers": WAV2VEC2.layers, "channels": WAV2VEC2.width}
SMALL = PARTS | {
    "audio_proj": AudioProjectionConfig(window=5, hidden_dim=8, tokens=2, out_dim=8, **HEARD),
    "wav2vec2": WAV2VEC2,
}


@pytest.fixture(scope="module")
def small():
    """What `--size full` draws is small: its components' configs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_models, "FULL", SMALL)
        patch.setattr(random_models, "SAMPLER", SAMPLER)
        yield SMALL


@pytest.fixture(scope="session")
def sizes():
    return TINY


@pytest.fixture(autouse=True, scope="module")
def _quickly():
    with quick_compilation():
        yield
