"""The Reference Net: what a portrait and past frames look like from inside a UNet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx, struct
from jaxtyping import Array, Float

from memo_jax.config import ReferenceNetConfig
from memo_jax.models.layers import TimestepEmbedding, conv, timestep_code
from memo_jax.models.remat import Remat, around_layer, around_module
from memo_jax.models.resnet import Downsample, ResnetBlock, Upsample
from memo_jax.models.spatial import SpatialTransformer
from memo_jax.models.types import Dtype, Rngs
from memo_jax.models.unet import MID_FEATURE, LevelPlan, down_levels, up_levels


@struct.dataclass
class ReferenceFeatures:
    """Features of the portrait (index 0) and the past frames (1..p), layer by layer.

    `entries` maps a layer's name (`down.0.0.tokens`, `down.3.0.map`, ...) to [b, 1+p, s, c], the
    positions row by row. `map_sizes` gives height and width of those named `.map`.
    """

    entries: dict[str, Float[Array, "b images s c"]]
    map_sizes: tuple[tuple[str, tuple[int, int]], ...] = struct.field(pytree_node=False, default=())

    def portrait(self, name: str) -> Float[Array, "b s c"]:
        """The portrait's features of one layer."""
        return self.entries[name][:, 0]

    def past(self, name: str) -> Float[Array, "b p s c"]:
        """The past frames' features of one layer, oldest first."""
        return self.entries[name][:, 1:]

    def named(self) -> dict[str, np.ndarray]:
        """Features under PyTorch's names, axes and row order: tokens [b*(1+p), s, c], maps
        [b*(1+p), c, h, w]."""
        sizes = dict(self.map_sizes)
        out = {}
        for name, entry in self.entries.items():
            rows = rearrange(np.asarray(entry), "b n s c -> (b n) s c")
            if name in sizes:
                rows = rearrange(rows, "n (h w) c -> n c h w", h=sizes[name][0])
            out[name] = rows
        return out

    @classmethod
    def from_named(cls, features: Mapping[str, np.ndarray], batch: int = 1) -> Self:
        """The inverse of `named`. `batch` is how many samples the rows belong to."""
        entries, sizes = {}, []
        for name, rows in features.items():
            tokens = jnp.asarray(rows)
            if name.endswith(".map"):
                sizes.append((name, (rows.shape[2], rows.shape[3])))
                tokens = rearrange(tokens, "n c h w -> n (h w) c")
            entries[name] = rearrange(tokens, "(b n) s c -> b n s c", b=batch)
        return cls(entries, tuple(sizes))


