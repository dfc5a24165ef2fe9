"""PyTorch's own classes, small and of the true structure, beside ours with their weights."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from einops import rearrange, repeat
from flax import nnx

from memo_jax.weights import load_torch

# Four levels as released, attention in three; a head of 4, 8 or 16 channels.
WIDTHS = (16, 32, 64, 64)
UNET = {
    "block_out_channels": WIDTHS,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
# AnimateDiff's group norms have 32 groups, as have those of the UNet it is made for.
WIDE = {**UNET, "block_out_channels": (32, 64, 64, 64), "norm_num_groups": 32}
ADAPTER = {
    "block_out_channels": WIDE["block_out_channels"],
    "motion_num_attention_heads": 2,
    "motion_max_seq_length": 6,
}
VAE = {
    "block_out_channels": WIDTHS,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 8,
}
WAV2VEC2 = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "attn_implementation": "eager",
}


def _diffusers(name: str, **config: Any):
    import diffusers

    return getattr(diffusers, name)(**config)


def _wav2vec2(**config: Any):
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    return Wav2Vec2Model(Wav2Vec2Config(**WAV2VEC2, **config))


# Inputs channels last, as ours take them; sides that do not halve evenly.
def _drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


IMAGES, CODES = _drawn(2, 32, 48, 3), _drawn(2, 4, 6, 4)
NOISY, TIMESTEPS, TEXT = _drawn(2, 12, 20, 4), np.array([999.0, 3.25], np.float32), _drawn(2, 7, 24)
CLIP = _drawn(2, 4, 6, 10, 4)
SAMPLES = _drawn(2, 6000)


def _vae_answers(module):
    moments = module.encode(_channels_first(IMAGES)).latent_dist
    image = module.decode(_channels_first(CODES)).sample
    return moments.mean, moments.logvar, image


def _unet_answers(module, timesteps=TIMESTEPS):
    import torch

    text, timesteps = torch.from_numpy(TEXT), torch.from_numpy(timesteps)
    return (module(_channels_first(NOISY), timesteps, text).sample,)


def _adapter_answers(module):
    """Of diffusers' UNet for clips, with these motion modules."""
    import diffusers
    import torch

    unet = _draw(CASES["wide_unet"].torch(), 0)
    both = diffusers.UNetMotionModel.from_unet2d(unet, module).eval()
    clip = torch.from_numpy(np.ascontiguousarray(rearrange(CLIP, "b f h w c -> b c f h w")))
    text = torch.from_numpy(repeat(TEXT, "b t c -> (b f) t c", f=CLIP.shape[1]))
    return (both(clip, torch.from_numpy(TIMESTEPS), text).sample,)


def _wav2vec2_answers(module):
    import torch

    return module(torch.from_numpy(SAMPLES), output_hidden_states=True).hidden_states


def _channels_first(images):
    import torch

    return torch.from_numpy(np.ascontiguousarray(rearrange(images, "n h w c -> n c h w")))


@dataclass(frozen=True)
class Case:
    """A component, PyTorch's module for it, and what that module answers to the inputs above."""

    component: str
    torch: Callable[[], Any]
    answers: Callable[..., tuple[Any, ...]]


def _unet(**config: Any) -> Case:
    return Case("unet", lambda: _diffusers("UNet2DConditionModel", **config), _unet_answers)


def _adapter(**config: Any) -> Case:
    config = {**ADAPTER, "motion_layers_per_block": 1, **config}
    return Case("motion_adapter", lambda: _diffusers("MotionAdapter", **config), _adapter_answers)


CASES = {
    "vae": Case("vae", lambda: _diffusers("AutoencoderKL", **VAE), _vae_answers),
    "unet": _unet(**UNET),
    "wide_unet": _unet(**WIDE, layers_per_block=1),
    "adapter": _adapter(),
    "adapter_without_mid": _adapter(use_motion_mid_block=False),
    "wav2vec2": Case("wav2vec2", _wav2vec2, _wav2vec2_answers),
    "wav2vec2_with_conv_bias": Case(
        "wav2vec2", lambda: _wav2vec2(conv_bias=True), _wav2vec2_answers
    ),
}


@dataclass
class Pair:
    """PyTorch's module and ours, loaded from it as a user loads a file."""

    component: str
    torch: Any
    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    ours: nnx.Module


def _draw(module, seed):
    """Every parameter, the biases, norms and zero-initialised layers too."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            n = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                n = n / parameter[0].numel() ** 0.5
            elif name.endswith("weight"):  # a norm's
                n = 1 + 0.2 * n
            else:
                n = 0.2 * n
            parameter.copy_(n)
    return module.eval()


@pytest.fixture(scope="session")
def fresh():
    """`fresh(case, seed)`: PyTorch's module with every parameter drawn."""
    return lambda case, seed: _draw(CASES[case].torch(), seed)


@pytest.fixture(scope="session")
def pair(fresh):
    """`pair(case)`: both modules with the same weights."""

    @functools.cache
    def pair(case):
        component, module = CASES[case].component, fresh(case, 0)
        tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
        config = module.config
        config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        return Pair(component, module, config, tensors, load_torch(component, config, tensors))

    return pair


@pytest.fixture(scope="session")
def answers():
    """`answers(case, module)`: what PyTorch's module gives for the case's inputs, as numpy."""
    import torch

    def answers(case, module, **kwargs):
        with torch.no_grad():
            return [answer.numpy() for answer in CASES[case].answers(module, **kwargs)]

    return answers


@pytest.fixture(scope="session")
def inputs():
    """The inputs that `answers` are to."""
    return SimpleNamespace(
        images=IMAGES,
        codes=CODES,
        noisy=NOISY,
        timesteps=TIMESTEPS,
        text=TEXT,
        clip=CLIP,
        samples=SAMPLES,
    )


@pytest.fixture(scope="session")
def run():
    """`run(module, *args, call=...)`: ours as one program, compiled without the optimisations
    that cost more than they save at these sizes."""

    def run(module, *args, call=lambda module, *args: module(*args)):
        graphdef, state = nnx.split(module)
        return jax.jit(
            lambda state, *args: call(nnx.merge(graphdef, state), *args),
            compiler_options={"xla_backend_optimization_level": 0},
        )(state, *args)

    return run
