"""The networks at their published sizes, by name and shape: PyTorch's own, without their values."""

import numpy as np
import pytest
from golden_case import relative_error

from memo_jax.models.motion import PositionCode
from memo_jax.weights.components import component
from memo_jax.weights.rules import import_tensors

torch = pytest.importorskip("torch", reason="PyTorch is the judge here")
diffusers = pytest.importorskip("diffusers", reason="diffusers is the judge here")
transformers = pytest.importorskip("transformers", reason="transformers is the judge here")

# Stable Diffusion 1.5's and sd-vae-ft-mse's, where they differ from the classes' defaults.
UNET = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 256,
}
# Name -> (component, class, config, how many of our parameters share a tensor with another).
PUBLISHED = {
    "vae": ("vae", lambda: diffusers.AutoencoderKL(**VAE), 0),
    "unet": ("unet", lambda: diffusers.UNet2DConditionModel(**UNET), 0),
    "animatediff 1.5-2": ("motion_adapter", lambda: diffusers.MotionAdapter(), 21),
    "animatediff 1.5": (
        "motion_adapter",
        lambda: diffusers.MotionAdapter(use_motion_mid_block=False, motion_max_seq_length=24),
        20,
    ),
    "wav2vec2": (
        "wav2vec2",
        lambda: transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()),
        0,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_has_its_place(name):
    kind, make, shared = PUBLISHED[name]
    with torch.device("meta"):
        module = make()
    config = module.config
    config = config.to_dict() if kind == "wav2vec2" else dict(config)
    part = component(kind)
    ours = part.config.from_torch(config)
    _, params = part.abstract(ours)
    shapes = {path: leaf.shape for path, leaf in params.items()}
    # Views of one zero: full shapes without the memory.
    zero = np.zeros((), np.float32)
    state = module.state_dict()
    tensors = {key: np.broadcast_to(zero, tuple(value.shape)) for key, value in state.items()}
    assert import_tensors(name, part.rules(ours), tensors, shapes).keys() == shapes.keys()
    assert len(shapes) == len(tensors) + shared


def test_the_position_code_is_diffusers():
    """It is loaded like any weight; a new module's is computed."""
    width, frames = 320, 32
    theirs = diffusers.models.embeddings.SinusoidalPositionalEmbedding(width, frames)
    assert "pe" in theirs.state_dict()
    ours = PositionCode(width, frames).pe[...]
    assert relative_error(ours, theirs.pe.numpy()) <= 1e-5
