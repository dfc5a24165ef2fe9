"""The loss of some samples, a pure function of the networks and their inputs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from memo_jax.diffusion import flow
from memo_jax.models.reference_net import ReferenceFeatures
from memo_jax.models.remat import Remat
from memo_jax.train.conditions import Inputs
from memo_jax.train.config import Loss

# Networks by component name.
Nets = Mapping[str, Any]


@struct.dataclass
class Told:
    """What samples say beside the sum of their losses.

    Attributes:
      losses: each sample's in z_0, kept or not.
      kept: which do not exceed the threshold.
      velocity: what the Diffusion Net gave.
    """

    losses: Float[Array, " b"]
    kept: Bool[Array, " b"]
    velocity: Float[Array, "b f h w z"]


def kept_loss(
    nets: Nets,
    inputs: Inputs,
    threshold: float | Float[Array, ""] | None,
    *,
    loss: Loss = "data",
    reference_learns: bool = True,
    remat: Remat = "none",
) -> tuple[Float[Array, ""], Told]:
    """The sum over samples whose loss in z_0 does not exceed `threshold` (None keeps all): of that
    loss, or of the one in the velocity.

    A sum, so that parts of a batch add up: the mean is over all kept samples of all parts.
    `reference_learns` says that the Reference Net or the face tokens it sees have gradients;
    without, it runs forward only.
    """
    velocity, noisy = predicted(nets, inputs, reference_learns=reference_learns, remat=remat)
    data = flow.data_from_velocity(noisy, velocity, inputs.sigma)
    losses = flow.sample_losses(data, inputs.latents)
    _, kept = flow.robust_mean(losses, threshold)
    learnt = losses
    if loss == "velocity":  # not losses / sigma**2, whose rounding grows as sigma falls
        learnt = flow.sample_losses(velocity, inputs.noise - inputs.latents)
    return jnp.sum(jnp.where(kept, learnt, 0.0)), Told(losses, kept, velocity)


def predicted(
    nets: Nets, inputs: Inputs, *, reference_learns: bool, remat: Remat
) -> tuple[Float[Array, "b f h w z"], Float[Array, "b f h w z"]]:
    """The velocity, and the noisy latents at which it is."""
    faces = nets["image_proj"](inputs.face)
    features = _features(nets["reference_net"], inputs.images, faces, reference_learns, remat)
    noisy = flow.add_noise(inputs.latents, inputs.noise, inputs.sigma)
    velocity = nets["diffusion_net"](
        noisy,
        flow.TRAIN_LEVELS * jnp.asarray(inputs.sigma),
        features,
        faces,
        None if inputs.audio is None else nets["audio_proj"](inputs.audio),
        inputs.emotion,
        features if inputs.images.shape[1] > 1 else None,
        inputs.use_reference,
        remat=remat,
    )
    return velocity, noisy


def _features(
    net: Any, images: Float[Array, "b n h w z"], faces: Array, learns: bool, remat: Remat
) -> ReferenceFeatures:
    """Features of the portrait, and of the past frames, which never have gradients."""
    if not learns:
        return jax.lax.stop_gradient(net(images, faces))
    if images.shape[1] == 1:
        return net(images, faces, remat)
    # Images do not see each other. Apart, the past frames, which are many, run forward alone.
    each = net.each_image(faces, images.shape[1])
    portrait = net(images[:, :1], each[:, :1], remat)
    past = jax.lax.stop_gradient(net(images[:, 1:], each[:, 1:]))
    entries = {
        name: jnp.concatenate([entry, past.entries[name]], axis=1)
        for name, entry in portrait.entries.items()
    }
    return ReferenceFeatures(entries, portrait.map_sizes)
