"""Networks whose weights are drawn: speed does not depend on what they hold."""

import functools
import math
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from memo_jax import config as configs
from memo_jax.audio.config import Wav2Vec2Config
from memo_jax.config import SamplerConfig
from memo_jax.weights.components import COMPONENTS, assemble
from memo_jax.weights.folder import Model
from memo_jax.weights.spec import ModelSpec, Part

# The published sizes.
FULL = {
    "vae": configs.VAEConfig(),
    "reference_net": configs.ReferenceNetConfig(),
    "diffusion_net": configs.DiffusionNetConfig(),
    "image_proj": configs.ImageProjectionConfig(),
    "audio_proj": configs.AudioProjectionConfig(),
    "wav2vec2": Wav2Vec2Config(),
}
SAMPLER = SamplerConfig()


def random_model(
    parts: dict[str, Any] | None = None,
    sampler: SamplerConfig | None = None,
    *,
    dtype: Any = jnp.bfloat16,
    tell: Callable[[str], None] = lambda line: None,
) -> Model:
    """A model of these configs (the published sizes unless given) on the default device.

    Matrices are held in `dtype`, the rest in float32, as in generation. No file is read.
    """
    parts = FULL if parts is None else parts
    modules = {}
    for name, config in parts.items():
        tell(f"drawing {name}")
        modules[name] = random_module(name, config, dtype)
    spec = ModelSpec(
        name="random",
        sampler=sampler or SAMPLER,
        parts={name: Part(config, "drawn") for name, config in parts.items()},
    )
    return Model(spec, modules)


def random_module(name: str, config: Any, dtype: Any = jnp.float32) -> nnx.Module:
    """A component with every parameter drawn from its path, at the scale training starts from;
    also those that training starts from at zero, so that nothing is hidden."""
    graphdef, shapes = COMPONENTS[name].abstract(config, dtype)
    values = {}
    for path, leaf in shapes.items():
        key = jax.random.key(zlib.crc32(f"{name}/{path}".encode()))
        values[path] = _draw(key, leaf.shape, dtype if len(leaf.shape) > 1 else jnp.float32)
        if path.endswith("/scale"):
            values[path] = 1 + values[path]
    return assemble(graphdef, values)


def parameters(model: Model) -> int:
    """How many numbers a model has."""
    leaves = (leaf for module in model.modules.values() for leaf in jax.tree.leaves(module))
    return sum(leaf.size for leaf in leaves)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    scale = 0.1 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[:-1]))
    return (scale * jax.random.normal(key, shape, dtype)).astype(dtype)
