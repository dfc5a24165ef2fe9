"""How many operations a generated frame takes: what a device's use of its peak is told by."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from memo_jax.aot import count
from memo_jax.config import SamplerConfig
from memo_jax.diffusion import rollout
from memo_jax.diffusion.schedule import kinds
from memo_jax.models.attention import use_kernel
from memo_jax.weights.build import unflatten
from memo_jax.weights.components import COMPONENTS
from memo_jax.weights.spec import REQUIRED


def per_frame(configs: Mapping[str, Any], sampler: SamplerConfig) -> float:
    """Operations of matrix products and convolutions (2 for a multiplication with addition) of one
    clip that is not the first, divided by its frames; nothing is computed.

    Loops count as often as they run, and where a sampler's steps differ each counts as what it is.
    `benchmarks/operations.py` lets XLA count the full size: it adds what is elementwise, and
    leaves out products with the zeros around a picture, which is more: 69.1 TFLOP where this finds
    69.9.

    Args:
      configs: of the components that make frames, by name.
    """
    graphs, params = {}, {}
    for name in REQUIRED:
        graphs[name], shapes = COMPONENTS[name].abstract(configs[name])
        params[name] = unflatten({path: _like(leaf.shape) for path, leaf in shapes.items()})

    def generator(params: Any) -> rollout.Generator:
        return rollout.Generator(**{name: nnx.merge(graphs[name], params[name]) for name in graphs})

    side, frames = sampler.image_size, sampler.clip_frames
    image, face = _like((1, side, side, 3)), _like((1, configs["image_proj"].embedding_dim))
    audio = configs["audio_proj"]
    window = 1, frames, audio.window, audio.layers, audio.channels
    inputs = jax.eval_shape(lambda: rollout.ClipInputs(jnp.zeros(window), jnp.zeros(1, jnp.int32)))

    def clip(params: Any, portrait: Any, carry: Any, inputs: Any) -> Any:
        return rollout.clip(generator(params), sampler, portrait, jax.random.key(0), carry, inputs)

    with use_kernel("xla"):
        portrait = jax.eval_shape(
            lambda p, *args: rollout.prepare_portrait(generator(p), sampler, *args),
            *(params, image, face),
        )
        carry = jax.eval_shape(
            lambda p, *args: rollout.first_carry(generator(p), sampler, *args),
            *(params, portrait, image),
        )
        carry = carry.replace(past=_like((1, sampler.past_frames, *carry.past.shape[2:])))
        jaxpr = jax.make_jaxpr(clip)(params, portrait, carry, inputs)
    return (count.flops(jaxpr.jaxpr) - _not_run(jaxpr.jaxpr, sampler)) / frames


def _not_run(jaxpr: Any, sampler: SamplerConfig) -> float:
    """What counting takes too much where steps differ: it takes every step for the dearest."""
    steps = kinds(sampler)
    different = sorted(set(steps))
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name != "scan" or eqn.params["length"] != len(steps):
            continue
        for choice in eqn.params["jaxpr"].jaxpr.eqns:
            if choice.primitive.name == "cond" and len(different) > 1:
                each = [count.flops(branch.jaxpr) for branch in choice.params["branches"]]
                total += sum(max(each) - each[different.index(kind)] for kind in steps)
    return total


def _like(shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
