"""The networks that are timed beside PyTorch's: for each, both ways to compute it.

Both have the same weights, through the real tables, and are given the same numbers.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from memo_jax import config as configs
from memo_jax.bench.random_models import random_module
from memo_jax.bench.torch_net import PublishedNet, tensors
from memo_jax.models.attention import attend
from memo_jax.models.diffusion_net import DiffusionNet
from memo_jax.models.reference_net import ReferenceFeatures, ReferenceNet
from memo_jax.models.vae import VAE
from memo_jax.weights import build, to_torch
from memo_jax.weights.torch_configs import torch_config


@dataclass(frozen=True)
class Sizes:
    """What is timed at which size. Sides are of latents.

    Attributes:
      text_tokens: that SD1.5's UNet is given.
      faces, sounds: tokens that the Diffusion Net is given for each face and each frame.
      steps: of a clip, over which what is computed once for a clip is spread.
      heads, head_width: of the attention that is timed alone, over `attention` x `attention`.
    """

    unet: configs.StableDiffusionConfig
    unet_side: int
    text_tokens: int
    vae: configs.VAEConfig
    vae_side: int
    net: configs.DiffusionNetConfig
    net_side: int
    frames: int
    past: int
    faces: int
    sounds: int
    steps: int
    attention: int
    heads: int
    head_width: int


FULL = Sizes(
    unet=configs.StableDiffusionConfig(),
    unet_side=64,
    text_tokens=77,
    vae=configs.VAEConfig(),
    vae_side=64,
    net=configs.DiffusionNetConfig(
        motion=configs.MotionConfig(memory_decay="released", key_activation="frames"),
        reference_rows="mixed",
    ),
    net_side=16,
    frames=16,
    past=16,
    faces=4,
    sounds=32,
    steps=20,
    attention=64,
    heads=8,
    head_width=40,
)
SMALL = dataclasses.replace(FULL, unet_side=32, vae_side=32, net_side=8, attention=32)


@dataclass
class Pair:
    """Two ways to compute one thing.

    Attributes:
      what: and at which shapes.
      ours, theirs: compute it, wait for it, and give it in one layout.
      once: what ours computes once for a clip, of which each step bears its share; theirs computes
        it in every step.
      steps: of a clip.
    """

    what: str
    ours: Callable[[], np.ndarray]
    theirs: Callable[[], np.ndarray]
    once: Callable[[], Any] | None = None
    steps: int = 1


def _unet(sizes: Sizes) -> Pair:
    import torch

    side, config = sizes.unet_side, sizes.unet
    module = random_module("unet", config)
    assert isinstance(module, DiffusionNet)
    theirs = _diffusers("UNet2DConditionModel", "unet", module)
    latents = _normal((1, 1, side, side, config.in_channels), 1)
    text = _normal((1, sizes.text_tokens, config.cross_attention_dim), 2)
    timesteps = np.full(1, 500.0, np.float32)
    run, params = _compiled(module, lambda net, x, t, text: net(x, t, None, text))
    x, words = torch.from_numpy(_first(latents[0])), torch.from_numpy(text)
    return Pair(
        what=f"SD1.5's UNet, latents of {side} x {side}, batch 1, against diffusers'",
        ours=lambda: np.asarray(run(params, latents, timesteps, text))[0],
        theirs=lambda: _last(theirs(x, 500.0, words).sample),
    )


def _vae(sizes: Sizes) -> Pair:
    import torch

    side, config = sizes.vae_side, sizes.vae
    module = random_module("vae", config)
    assert isinstance(module, VAE)
    theirs = _diffusers("AutoencoderKL", "vae", module)
    latents = _normal((1, side, side, config.latent_channels), 1)
    run, params = _compiled(module, lambda vae, z: vae.decode(z))
    z, pixels = torch.from_numpy(_first(latents)), side * config.factor
    return Pair(
        what=f"decoding {pixels} x {pixels} pixels, batch 1, against diffusers' AutoencoderKL",
        ours=lambda: np.asarray(run(params, latents)),
        theirs=lambda: _last(theirs.decode(z).sample),
    )


def _net(sizes: Sizes) -> Pair:
    """Both branches of guidance, one step: the null branch does not see its portrait."""
    import torch

    side, config, b = sizes.net_side, sizes.net, 2
    module = random_module("diffusion_net", config)
    assert isinstance(module, DiffusionNet)
    theirs = PublishedNet(config, to_torch("diffusion_net", module))
    features = _features(config, side, 1 + sizes.past, b)
    latents = _normal((b, sizes.frames, side, side, config.in_channels), 1)
    faces = _normal((b, sizes.faces, config.cross_attention_dim), 2)
    audio = _normal((b, sizes.frames, sizes.sounds, config.audio_attention_dim), 3)
    emotion = np.array([config.null_emotion, 0])
    timesteps, seeing = np.full(b, 500.0, np.float32), np.array([False, True])

    condition, params = _compiled(
        module,
        lambda net, features, faces: (net.cache(features, faces), net.remember(features, None)),
    )
    step, _ = _compiled(
        module,
        lambda net, x, t, cache, audio, emotion, memory: net(
            x, t, cache, None, audio, emotion, memory, seeing
        ),
    )
    cache, memory = condition(params, features, faces)
    given = tensors(
        {"t": timesteps, "faces": faces, "audio": audio, "emotion": emotion, "seeing": seeing}
    )
    x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(latents, -1, 1)))
    named = tensors(features.named())

    def published() -> np.ndarray:
        out, _ = theirs(
            x,
            given["t"],
            named,
            given["faces"],
            given["audio"],
            given["emotion"],
            None,
            given["seeing"],
        )
        return np.moveaxis(out.numpy(), 1, -1)

    return Pair(
        what=f"the Diffusion Net, latents of {side} x {side}, {sizes.frames} frames, both "
        "branches, against the published structure",
        ours=lambda: np.asarray(step(params, latents, timesteps, cache, audio, emotion, memory)),
        theirs=published,
        once=lambda: jax.block_until_ready(condition(params, features, faces)),
        steps=sizes.steps,
    )


def _attention(sizes: Sizes) -> Pair:
    import torch

    n = sizes.attention**2
    q, k, v = (_normal((1, n, sizes.heads, sizes.head_width), seed) for seed in (1, 2, 3))
    run = jax.jit(attend)
    # As networks hold it: heads are beside each other, and transposed for the call.
    theirs: list[Any] = [torch.from_numpy(t).transpose(1, 2) for t in (q, k, v)]
    attention = torch.nn.functional.scaled_dot_product_attention
    return Pair(
        what=f"softmax attention over {n} positions, {sizes.heads} heads of {sizes.head_width}",
        ours=lambda: np.asarray(run(q, k, v)),
        theirs=lambda: attention(*theirs).transpose(1, 2).contiguous().numpy(),
    )


PAIRS = {"unet": _unet, "vae": _vae, "net": _net, "attention": _attention}


def _compiled(module: nnx.Module, function: Callable) -> tuple[Callable, Any]:
    """`function(module, ...)` as a program of the module's parameters, and them."""
    graphdef, state = nnx.split(module)
    params = nnx.to_pure_dict(state)
    return jax.jit(lambda params, *args: function(nnx.merge(graphdef, params), *args)), params