class ReferenceNet(nnx.Module):
    """A UNet that gives no image (METHOD: run once per clip at timestep 0)."""

    def __init__(self, config: ReferenceNetConfig, *, dtype: Dtype = jnp.float32, rngs: Rngs):
        self.config = config
        widths = config.block_out_channels
        time_dim = 4 * widths[0]
        self.conv_in = conv(config.in_channels, widths[0], 3, dtype=dtype, rngs=rngs)
        self.time_embedding = TimestepEmbedding(widths[0], time_dim, dtype=dtype, rngs=rngs)
        kwargs = {"time_dim": time_dim, "dtype": dtype, "rngs": rngs}
        self.down_blocks = nnx.List([Level(plan, config, **kwargs) for plan in down_levels(config)])
        self.mid_block = Middle(config, **kwargs)
        self.up_blocks = nnx.List([Level(plan, config, **kwargs) for plan in up_levels(config)])

    def __call__(
        self,
        latents: Float[Array, "b images h w c"],
        face_tokens: Float[Array, "b t c_face"] | Float[Array, "b images t c_face"],
        remat: Remat = "none",
    ) -> ReferenceFeatures:
        """Features of [portrait, past frames...] latents (times the VAE's scaling factor).

        `face_tokens` are each sample's, or each image's as `each_image` gives them: with those,
        the portraits alone or the past frames alone come out as they do together. `remat` says
        what a backward pass computes again.
        """
        config, (b, images) = self.config, latents.shape[:2]
        if face_tokens.ndim == 3:
            face_tokens = self.each_image(face_tokens, images)
        faces = rearrange(face_tokens, "b n t c -> (b n) t c")
        x = self.conv_in(rearrange(latents, "b n h w c -> (b n) 1 h w c"))
        code = timestep_code(
            jnp.zeros((1,)),
            config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )
        time = jnp.repeat(self.time_embedding(code), b * images, axis=0)
        given = _Given(time, faces, remat)

        collected: dict[str, Array] = {}
        skips = [x]
        for plan, level in zip(down_levels(config), self.down_blocks, strict=True):
            x = level.down(plan, x, given, skips, collected)
        x = self.mid_block(x, given, collected)
        for plan, level in zip(up_levels(config), self.up_blocks, strict=True):
            x = level.up(plan, x, given, skips, collected)

        entries, sizes = {}, []
        for name, entry in collected.items():
            if name.endswith(".map"):
                sizes.append((name, (entry.shape[2], entry.shape[3])))
                entry = rearrange(entry, "n 1 h w c -> n 1 (h w) c")
            entries[name] = rearrange(entry, "(b n) 1 s c -> b n s c", b=b)
        return ReferenceFeatures(entries, tuple(sizes))

    def each_image(
        self, face_tokens: Float[Array, "b t c_face"], images: int
    ) -> Float[Array, "b {images} t c_face"]:
        """The face tokens that each image of each sample attends to."""
        b = len(face_tokens)
        rows = np.arange(b * images).reshape(b, images)
        return face_tokens[rows % b if self.config.face_rows == "mixed" else rows // images]


@dataclass(frozen=True)
class _Given:
    """What every layer is given: the timestep, each row's face tokens, what to compute again."""

    time: Array
    faces: Array
    remat: Remat


class Level(nnx.Module):
    """One resolution (manifest: `down_blocks.*`, `up_blocks.*`)."""

    def __init__(
        self,
        plan: LevelPlan,
        config: ReferenceNetConfig,
        *,
        time_dim: int,
        dtype: Dtype,
        rngs: Rngs,
    ):
        self.resnets = nnx.List(
            [
                ResnetBlock(
                    layer.c_in,
                    layer.c_out,
                    groups=config.norm_num_groups,
                    eps=config.norm_eps,
                    time_dim=time_dim,
                    dtype=dtype,
                    rngs=rngs,
                )
                for layer in plan.layers
            ]
        )
        if plan.attention:
            self.attentions = nnx.List(
                [
                    SpatialTransformer(
                        layer.c_out,
                        config.cross_attention_dim,
                        config.num_heads,
                        config.norm_num_groups,
                        final=plan.last and j + 1 == len(plan.layers),
                        dtype=dtype,
                        rngs=rngs,
                    )
                    for j, layer in enumerate(plan.layers)
                ]
            )
        width = plan.layers[-1].c_out
        if plan.resample and plan.side == "down":
            self.downsamplers = nnx.List([Downsample(width, dtype=dtype, rngs=rngs)])
        if plan.resample and plan.side == "up":
            self.upsamplers = nnx.List([Upsample(width, dtype=dtype, rngs=rngs)])

    def down(
        self,
        plan: LevelPlan,
        x: Array,
        given: "_Given",
        skips: list[Array],
        collected: dict[str, Array],
    ) -> Array:
        for j in range(len(plan.layers)):
            x = self._layer(plan, j, x, given, collected)
            skips.append(x)
        if plan.resample:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x

    def up(
        self,
        plan: LevelPlan,
        x: Array,
        given: "_Given",
        skips: list[Array],
        collected: dict[str, Array],
    ) -> Array:
        for j in range(len(plan.layers)):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = self._layer(plan, j, x, given, collected)
        if plan.resample:
            # Latents whose sides do not halve evenly come back to the skip's size.
            x = self.upsamplers[0](x, like=skips[-1])
        return x

    def _layer(
        self,
        plan: LevelPlan,
        j: int,
        x: Array,
        given: "_Given",
        collected: dict[str, Array],
    ) -> Array:
        final = plan.last and j + 1 == len(plan.layers)

        def run(x: Array) -> tuple[Array, Array]:
            x = around_module(self.resnets[j], given.remat)(x, given.time)
            if not plan.attention:
                return x, x
            if final:
                return x, self.attentions[j].tokens_only(x)
            return _attended(self.attentions[j], x, given)

        x, collected[plan.feature(j)] = around_layer(run, given.remat)(x)
        return x


class Middle(nnx.Module):
    """The lowest resolution (manifest: `mid_block`)."""

    def __init__(self, config: ReferenceNetConfig, *, time_dim: int, dtype: Dtype, rngs: Rngs):
        width = config.block_out_channels[-1]
        self.attentions = nnx.List(
            [
                SpatialTransformer(
                    width,
                    config.cross_attention_dim,
                    config.num_heads,
                    config.norm_num_groups,
                    dtype=dtype,
                    rngs=rngs,
                )
            ]
        )
        self.resnets = nnx.List(
            [
                ResnetBlock(
                    width,
                    width,
                    groups=config.norm_num_groups,
                    eps=config.norm_eps,
                    time_dim=time_dim,
                    dtype=dtype,
                    rngs=rngs,
                )
                for _ in range(2)
            ]
        )

    def __call__(self, x: Array, given: _Given, collected: dict[str, Array]) -> Array:
        def run(x: Array) -> tuple[Array, Array]:
            x = around_module(self.resnets[0], given.remat)(x, given.time)
            x, tokens = _attended(self.attentions[0], x, given)
            return around_module(self.resnets[1], given.remat)(x, given.time), tokens

        x, collected[MID_FEATURE] = around_layer(run, given.remat)(x)
        return x


def _attended(attention: SpatialTransformer, x: Array, given: _Given) -> tuple[Array, Array]:
    def run(x: Array) -> tuple[Array, Array]:
        return attention(x, attention.cache(given.faces))

    return around_module(run, given.remat)(x)
