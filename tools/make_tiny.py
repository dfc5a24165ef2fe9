"""Makes the bundled preset `tiny`: the real architecture at 64 x 64 pixels, from a seed.

    python tools/make_tiny.py memo_jax/assets/models/tiny

The weights are as initialised: nothing is trained.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from memo_jax.audio.logmel import LogMelConfig
from memo_jax.config import (
    AudioProjectionConfig,
    DiffusionNetConfig,
    ImageProjectionConfig,
    MotionConfig,
    ReferenceNetConfig,
    SamplerConfig,
    VAEConfig,
)
from memo_jax.weights.build import CountingRngs
from memo_jax.weights.components import COMPONENTS
from memo_jax.weights.folder import Model, write_model
from memo_jax.weights.spec import ModelSpec, Part

LOG_MEL = LogMelConfig()
WIDTHS = (32, 32, 64)
# Attention from 8 x 8 down: at the latents' 16 x 16, a step on a CPU would take five times as long.
UNET = {
    "block_out_channels": WIDTHS,
    "down_attention": (False, True, True),
    "up_attention": (True, True, False),
    "layers_per_block": 1,
    "num_heads": 4,
    "cross_attention_dim": 32,
    "norm_num_groups": 8,
}

CONFIGS = {
    "vae": VAEConfig(
        block_out_channels=(16, 32, 64),  # 4 pixels of a latent: a face has 64
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=1.0,  # what its training makes of the latents (memo_jax/train/vae.py)
    ),
    "reference_net": ReferenceNetConfig(**UNET),
    "diffusion_net": DiffusionNetConfig(
        **UNET, audio_attention_dim=32, motion=MotionConfig(num_heads=4)
    ),
    "image_proj": ImageProjectionConfig(embedding_dim=192, tokens=4, cross_attention_dim=32),
    "audio_proj": AudioProjectionConfig(
        window=5,
        layers=LOG_MEL.moments,
        channels=LOG_MEL.bands,
        hidden_dim=64,
        tokens=8,
        out_dim=32,
    ),
}

SAMPLER = SamplerConfig(image_size=64, fps=25, steps=10)


def make(seed: int) -> Model:
    """The preset with fresh weights, stored in bfloat16 but for norms and biases."""
    modules = {}
    for i, (name, config) in enumerate(CONFIGS.items()):
        rngs = CountingRngs(jax.random.fold_in(jax.random.key(seed), i))
        module = COMPONENTS[name].module(config, rngs=rngs)
        graphdef, state = nnx.split(module)
        small = jax.tree.map(
            lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim > 1 else leaf,
            nnx.to_pure_dict(state),
        )
        modules[name] = nnx.merge(graphdef, small)
    origin = f"initialised with seed {seed} by tools/make_tiny.py; not trained"
    parts = {name: Part(config, origin, "Apache-2.0") for name, config in CONFIGS.items()}
    spec = ModelSpec(
        name="tiny",
        sampler=SAMPLER,
        parts=parts,
        identity="pixels",
        log_mel=LOG_MEL,
        notes="tiny is not trained yet: it shows the way from file to file, not a face",
    )
    return Model(spec, modules)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write; must not exist")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = make(args.seed)
    write_model(args.folder, model)
    leaves = [leaf for m in model.modules.values() for leaf in jax.tree.leaves(nnx.state(m))]
    print(f"{args.folder}: {sum(leaf.size for leaf in leaves) / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main()
