"""Videos side by side: one program draws a clip of several people at once."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.config import SamplerConfig
from memo_jax.diffusion.rollout import (
    Carry,
    ClipInputs,
    Generator,
    Portrait,
    first_carry,
    prepare_portrait,
    rollout,
)
from memo_jax.errors import UserError
from memo_jax.pipeline.hearing import Ear
from memo_jax.pipeline.scene import pixel_identity
from memo_jax.weights.build import flatten
from memo_jax.weights.components import COMPONENTS, assemble
from memo_jax.weights.folder import Model
from memo_jax.weights.spec import REQUIRED


class Together:
    """A model that draws `batch` videos of one length side by side, from squares of its own size.

    It is the pipeline's arithmetic for people who are known to fill the picture; what differs is
    the noise, which the videos of a batch draw together.
    """

    def __init__(
        self,
        model: Model,
        sampler: SamplerConfig | None = None,
        *,
        motion: Mapping[str, Any] | None = None,
    ):
        """Compiles nothing yet.

        Args:
          sampler: in place of the model's own.
          motion: fields of `MotionConfig` that differ from the model's, such as `decay`.

        Raises:
          UserError: the model knows people by more than their pixels.
        """
        if model.spec.identity != "pixels":
            raise UserError(
                f"model {model.spec.name!r} knows people by {model.spec.identity!r}, expected a "
                "model of puppets, which knows them by 'pixels'"
            )
        self.sampler = sampler or model.spec.sampler
        self.spec = model.spec
        self._ear = Ear(model, None)
        parts: dict[str, Any] = {name: model.modules[name] for name in REQUIRED}
        if motion:
            parts["diffusion_net"] = with_motion(parts["diffusion_net"], motion)
        self._graphdef, state = nnx.split(Generator(**parts))
        self._params = nnx.to_pure_dict(state)
        self._start = jax.jit(self._traced_start)
        self._clip = jax.jit(self._traced_clip, donate_argnums=3)

    def __call__(
        self,
        portraits: UInt8[np.ndarray, "b s s 3"],
        sounds: Sequence[Float[np.ndarray, " _samples"]],
        emotions: Sequence[str],
        seed: int,
    ) -> Iterator[UInt8[np.ndarray, "b f s s 3"]]:
        """Clips of frames, the last one cut to the sounds' length.

        Args:
          portraits: RGB.
          sounds: at 16 kHz, all of one length.
          emotions: what each person is asked to show, as `memo_jax.sample --emotion`.
          seed: of the noise.
        """
        hearings = [
            self._ear((sound, SAMPLE_RATE), self.sampler, emotion=emotion)
            for sound, emotion in zip(sounds, emotions, strict=True)
        ]
        frames = hearings[0].frames
        if any(hearing.frames != frames for hearing in hearings):
            raise ValueError("sounds of different lengths")
        width = self.spec.parts["image_proj"].config.embedding_dim
        window = self.spec.parts["audio_proj"].config.window
        faces = np.stack([pixel_identity(image, width) for image in portraits])
        images = jnp.asarray(portraits, jnp.float32) / 127.5 - 1
        portrait, carry = self._start(self._params, images, jnp.asarray(faces))
        key = jax.random.key(seed)
        for clip in range(hearings[0].clips):
            heard = np.stack([hearing.windows(clip, window) for hearing in hearings])
            felt = np.array([hearing.emotions[clip] for hearing in hearings])
            inputs = ClipInputs(audio=jnp.asarray(heard), emotion=jnp.asarray(felt))
            carry, drawn = self._clip(self._params, portrait, key, carry, inputs)
            yield np.asarray(drawn)[:, : frames - clip * self.sampler.clip_frames]

    def _traced_start(self, params: dict, images: Any, faces: Any) -> tuple[Portrait, Carry]:
        generator = nnx.merge(self._graphdef, params)
        portrait = prepare_portrait(generator, self.sampler, images, faces)
        return portrait, first_carry(generator, self.sampler, portrait, images)

    def _traced_clip(
        self, params: dict, portrait: Portrait, key: Any, carry: Carry, inputs: ClipInputs
    ) -> tuple[Carry, Any]:
        generator = nnx.merge(self._graphdef, params)
        one = jax.tree.map(lambda leaf: leaf[None], inputs)
        carry, frames = rollout(generator, self.sampler, portrait, key, carry, one)
        return carry, jnp.clip(frames[0] * 255, 0, 255).astype(jnp.uint8)


def with_motion(net: nnx.Module, changes: Mapping[str, Any]) -> nnx.Module:
    """The Diffusion Net with the same weights and another `MotionConfig`.

    Raises:
      UserError: the change is to what decides the weights' shapes.
    """
    config: Any = net.config  # type: ignore[attr-defined]  # every component keeps its own
    motion = dataclasses.replace(config.motion, **changes)
    other = dataclasses.replace(config, motion=motion)
    graphdef, shapes = COMPONENTS["diffusion_net"].abstract(other)
    values = flatten(nnx.state(net))
    if {k: v.shape for k, v in values.items()} != {k: v.shape for k, v in shapes.items()}:
        raise UserError(f"motion {dict(changes)} asks for other weights than the model has")
    return assemble(graphdef, values)
