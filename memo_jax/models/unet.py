"""The layout of Stable Diffusion 1.5's UNet, which both networks share."""

from collections.abc import Iterator
from dataclasses import dataclass

from memo_jax.config import UNetConfig


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a level: widths into and out of its resnet, and what its audio module takes
    as width (the release passes it the width entering the level, not the layer's own)."""

    c_in: int
    c_out: int
    audio_width: int


@dataclass(frozen=True)
class LevelPlan:
    """One resolution on one side of the UNet. `scale` is latent pixels per feature."""

    side: str
    index: int
    scale: int
    attention: bool
    layers: tuple[LayerPlan, ...]
    resample: bool
    last: bool

    def feature(self, layer: int) -> str:
        """The name of the reference feature of a layer (`down.0.1.tokens`)."""
        return f"{self.side}.{self.index}.{layer}.{'tokens' if self.attention else 'map'}"


MID_FEATURE = "mid.0.0.tokens"


def down_levels(config: UNetConfig) -> Iterator[LevelPlan]:
    """The levels of the contracting side, in the order they run."""
    widths = config.block_out_channels
    for i, width in enumerate(widths):
        before = widths[max(i - 1, 0)]
        entering = [before if j == 0 else width for j in range(config.layers_per_block)]
        yield LevelPlan(
            side="down",
            index=i,
            scale=2**i,
            attention=config.down_attention[i],
            layers=tuple(LayerPlan(c, width, c) for c in entering),
            resample=i + 1 < len(widths),
            last=False,
        )


def up_levels(config: UNetConfig) -> Iterator[LevelPlan]:
    """The levels of the expanding side; each layer's `c_in` counts the skip it concatenates."""
    widths = config.block_out_channels[::-1]
    count = config.layers_per_block + 1
    for i, width in enumerate(widths):
        before, after = widths[max(i - 1, 0)], widths[min(i + 1, len(widths) - 1)]
        layers = []
        for j in range(count):
            hidden = before if j == 0 else width
            skip = after if j == count - 1 else width
            layers.append(LayerPlan(hidden + skip, width, after))
        yield LevelPlan(
            side="up",
            index=i,
            scale=2 ** (len(widths) - 1 - i),
            attention=config.up_attention[i],
            layers=tuple(layers),
            resample=i + 1 < len(widths),
            last=i + 1 == len(widths),
        )
