"""Rectified flow: z_t = (1 - sigma) z_0 + sigma noise, velocity = noise - z_0."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Training levels of the release: 1.000, 0.999, ... 0.001.
TRAIN_LEVELS = 1000


def train_sigmas() -> Float[np.ndarray, "1000"]:
    """The noise levels that training draws from, the noisiest first, float32."""
    timesteps = np.linspace(1, TRAIN_LEVELS, TRAIN_LEVELS, dtype=np.float32)[::-1]
    return timesteps / np.float32(TRAIN_LEVELS)


def sampling_sigmas(steps: int) -> Float[np.ndarray, " {steps}+1"]:
    """Noise levels of `steps` Euler steps: evenly from 1 to 0.001, then 0, float32.

    Raises:
      ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"sampling needs at least 1 step, got {steps}")
    timesteps = np.linspace(TRAIN_LEVELS, 1, steps).astype(np.float32)
    return np.append(timesteps / np.float32(TRAIN_LEVELS), np.float32(0))


def add_noise(
    data: Float[Array, "b ..."], noise: Float[Array, "b ..."], sigma: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """z_t of each sample at its own level."""
    level = _per_sample(sigma, data)
    return level * noise + (1 - level) * data


def data_from_velocity(
    noisy: Float[Array, "b ..."], velocity: Float[Array, "b ..."], sigma: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """z_0 as the velocity at `noisy` tells it."""
    return noisy - _per_sample(sigma, noisy) * velocity


def sample_losses(
    predicted: Float[Array, "b ..."], data: Float[Array, "b ..."]
) -> Float[Array, " b"]:
    """Each sample's mean squared error in z_0, float32."""
    error = (predicted.astype(jnp.float32) - data.astype(jnp.float32)) ** 2
    return jnp.mean(error, axis=tuple(range(1, error.ndim)))


def robust_mean(
    losses: Float[Array, " b"], threshold: float | Float[Array, ""] | None
) -> tuple[Float[Array, ""], Bool[Array, " b"]]:
    """The mean over samples whose loss does not exceed `threshold`, and which those are.

    0 if none is kept; None keeps all (METHOD, "Robust training").
    """
    if threshold is None:
        return jnp.mean(losses), jnp.ones_like(losses, dtype=bool)
    kept = jax.lax.stop_gradient(losses) <= threshold
    total = jnp.sum(jnp.where(kept, losses, 0.0))
    return total / jnp.maximum(jnp.sum(kept.astype(losses.dtype)), 1.0), kept


def _per_sample(sigma: Float[Array, " b"], like: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    return sigma.reshape(sigma.shape + (1,) * (like.ndim - 1))
