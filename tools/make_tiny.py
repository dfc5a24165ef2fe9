"""Makes `tiny` as its training starts: the real architecture at 64 x 64 pixels, from a seed.

    python tools/make_tiny.py START
    python tools/make_tiny.py START --keep tiny --fresh "^(?!vae/)"
    python tools/make_tiny.py CROSS --audio-attention cross --keep STAGE1

The first is as initialised. The second has the autoencoder of the package, and the third is the
beginning of an ablation: every parameter that a trained model or a run has too is taken from it,
but for those that are to be learnt again.
"""

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from memo_jax.audio.logmel import LogMelConfig
from memo_jax.command import Parser, run
from memo_jax.config import (
    AudioAttention,
    AudioProjectionConfig,
    DiffusionNetConfig,
    ImageProjectionConfig,
    MotionConfig,
    ReferenceNetConfig,
    SamplerConfig,
    VAEConfig,
)
from memo_jax.errors import UserError
from memo_jax.train.run import is_run, run_model
from memo_jax.weights.build import CountingRngs, flatten
from memo_jax.weights.components import COMPONENTS, assemble
from memo_jax.weights.folder import Model, write_model
from memo_jax.weights.sources import load_model
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
        scaling_factor=0.436,  # one over the deviation that memo_jax.train.latents prints
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

SAMPLER = SamplerConfig(image_size=64, fps=25, noise_span=4, steps=4, guidance=2.0)


def make(seed: int, audio_attention: AudioAttention = "joint") -> Model:
    """The preset with fresh weights, stored in bfloat16 but for norms and biases."""
    configs = dict(CONFIGS)
    configs["diffusion_net"] = dataclasses.replace(
        CONFIGS["diffusion_net"], audio_attention=audio_attention
    )
    modules = {}
    for i, (name, config) in enumerate(configs.items()):
        rngs = CountingRngs(jax.random.fold_in(jax.random.key(seed), i))
        module = COMPONENTS[name].module(config, rngs=rngs)
        graphdef, state = nnx.split(module)
        small = jax.tree.map(
            lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim > 1 else leaf,
            nnx.to_pure_dict(state),
        )
        modules[name] = nnx.merge(graphdef, small)
    origin = f"initialised with seed {seed} by tools/make_tiny.py; not trained"
    parts = {name: Part(config, origin, "Apache-2.0") for name, config in configs.items()}
    spec = ModelSpec(
        name="tiny",
        sampler=SAMPLER,
        parts=parts,
        identity="pixels",
        log_mel=LOG_MEL,
        notes="tiny is not trained yet: it shows the way from file to file, not a face",
    )
    return Model(spec, modules)


def keep(model: Model, source: str, fresh: str = "") -> tuple[Model, int, int]:
    """`model` with the parameters of another that have the same place and shape; how many values
    those are, and how many stay as they were.

    Args:
      fresh: a regular expression; what it finds in whole paths stays as it was, too.

    Raises:
      UserError: it is none, or finds nothing.
    """
    try:
        again = re.compile(fresh) if fresh else None
    except re.error as error:
        raise UserError(f"--fresh {fresh!r} is no regular expression: {error}") from error
    path = Path(source)
    other = load_model(run_model(path, _say) if is_run(path) else source, jnp.float32)
    modules, kept, left, found = {}, 0, 0, False
    for name, module in model.modules.items():
        graphdef, state = nnx.split(module)
        values, theirs = flatten(state), flatten(nnx.state(other.modules[name]))
        for place, value in values.items():
            learnt_again = again is not None and again.search(f"{name}/{place}") is not None
            found |= learnt_again
            fits = place in theirs and theirs[place].shape == value.shape
            if fits and not learnt_again:
                values[place] = theirs[place]
                kept += value.size
            else:
                left += value.size
        modules[name] = assemble(graphdef, values)
    if again is not None and not found:
        raise UserError(f"--fresh {fresh!r} finds no parameter; expected say 'audio_modules'")
    return Model(model.spec, modules), kept, left


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write; must not exist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--audio-attention", choices=["joint", "cross"], default="joint")
    parser.add_argument("--keep", help="a model or a run whose parameters are taken where they fit")
    parser.add_argument("--fresh", default="", help="a pattern of paths that are not taken")
    args = parser.parse_args(arguments)
    if args.fresh and not args.keep:
        raise UserError("--fresh says what --keep leaves; expected --keep MODEL beside it")
    model = make(args.seed, args.audio_attention)
    if args.keep:
        model, kept, left = keep(model, args.keep, args.fresh)
        print(f"{kept / 1e6:.2f} M parameters of {args.keep}, {left / 1e6:.2f} M as initialised")
    write_model(args.folder, model)
    leaves = [leaf for m in model.modules.values() for leaf in jax.tree.leaves(nnx.state(m))]
    print(f"{args.folder}: {sum(leaf.size for leaf in leaves) / 1e6:.2f} M parameters")


if __name__ == "__main__":
    run("make_tiny.py", main)
