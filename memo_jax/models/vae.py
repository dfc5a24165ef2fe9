"""Stable Diffusion's autoencoder: pictures to latents and back (manifest: vae_sd_vae_ft_mse)."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from memo_jax.config import VAEConfig
from memo_jax.models.attention import attend
from memo_jax.models.layers import conv, group_norm, linear, normed
from memo_jax.models.resnet import Downsample, ResnetBlock, Upsample
from memo_jax.models.types import Dtype, Rngs

_EPS = 1e-6


class VAE(nnx.Module):
    """AutoencoderKL with `factor` pixels per latent.

    `encode` and `decode` know nothing of the latents' scale; whoever diffuses them multiplies by
    `config.scaling_factor`.
    """

    def __init__(self, config: VAEConfig, *, dtype: Dtype = jnp.float32, rngs: Rngs):
        self.config = config
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs)
        z = config.latent_channels
        self.quant_conv = linear(2 * z, 2 * z, dtype=dtype, rngs=rngs)
        self.post_quant_conv = linear(z, z, dtype=dtype, rngs=rngs)

    def encode(
        self, images: Float[Array, "n H W 3"]
    ) -> tuple[Float[Array, "n h w z"], Float[Array, "n h w z"]]:
        """Mean and log-variance of the latents of images in [-1, 1], float32."""
        moments = self.quant_conv(self.encoder(images)).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latents: Float[Array, "n h w z"]) -> Float[Array, "n H W 3"]:
        """Images, about in [-1, 1], float32."""
        return self.decoder(self.post_quant_conv(latents)).astype(jnp.float32)


class Encoder(nnx.Module):
    """Manifest: `encoder`."""

    def __init__(self, config: VAEConfig, *, dtype: Dtype, rngs: Rngs):
        widths = config.block_out_channels
        self.conv_in = conv(config.in_channels, widths[0], 3, dtype=dtype, rngs=rngs)
        self.down_blocks = nnx.List(
            [
                Level(
                    widths[max(i - 1, 0)],
                    width,
                    config.layers_per_block,
                    config,
                    resample="down" if i + 1 < len(widths) else "",
                    dtype=dtype,
                    rngs=rngs,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.mid_block = Middle(widths[-1], config, dtype=dtype, rngs=rngs)
        self.conv_norm_out = group_norm(widths[-1], config.norm_num_groups, _EPS, rngs=rngs)
        self.conv_out = conv(widths[-1], 2 * config.latent_channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, images: Float[Array, "n H W 3"]) -> Float[Array, "n h w z2"]:
        x = self.conv_in(images)[:, None]
        for level in self.down_blocks:
            x = level(x)
        x = self.mid_block(x)[:, 0]
        return self.conv_out(jax.nn.silu(normed(self.conv_norm_out, x)))


class Decoder(nnx.Module):
    """Manifest: `decoder`."""

    def __init__(self, config: VAEConfig, *, dtype: Dtype, rngs: Rngs):
        widths = config.block_out_channels[::-1]
        self.conv_in = conv(config.latent_channels, widths[0], 3, dtype=dtype, rngs=rngs)
        self.mid_block = Middle(widths[0], config, dtype=dtype, rngs=rngs)
        self.up_blocks = nnx.List(
            [
                Level(
                    widths[max(i - 1, 0)],
                    width,
                    config.layers_per_block + 1,
                    config,
                    resample="up" if i + 1 < len(widths) else "",
                    dtype=dtype,
                    rngs=rngs,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = group_norm(widths[-1], config.norm_num_groups, _EPS, rngs=rngs)
        self.conv_out = conv(widths[-1], config.in_channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, latents: Float[Array, "n h w z"]) -> Float[Array, "n H W 3"]:
        x = self.mid_block(self.conv_in(latents)[:, None])
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(jax.nn.silu(normed(self.conv_norm_out, x[:, 0])))


class Level(nnx.Module):
    """The residual blocks of one resolution and the step to the next."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        layers: int,
        config: VAEConfig,
        *,
        resample: str,
        dtype: Dtype,
        rngs: Rngs,
    ):
        self.resnets = nnx.List(
            [
                ResnetBlock(
                    c_in if j == 0 else c_out,
                    c_out,
                    groups=config.norm_num_groups,
                    eps=_EPS,
                    dtype=dtype,
                    rngs=rngs,
                )
                for j in range(layers)
            ]
        )
        if resample == "down":
            far = ((0, 1), (0, 1))
            self.downsamplers = nnx.List([Downsample(c_out, padding=far, dtype=dtype, rngs=rngs)])
        if resample == "up":
            self.upsamplers = nnx.List([Upsample(c_out, dtype=dtype, rngs=rngs)])

    def __call__(self, x: Float[Array, "n 1 h w c"]) -> Float[Array, "n 1 h2 w2 c2"]:
        for resnet in self.resnets:
            x = resnet(x)
        for resample in [*getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ())]:
            x = resample(x)
        return x


class Middle(nnx.Module):
    """Residual block, attention, residual block (manifest: `mid_block`)."""

    def __init__(self, channels: int, config: VAEConfig, *, dtype: Dtype, rngs: Rngs):
        groups = config.norm_num_groups
        self.resnets = nnx.List(
            [
                ResnetBlock(channels, channels, groups=groups, eps=_EPS, dtype=dtype, rngs=rngs)
                for _ in range(2)
            ]
        )
        self.attentions = nnx.List([SingleHead(channels, groups, dtype=dtype, rngs=rngs)])

    def __call__(self, x: Float[Array, "n 1 h w c"]) -> Float[Array, "n 1 h w c"]:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class SingleHead(nnx.Module):
    """Self-attention over positions with one head as wide as the channels."""

    def __init__(self, channels: int, groups: int, *, dtype: Dtype, rngs: Rngs):
        self.group_norm = group_norm(channels, groups, _EPS, rngs=rngs)
        self.to_q = linear(channels, channels, dtype=dtype, rngs=rngs)
        self.to_k = linear(channels, channels, dtype=dtype, rngs=rngs)
        self.to_v = linear(channels, channels, dtype=dtype, rngs=rngs)
        self.to_out = linear(channels, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "n 1 h w c"]) -> Float[Array, "n 1 h w c"]:
        tokens = rearrange(normed(self.group_norm, x), "n 1 h w c -> n (h w) 1 c")
        out = attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        out = rearrange(self.to_out(out), "n (h w) 1 c -> n 1 h w c", h=x.shape[2])
        return x + out
