"""Floating-point operations of one generated frame at full size, counted by XLA.

    python benchmarks/operations.py --json FILE

Nothing is computed and no weights are needed: the networks of the published sizes are lowered for
512 x 512, 16 frames, 16 past frames, 20 steps with guidance, and XLA counts. It counts a loop's
body once, so loops are taken apart here: the steps, slices of the autoencoder, blocks of attention.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from memo_jax import config
from memo_jax.command import Parser, run
from memo_jax.config import SamplerConfig
from memo_jax.diffusion import rollout
from memo_jax.models import attention
from memo_jax.weights.build import unflatten
from memo_jax.weights.components import COMPONENTS

CONFIGS = {
    "vae": config.VAEConfig(),
    "reference_net": config.ReferenceNetConfig(),
    "diffusion_net": config.DiffusionNetConfig(),
    "image_proj": config.ImageProjectionConfig(),
    "audio_proj": config.AudioProjectionConfig(),
}


@dataclass(frozen=True)
class Operations:
    """Of one frame, in TFLOP.

    Attributes:
      condition: the Reference Net over portrait and past, and all that no step changes.
      encode: the past frames' latents.
      step: one step of the sampler, both branches of guidance.
      steps: how many.
      decode: latents to pixels.
    """

    condition: float
    encode: float
    step: float
    steps: int
    decode: float

    @property
    def frame(self) -> float:
        """All of it."""
        return self.condition + self.encode + self.steps * self.step + self.decode


def count(sampler: SamplerConfig) -> Operations:
    """The operations of a clip, divided by its frames."""
    blocks = attention._BLOCK_BYTES
    attention._BLOCK_BYTES = 2**62  # attention in one block
    try:
        with attention.use_kernel("xla"):
            return _count_all(sampler)
    finally:
        attention._BLOCK_BYTES = blocks


def _count_all(sampler: SamplerConfig) -> Operations:
    graphs, params = {}, {}
    for name, shape in CONFIGS.items():
        graphs[name], shapes = COMPONENTS[name].abstract(shape, jnp.bfloat16)
        params[name] = unflatten({k: _like(v.shape, jnp.bfloat16) for k, v in shapes.items()})

    def generator(params: Any) -> rollout.Generator:
        return rollout.Generator(**{n: nnx.merge(graphs[n], params[n]) for n in graphs})

    side, frames = sampler.image_size, sampler.clip_frames
    image, face = _like((1, side, side, 3)), _like((1, CONFIGS["image_proj"].embedding_dim))
    portrait = jax.eval_shape(
        lambda p, *args: rollout.prepare_portrait(generator(p), sampler, *args),
        *(params, image, face),
    )
    carry = jax.eval_shape(
        lambda p, *args: rollout.first_carry(generator(p), sampler, *args),
        *(params, portrait, image),
    )
    past = _like((1, sampler.past_frames, side, side, 3))

    def condition(params: Any, portrait: Any, past: Any, memory: Any) -> Any:
        return rollout.condition(generator(params), portrait, past, memory)

    conditions = jax.eval_shape(condition, params, portrait, past, carry.memory)
    audio = CONFIGS["audio_proj"]
    heard = _like((1, frames, audio.window, audio.layers, audio.channels))
    noise = _like((1, frames, *portrait.latents.shape[1:]))

    def denoise(params: Any, conditions: Any, heard: Any, noise: Any) -> Any:
        felt = jnp.zeros(1, jnp.int32)
        return rollout.denoise(generator(params), sampler, conditions, heard, felt, noise)

    def encode(params: Any, past: Any) -> Any:
        return generator(params).vae.encode(past[0])[0]

    def decode(params: Any, latents: Any) -> Any:
        return generator(params).vae.decode(latents[0])

    sliced = _count(condition, params, portrait, past, carry.memory)
    encoded = _count(encode, params, past)
    return Operations(
        # Its own encoding is a loop over slices of two frames, of which XLA counted one.
        condition=(sliced - encoded * 2 / sampler.past_frames) / frames,
        encode=encoded / frames,
        step=_count(denoise, params, conditions, heard, noise) / frames,
        steps=sampler.steps,
        decode=_count(decode, params, noise) / frames,
    )


def _like(shape: Sequence[int], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), dtype)


def _count(function: Callable, *args: Any) -> float:
    """TFLOP of a call."""
    return jax.jit(function).lower(*args).cost_analysis()["flops"] / 1e12


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    p = Parser(prog="benchmarks/operations.py", description="Operations of a full-size frame.")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--json", help="also write the figures here")
    return p


def main(arguments: Sequence[str]) -> None:
    """The script."""
    args = parser().parse_args(arguments)
    found = count(SamplerConfig(steps=args.steps))
    lines = {
        "condition": found.condition,
        "encode the past": found.encode,
        f"{found.steps} steps": found.steps * found.step,
        "decode": found.decode,
        "a frame": found.frame,
    }
    for name, value in lines.items():
        print(f"{name:16} {value:7.2f} TFLOP")
    if args.json:
        Path(args.json).write_text(json.dumps(lines, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    run("benchmarks/operations.py", main)
