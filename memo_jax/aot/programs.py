"""The programs that are planned: a training step, and a chunk of generation; shapes for values."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.sharding import Mesh

from memo_jax.aot import count
from memo_jax.config import SamplerConfig, StableDiffusionConfig, VAEConfig
from memo_jax.data.windows import AUDIO_WINDOW
from memo_jax.diffusion import rollout as clips
from memo_jax.diffusion.guidance import guided
from memo_jax.diffusion.presets import EXACT, with_preset
from memo_jax.models.attention import use_kernel
from memo_jax.models.exchange import ONE, Split
from memo_jax.models.platform import on_platform
from memo_jax.pipeline.spread import Programs, check
from memo_jax.sharding import make_mesh, whole
from memo_jax.train.config import TrainConfig
from memo_jax.train.trainers import trainer_of
from memo_jax.weights import build
from memo_jax.weights.components import component
from memo_jax.weights.sources import model_folder
from memo_jax.weights.spec import REQUIRED, ModelSpec, Part, read_spec
from memo_jax.weights.starting import new_configs

FULL = "full"


@dataclass
class Planned:
    """A program to compile.

    Attributes:
      traced: it, as JAX has traced it.
      mesh: what it runs on.
      given: {what: bytes of one device}: all that it is given.
      donated: how many leaves, the first, it may overwrite.
      clips: that one run of it takes or makes, over all devices.
      positions: of a frame's latents.
      model_flops: of one device, without what is computed again and without padding.
    """

    traced: Any
    mesh: Mesh
    given: dict[str, float]
    leaves: list[Any]
    donated: int
    clips: int
    positions: int
    model_flops: float

    @property
    def jaxpr(self) -> Any:
        """The program's equations."""
        return self.traced.jaxpr.jaxpr

    def size(self) -> Callable[[Any], float]:
        """Bytes of one device's part of a value of the outermost program."""
        parts = {v: own_bytes(leaf) for v, leaf in zip(self.jaxpr.invars, self.leaves, strict=True)}
        for eqn in self.jaxpr.eqns:
            if eqn.primitive.name == "shard_map":
                (inner,) = count.inside(eqn)
                own = [count.nbytes(v.aval) for v in inner.outvars]
                parts |= dict(zip(eqn.outvars, own, strict=True))
                continue
            # Results of one shape with an operand are elementwise, and lie as it does.
            shares = {
                v.aval.shape: parts[v] / count.nbytes(v.aval)
                for v in eqn.invars
                if not hasattr(v, "val") and v in parts and v.aval.size
            }
            for v in eqn.outvars:
                parts[v] = count.nbytes(v.aval) * shares.get(v.aval.shape, 1.0)
        return lambda v: parts[v] if v in parts else count.nbytes(v.aval)

    def donated_values(self) -> list[Any]:
        """The values that the program may overwrite."""
        return self.jaxpr.invars[: self.donated]


def model_spec(model: str) -> ModelSpec:
    """The model of that name or folder, or of the released size, for which no weights are needed.

    Raises:
      UserError: there is none.
    """
    if model != FULL:
        return read_spec(model_folder(model))
    configs = {**new_configs(StableDiffusionConfig(), None, None), "vae": VAEConfig()}
    return ModelSpec(FULL, SamplerConfig(), {name: Part(c) for name, c in configs.items()})


def training(spec: ModelSpec, config: TrainConfig, devices: Any, past_frames: int) -> Planned:
    """The training step of a config on these devices.

    Raises:
      UserError: config, model and devices do not go together.
    """
    mesh = make_mesh(config.data_axis, config.fsdp_axis, devices)
    trainer = trainer_of(config, spec, mesh)
    state, frozen = trainer.abstract()
    batch = trainer.abstract_batch(past_frames)
    plain = trainer_of(dataclasses.replace(config, remat="none"), spec, mesh)
    with use_kernel("xla"):
        model_flops = own_flops(plain.step(past_frames).trace(state, frozen, batch), mesh)
    return Planned(
        traced=trainer.step(past_frames).trace(state, frozen, batch),
        mesh=mesh,
        given={
            "parameters": _bytes((state.trained, frozen)),
            "optimizer": _bytes(state.opt_state),
            "average": _bytes(state.ema),
            "batch": _bytes((batch, state.step)),
        },
        leaves=jax.tree.leaves((state, frozen, batch)),
        donated=len(jax.tree.leaves(state)),
        clips=config.batch_size,
        positions=_positions(spec),
        model_flops=model_flops,
    )


