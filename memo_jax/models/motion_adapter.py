"""Motion modules alone, to be merged into a Diffusion Net."""

import jax.numpy as jnp
from flax import nnx

from memo_jax.config import MotionAdapterConfig
from memo_jax.models.motion import MotionModule
from memo_jax.models.types import Dtype, Rngs


class MotionAdapter(nnx.Module):
    """The motion modules of every level, below the attribute paths that they have in a Diffusion
    Net: its parameters take the place of those there, path for path. It runs nothing itself."""

    def __init__(self, config: MotionAdapterConfig, *, dtype: Dtype = jnp.float32, rngs: Rngs):
        self.config = config
        widths, count = config.block_out_channels, config.layers_per_block
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.down_blocks = nnx.List([MotionLevel(c, count, config, **kwargs) for c in widths])
        if config.mid:
            self.mid_block = MotionLevel(widths[-1], 1, config, **kwargs)
        # As in every UNet, the expanding side has one layer more.
        self.up_blocks = nnx.List(
            [MotionLevel(c, count + 1, config, **kwargs) for c in reversed(widths)]
        )


class MotionLevel(nnx.Module):
    """The motion modules of one level (manifest: `*.motion_modules`)."""

    def __init__(
        self, width: int, count: int, config: MotionAdapterConfig, *, dtype: Dtype, rngs: Rngs
    ):
        self.motion_modules = nnx.List(
            [MotionModule(width, config.motion, dtype=dtype, rngs=rngs) for _ in range(count)]
        )
