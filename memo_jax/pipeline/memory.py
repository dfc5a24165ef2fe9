"""How much device memory generating takes, told before anything is compiled.

What is held is counted from shapes: parameters, the memory of the past, what a clip computes once.
What exists only while a network runs is estimated by its largest values; docs/performance.md has
what compiled programs say to that.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from memo_jax.config import DiffusionNetConfig, SamplerConfig, UNetConfig
from memo_jax.diffusion.guidance import guided
from memo_jax.diffusion.rollout import pictures_at_once
from memo_jax.errors import UserError
from memo_jax.models.exchange import ONE, Split
from memo_jax.models.pieces import PIECE_BYTES
from memo_jax.models.unet import LevelPlan, down_levels, up_levels
from memo_jax.weights.folder import Model

CHOICES = ("auto", "normal", "low")

# Scores of attention that exist at once, where they are more, one picture's or less (`attend`).
_SCORES = 128 * 2**20
_MEMINFO = Path("/proc/meminfo")
GIB = 2**30


@dataclass(frozen=True)
class Needs:
    """Predicted bytes of one device's memory.

    Attributes:
      parameters: of all networks, as they are held.
      memory: of the past, from clip to clip, and the past frames.
      held: what a clip computes once, and its frames.
      working: the most that exists at once while a network runs.
    """

    parameters: float
    memory: float
    held: float
    working: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.parameters + self.memory + self.held + self.working


def predict(
    configs: Mapping[str, Any],
    sampler: SamplerConfig,
    parameters: float,
    *,
    itemsize: int,
    chunk: int = 1,
    platform: str = "gpu",
    split: Split = ONE,
) -> Needs:
    """What one video takes.

    Args:
      configs: of the components that make frames, by name.
      parameters: bytes of all parameters.
      itemsize: bytes of a number that networks compute with.
      chunk: clips that are generated in one call.
      platform: a "tpu" fills up the last two axes of its arrays, and keeps the memory in rows.
      split: devices that make every clip together, each of which takes this.
    """
    net, vae = configs["diffusion_net"], configs["vae"]
    low = sampler.device_memory == "low"
    all_branches = 1 + guided(sampler.guidance)
    branches = all_branches // split.guidance
    side, frames = sampler.image_size // vae.factor, sampler.clip_frames / split.frames
    kept, in_rows = 2 if low else 4, low or platform == "tpu"
    layers = list(_layers(net, side))
    states = [
        _state(net, layer, branches, kept, platform) / split.frames
        for layer in layers
        if layer.motion
    ]
    pixels = sampler.image_size**2 * vae.in_channels
    past = (
        4.0
        * sampler.past_frames
        * (side**2 * vae.latent_channels if sampler.latent_carry else pixels)
    )
    # Keys and values of the portrait, and a level's deep features.
    held = (
        2.0
        * (all_branches if net.reference_rows == "mixed" else branches)
        * itemsize
        * sum(layer.positions * layer.width for layer in layers if layer.attention)
    )
    if sampler.cache_steps > 1:
        deep = list(up_levels(net))[-1].layers[0].c_in - net.block_out_channels[0]
        held += branches * frames * side**2 * deep * itemsize
    held += chunk * sampler.clip_frames * pixels * 5.0  # float32 and bytes

    seen = branches * (1 + sampler.past_frames / split.frames)
    features = seen * itemsize * sum(layer.positions * layer.width for layer in layers)
    largest = max(states, default=0.0)
    if in_rows:
        # One attention's memory may be copied; beside it there are pieces as they are worked on.
        one = largest / (net.motion.num_blocks * net.motion.attentions_per_block)
        fill = max((_filled(net, layer, platform) for layer in layers if layer.motion), default=1)
        read = 2 * fill * min(PIECE_BYTES, one / branches * (4 / kept))
        making = one + read + _entered(net, layers, seen, itemsize)
    else:  # all of a module is read and made at once
        read = making = largest
    at_once = 1 if low else branches
    working = max(
        features + _unet(configs["reference_net"], side, 1 if low else seen, itemsize),
        features + making,
        read + _unet(net, side, at_once * frames, itemsize),
        _vae(vae, sampler, frames, itemsize),
    )
    return Needs(parameters, sum(states) + past, held, working)


def fitted(
    model: Model, sampler: SamplerConfig, memory: str, chunk: int, split: Split = ONE
) -> tuple[SamplerConfig, list[str]]:
    """The sampler with the device memory that was asked for, and what the user should know.

    Raises:
      UserError: there is no such choice; or it is predicted not to fit, before anything is tried.
    """
    if memory not in CHOICES:
        raise UserError(f"no memory {memory!r}; expected {', '.join(CHOICES)}")
    if memory == "low":
        sampler = dataclasses.replace(sampler, device_memory="low")
    leaves = jax.tree.leaves(list(model.modules.values()))
    device, held = next(iter(leaves[0].devices())), float(sum(leaf.nbytes for leaf in leaves))
    limit = room(device, held)
    if limit is None:
        return sampler, []
    configs = {name: part.config for name, part in model.spec.parts.items()}
    net: Any = model.modules["diffusion_net"]
    kernel = net.conv_in.kernel[...]

    def needed(sampler: SamplerConfig) -> float:
        itemsize = jnp.dtype(kernel.dtype).itemsize
        found = predict(
            configs,
            sampler,
            held,
            itemsize=itemsize,
            chunk=chunk,
            platform=device.platform,
            split=split,
        )
        # Devices of a CPU share what the machine has.
        return found.total * (split.devices if device.platform == "cpu" else 1)

    size = f"{sampler.image_size} x {sampler.image_size}"
    asked = needed(sampler)
    if asked <= limit:
        return sampler, []
    low = dataclasses.replace(sampler, device_memory="low")
    short = (
        f"{size} needs about {asked / GIB:.1f} GiB of device memory (predicted), and "
        f"{limit / GIB:.1f} are there"
    )
    less = needed(low)
    if sampler.device_memory == "low" or less > limit:
        other = "a larger device, or several (--mesh)"
        if kernel.dtype == jnp.float32:
            other = "--dtype bfloat16"
        if device.platform == "gpu":  # JAX leaves a quarter to others
            other = f"XLA_PYTHON_CLIENT_MEM_FRACTION=0.95, or {other}"
        if chunk > 1:
            other = f"--chunk 1 or {other}"
        even = "" if sampler.device_memory == "low" else f"; --memory low {less / GIB:.1f}"
        raise UserError(f"{short}{even}; try {other}")
    if memory == "normal":
        raise UserError(f"{short}; --memory low needs {less / GIB:.1f}")
    return low, [f"{short}: --memory low is taken, which needs {less / GIB:.1f}"]


def room(device: jax.Device, held: float) -> float | None:
    """Bytes that this process may have on a device, those it holds among them; None where it
    cannot be known. A CPU has what the machine has free."""
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    try:
        lines = _MEMINFO.read_text().splitlines()
        (free,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return held + 1024.0 * int(free)
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True)
class _Layer:
    """A layer of a UNet: positions of a picture there, and whether it has these modules."""

    positions: int
    width: int
    c_in: int
    attention: bool
    motion: bool


def _layers(config: UNetConfig, side: int) -> Iterator[_Layer]:
    motion = getattr(config, "motion_resolutions", ())

    def positions(scale: int) -> int:
        return math.ceil(side / scale) ** 2

    def level(plan: LevelPlan) -> Iterator[_Layer]:
        for layer in plan.layers:
            has = plan.attention, plan.scale in motion
            yield _Layer(positions(plan.scale), layer.c_out, layer.c_in, *has)

    for plan in down_levels(config):
        yield from level(plan)
    width, scale = config.block_out_channels[-1], 2 ** (len(config.block_out_channels) - 1)
    middle = isinstance(config, DiffusionNetConfig) and config.mid_motion
    yield _Layer(positions(scale), width, width, True, middle)
    for plan in up_levels(config):
        yield from level(plan)


def _state(
    net: DiffusionNetConfig, layer: _Layer, branches: int, kept: int, platform: str
) -> float:
    """Bytes of one motion module's memory, whose numbers have `kept` bytes."""
    motion = net.motion
    if motion.attention == "softmax":
        return 0.0
    d = layer.width // motion.num_heads // motion.dim_div
    heads = motion.num_heads
    each = heads * (d * d + d)
    if platform == "tpu":  # `MemoryRows`
        each = _up(heads * d * d, 128) + _up(heads * d, 128)
    attentions = motion.num_blocks * motion.attentions_per_block
    return float(attentions * branches * layer.positions * each * kept)