def generation(
    spec: ModelSpec,
    devices: Any,
    *,
    chunk: int = 1,
    dtype: str = "bfloat16",
    split: Split = ONE,
    low: bool = False,
    preset: str = EXACT,
) -> Planned:
    """A chunk of a video on one device, or on those of a split, as the pipeline generates it:
    matrices in `dtype`; `low` is its `--memory`.

    Raises:
      UserError: the model's clips cannot be split so, or there are too few devices.
    """
    sampler = with_preset(spec.sampler, preset)
    if low:
        sampler = dataclasses.replace(sampler, device_memory="low")
    check(split, {name: part.config for name, part in spec.parts.items()}, sampler)
    programs = Programs(split, 1 + guided(sampler.guidance), devices)
    mesh = programs.mesh or make_mesh(1, 1, [devices[0]])
    place = whole(mesh)
    graphs, params = {}, {}
    for name in REQUIRED:
        part = component(name)
        graphs[name], leaves = part.abstract(spec.parts[name].config, jnp.dtype(dtype))
        params[name] = {
            path: jax.ShapeDtypeStruct(leaf.shape, dtype if leaf.ndim > 1 else jnp.float32)
            for path, leaf in leaves.items()
        }

    def generator(values: dict[str, dict[str, Any]]) -> clips.Generator:
        nets = {n: nnx.merge(graphs[n], build.unflatten(values[n])) for n in REQUIRED}
        return clips.Generator(**nets)

    size, vae = sampler.image_size, spec.parts["vae"].config
    image = jax.ShapeDtypeStruct((1, size, size, vae.in_channels), jnp.float32)
    face = jax.ShapeDtypeStruct((1, spec.parts["image_proj"].config.embedding_dim), jnp.float32)
    heard = spec.parts["audio_proj"].config
    audio = (chunk, 1, sampler.clip_frames, AUDIO_WINDOW, heard.layers, heard.channels)

    def start(values: Any, image: Any, face: Any) -> Any:
        net = generator(values)
        portrait = clips.prepare_portrait(net, sampler, image, face)
        return portrait, clips.first_carry(net, sampler, portrait, image)

    where = mesh.devices.flat[0].platform
    with on_platform(where):
        portrait, carry = jax.eval_shape(start, params, image, face)
    inputs = jax.eval_shape(
        lambda: clips.ClipInputs(jnp.zeros(audio), jnp.zeros((chunk, 1), jnp.int32))
    )

    def run(carry: Any, values: Any, portrait: Any, key: Any, inputs: Any) -> Any:
        carry, frames = clips.rollout(generator(values), sampler, portrait, key, carry, inputs)
        pixels = jnp.clip(frames * 255, 0, 255).astype(jnp.uint8)
        return carry, rearrange(pixels, "clips 1 f h w c -> (clips f) h w c")

    key = jax.eval_shape(jax.random.key, 0)
    args = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        (carry, params, portrait, key, inputs),
    )
    if programs.mesh is not None:
        args = (programs.abstract(carry), *args[1:])
    with use_kernel("xla"), on_platform(where):
        model_flops = own_flops(programs.chunk(run, carried=0).trace(*args), mesh)
    with on_platform(where):
        again = programs.chunk(lambda *given: run(*given), carried=0)  # JAX keeps the other trace
        traced = again.trace(*args)
    return Planned(
        traced=traced,
        mesh=mesh,
        given={
            "parameters": _bytes(args[1]),
            "memory and past frames": _bytes(args[0]),
            "inputs": _bytes(args[2:]),
        },
        leaves=jax.tree.leaves(args),
        donated=len(jax.tree.leaves(carry)),
        clips=chunk,
        positions=_positions(spec),
        model_flops=model_flops,
    )


def _positions(spec: ModelSpec) -> int:
    return int((spec.sampler.image_size // spec.parts["vae"].config.factor) ** 2)


def own_flops(traced: Any, mesh: Mesh) -> float:
    """Operations of one device. Within a `shard_map` programs are one device's already; outside of
    one they are all devices'."""
    jaxpr = traced.jaxpr.jaxpr
    if any(eqn.primitive.name == "shard_map" for eqn in jaxpr.eqns):
        return count.flops(jaxpr)
    return count.flops(jaxpr) / mesh.size


def own_bytes(leaf: Any) -> float:
    """Bytes of one device's part of an argument."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    return count.nbytes(jax.ShapeDtypeStruct(shape, leaf.dtype))


def _bytes(tree: Any) -> float:
    return sum(own_bytes(leaf) for leaf in jax.tree.leaves(tree))
