"""Euler steps of the probability flow, as one scan."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from memo_jax.diffusion.flow import TRAIN_LEVELS

Velocity = Callable[[Float[Array, "b f h w c"], Float[Array, " b"]], Float[Array, "b f h w c"]]

# (latents, timesteps, state) -> (velocity, state); the state is any pytree that keeps its shapes.
Keeping = Callable[[Array, Array, Any], tuple[Array, Any]]


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


def euler_of_kinds(
    velocities: Sequence[Keeping],
    kinds: Int[np.ndarray, " steps"],
    noise: Float[Array, "b f h w c"],
    state: Any,
    sigmas: Float[np.ndarray, " levels"],
) -> Float[Array, "b f h w c"]:
    """`euler` whose step i takes the velocity number `kinds[i]`, and no other is evaluated; from
    step to step a state is handed on, which starts as `state`."""

    def step(carry: tuple[Array, Any], levels: tuple[Array, ...]) -> tuple[tuple[Array, Any], None]:
        (x, state), (sigma, after, kind) = carry, levels
        timesteps = jnp.broadcast_to(TRAIN_LEVELS * sigma, (x.shape[0],))
        v, state = jax.lax.switch(kind, velocities, x, timesteps, state)
        return (x + (after - sigma) * v, state), None

    levels = (jnp.asarray(sigmas[:-1]), jnp.asarray(sigmas[1:]), jnp.asarray(kinds))
    (latents, _), _ = jax.lax.scan(step, (noise.astype(jnp.float32), state), levels)
    return latents