def _diffusers(kind: str, component: str, module: Any) -> Any:
    """diffusers' network of that class with our module's config and weights."""
    import diffusers
    import torch

    with torch.device("meta"):  # no weights are drawn only to be replaced
        network = getattr(diffusers, kind).from_config(torch_config(component, module.config))
    network.load_state_dict(tensors(to_torch(component, module)), assign=True)
    return network.eval()


def _features(
    config: configs.DiffusionNetConfig, side: int, images: int, b: int
) -> ReferenceFeatures:
    """Features as the Reference Net gives them; what they hold does not matter here."""
    shapes = feature_shapes(config, side, images, b)
    entries = {
        name: jnp.asarray(_normal(leaf.shape, seed))
        for seed, (name, leaf) in enumerate(shapes.entries.items())
    }
    return ReferenceFeatures(entries, shapes.map_sizes)


def feature_shapes(
    config: configs.DiffusionNetConfig, side: int, images: int, b: int
) -> ReferenceFeatures:
    """The features of a Reference Net beside this Diffusion Net, as shapes."""
    names = (field.name for field in dataclasses.fields(configs.UNetConfig))
    reference = configs.ReferenceNetConfig(**{name: getattr(config, name) for name in names})

    def run(latents: Any, faces: Any) -> ReferenceFeatures:
        return ReferenceNet(reference, rngs=build.CountingRngs(shapes_only=True))(latents, faces)

    return jax.eval_shape(
        run,
        jax.ShapeDtypeStruct((b, images, side, side, config.in_channels), jnp.float32),
        jax.ShapeDtypeStruct((b, 1, config.cross_attention_dim), jnp.float32),
    )


def _normal(shape: Sequence[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _first(x: np.ndarray) -> np.ndarray:
    """Channels from last to second, as PyTorch has them."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def _last(x: Any) -> np.ndarray:
    return np.moveaxis(x.numpy(), 1, -1)
