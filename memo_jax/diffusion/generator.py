"""The networks that make frames, as one pytree."""

from flax import nnx

from memo_jax.models.diffusion_net import DiffusionNet
from memo_jax.models.projections import AudioProjection, ImageProjection
from memo_jax.models.reference_net import ReferenceNet
from memo_jax.models.vae import VAE


class Generator(nnx.Module):
    """The networks that make frames, as one pytree."""

    def __init__(
        self,
        vae: VAE,
        reference_net: ReferenceNet,
        diffusion_net: DiffusionNet,
        image_proj: ImageProjection,
        audio_proj: AudioProjection,
    ):
        self.vae = vae
        self.reference_net = reference_net
        self.diffusion_net = diffusion_net
        self.image_proj = image_proj
        self.audio_proj = audio_proj
