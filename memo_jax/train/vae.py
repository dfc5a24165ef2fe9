"""Training the autoencoder, for a model that is made from nothing.

The loss of a picture x with the posterior N(m, s^2) of its latents and the picture y that is
decoded from a sample of it is

    mean |x - y| + edge_weight * mean |dx - dy| + kl_weight * mean KL(N(m, s^2) | N(0, 1))

with pictures in [-1, 1], d the differences of neighbours, and each mean over its own values. There
is no adversary. Where the last term is weak, latents grow until the noise s hardly matters; their
`scaling_factor` is one over the standard deviation that `memo_jax.train.latents` prints, as Stable
Diffusion's is.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from memo_jax import sharding
from memo_jax.data.windows import WindowConfig
from memo_jax.diffusion import flow
from memo_jax.models.vae import VAE
from memo_jax.train.state import Params
from memo_jax.train.step import Trainer


class VAETrainer(Trainer):
    """Stage "vae": a sample is two pictures of one person, of which nothing else is read."""

    @property
    def window(self) -> WindowConfig:
        """One frame, and the reference."""
        config = self.config
        return WindowConfig(
            frames=1,
            past_frames=0,
            form="images",
            decoupled=config.decoupled,
            same_clip_fallback=config.same_clip_fallback,
        )

    def abstract_batch(self, past_frames: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Pictures alone."""
        b, s = self.config.batch_size, self.image_size
        picture = (s, s, self._parts["vae"].in_channels)
        place = sharding.over_batch(self.mesh)
        return {
            "frames": jax.ShapeDtypeStruct((b, 1, *picture), np.uint8, sharding=place),
            "reference": jax.ShapeDtypeStruct((b, *picture), np.uint8, sharding=place),
        }

    def _part(
        self,
        past_frames: int,
        key: Array,
        trained: Params,
        frozen: Params,
        rows: Int[Array, " m"],
        batch: Mapping[str, Array],
    ) -> Any:
        config = self.config
        pictures = jnp.concatenate([batch["frames"], batch["reference"][:, None]], axis=1)
        images = pictures.astype(jnp.float32) / 127.5 - 1
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)

        def loss(trained: Params) -> tuple[Array, tuple[Array, Array]]:
            vae = self.nets(trained, frozen)["vae"]
            losses = sample_losses(vae, images, keys, config.kl_weight, config.edge_weight)
            _, kept = flow.robust_mean(losses, config.robust_threshold)
            return jnp.sum(jnp.where(kept, losses, 0.0)), (losses, kept)

        return jax.value_and_grad(loss, has_aux=True)(trained)


def sample_losses(
    vae: VAE,
    images: Float[Array, "b n H W 3"],
    keys: Array,
    kl_weight: float,
    edge_weight: float,
) -> Float[Array, " b"]:
    """The loss of each sample of n pictures in [-1, 1]; `keys` are [b], of the latents' noise."""
    b, n = images.shape[:2]
    mean, logvar = vae.encode(images.reshape(b * n, *images.shape[2:]))
    noise = jax.vmap(lambda key: jax.random.normal(key, (n, *mean.shape[1:])))(keys)
    latents = mean + jnp.exp(0.5 * logvar) * noise.reshape(mean.shape)
    off = vae.decode(latents).reshape(images.shape) - images
    kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar)
    edges = _mean(jnp.diff(off, axis=2)) + _mean(jnp.diff(off, axis=3))
    return _mean(off) + edge_weight * edges + kl_weight * jnp.mean(kl.reshape(b, -1), axis=1)


def _mean(values: Float[Array, "b ..."]) -> Float[Array, " b"]:
    return jnp.mean(jnp.abs(values), axis=tuple(range(1, values.ndim)))
