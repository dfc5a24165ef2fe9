"""The networks' configs as a stage runs them, and whether a run fits them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from memo_jax.errors import UserError
from memo_jax.train.config import TrainConfig
from memo_jax.train.stages import VAE
from memo_jax.weights.spec import ModelSpec


def running_parts(config: TrainConfig, spec: ModelSpec) -> dict[str, Any]:
    """The components' configs as this stage runs them.

    Rows are always each sample's own. The release's mixing, which is between the branches of its
    sampler, is none where a device has one sample, as the release was trained.

    Raises:
      UserError: the model lacks a component.
    """
    needed = {*config.what.components, "vae"} | ({"audio_proj"} if config.stage != VAE else set())
    missing = sorted(needed - set(spec.parts))
    if missing:
        raise UserError(
            f"the model {spec.name} lacks {', '.join(missing)}; training starts from a whole one"
        )
    parts = {name: part.config for name, part in spec.parts.items()}
    if config.stage == VAE:
        return parts
    parts["reference_net"] = dataclasses.replace(parts["reference_net"], face_rows="own")
    net = dataclasses.replace(parts["diffusion_net"], reference_rows="own")
    if not config.what.moving:
        net = dataclasses.replace(net, audio_modules=False, motion_resolutions=(), mid_motion=False)
    parts["diffusion_net"] = net
    return parts


def check(config: TrainConfig, parts: Mapping[str, Any], image_size: int, devices: int) -> None:
    """Raises UserError where config, networks, pictures' size and number of devices do not fit."""
    rows = config.accumulate * devices
    if config.batch_size % rows:
        raise UserError(
            f"batch_size {config.batch_size} on {devices} devices with "
            f"accumulate={config.accumulate}, expected a multiple of {rows}"
        )
    factor = parts["vae"].factor
    if image_size % factor:
        raise UserError(
            f"image_size {image_size}, expected a multiple of {factor}, a latent's pixels"
        )
    if config.stage == VAE:
        if config.form != "images" or config.lora_rank:
            raise UserError('stage vae trains on pictures, whole: set form="images", lora_rank=0')
        return
    net = parts["diffusion_net"]
    if config.what.moving and config.drop.emotion and net.emotion_rows == net.num_emotions:
        raise UserError(
            "the model has no null emotion to drop labels to; set drop.emotion to 0, or start "
            "from a model with emotion_drop_rate above 0"
        )
    most = net.motion.max_frames
    if config.what.moving and net.motion.position_code and config.frames > most:
        raise UserError(
            f"{config.frames} frames in a sample, but the model's position code has {most}; "
            f"set frames to {most} or fewer"
        )
