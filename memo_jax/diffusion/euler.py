"""Euler steps of the probability flow, as one scan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from memo_jax.diffusion.flow import TRAIN_LEVELS

Velocity = Callable[[Float[Array, "b f h w c"], Float[Array, " b"]], Float[Array, "b f h w c"]]


def euler(
    velocity: Velocity, noise: Float[Array, "b f h w c"], sigmas: Float[np.ndarray, " levels"]
) -> Float[Array, "b f h w c"]:
    """Latents from noise: x <- x + (sigma_next - sigma) velocity(x, 1000 sigma), in float32."""

    def step(x: Array, levels: tuple[Array, Array]) -> tuple[Array, None]:
        sigma, after = levels
        timesteps = jnp.broadcast_to(TRAIN_LEVELS * sigma, (x.shape[0],))
        return x + (after - sigma) * velocity(x, timesteps), None

    levels = (jnp.asarray(sigmas[:-1]), jnp.asarray(sigmas[1:]))
    latents, _ = jax.lax.scan(step, noise.astype(jnp.float32), levels)
    return latents