def _filled(net: DiffusionNetConfig, layer: _Layer, platform: str) -> float:
    """How many times its numbers a `LayerMemory` takes, the last two axes being filled up."""
    d = layer.width // net.motion.num_heads // net.motion.dim_div
    return (_up(d, 8) + 8) * _up(d, 128) / (d * d + d) if platform == "tpu" else 1.0


def _entered(
    net: DiffusionNetConfig, layers: list[_Layer], pictures: float, itemsize: int
) -> float:
    """What a motion module works on of the past frames' features: projected, and a norm of them
    in float32."""
    if net.motion.attention == "softmax":
        return 0.0
    largest = max((layer.positions * layer.width for layer in layers if layer.motion), default=0)
    return pictures * largest * (itemsize + 4)


def _up(n: int, tile: int) -> int:
    return -(-n // tile) * tile


def _unet(config: UNetConfig, side: int, pictures: float, itemsize: int) -> float:
    """A UNet over so many pictures: the values that wait for the expanding side, and the layer
    that has most in hand."""
    layers = list(_layers(config, side))
    down = layers[: len(layers) // 2]
    waiting = sum(layer.positions * layer.width for layer in down) * itemsize
    # A feed-forward: its input, both halves of its hidden layer and their product; norms float32.
    most = max(
        layer.positions * max(layer.width * (14 * itemsize + 8), layer.c_in * (2 * itemsize + 4))
        for layer in layers
    )
    # A picture's positions see themselves and the portrait's; scores, and softmax of them.
    scores = max(8.0 * config.num_heads * layer.positions**2 for layer in layers)
    scores = pictures * scores if pictures * scores <= _SCORES else min(_SCORES, scores)
    return pictures * (waiting + most) + 2 * scores


def _vae(config: Any, sampler: SamplerConfig, frames: float, itemsize: int) -> float:
    """Decoding the pictures that are decoded at once, of a device's frames."""
    pictures = min(frames, pictures_at_once(sampler))
    widths = [*config.block_out_channels[:2]]
    return pictures * sampler.image_size**2 * sum(widths) * (3 * itemsize + 4)
