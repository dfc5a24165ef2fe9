"""Pipeline: a portrait and a recording become frames, whole or chunk by chunk."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, UInt8

from memo_jax.config import SamplerConfig
from memo_jax.diffusion.guidance import guided
from memo_jax.diffusion.presets import EXACT, changed, with_preset
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
from memo_jax.models.exchange import split_of
from memo_jax.pipeline import memory as device_memory
from memo_jax.pipeline import spread
from memo_jax.pipeline.hearing import Ear, Hearing
from memo_jax.pipeline.scene import FaceModels, Scene, make_scene
from memo_jax.weights.folder import Model
from memo_jax.weights.sources import load_model
from memo_jax.weights.spec import REQUIRED

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Video:
    """A whole video in memory: RGB frames, and frames per second."""

    frames: UInt8[np.ndarray, "n H W 3"]
    fps: int


class Pipeline:
    """A model made ready to generate; `Pipeline.load` makes one.

    >>> pipe = Pipeline.load("tiny")
    >>> video = pipe("portrait.png", "recording.wav", seed=1, emotion="happy")
    >>> for frames in pipe.stream("portrait.png", "recording.wav"):
    ...     show(frames)
    """

    def __init__(
        self,
        model: Model,
        *,
        sampler: SamplerConfig | None = None,
        preset: str | None = None,
        memory: str = "auto",
        chunk: int = 1,
        mesh: str | None = None,
        face_models: Path | None = None,
    ):
        """Use `load` unless the model is in memory already.

        Args:
          sampler: in place of the model's own.
          preset: what to make of it; None leaves it as it is.
          memory: "auto", "normal" or "low", as in `load`.
          chunk: clips that are generated in one call of the device.
          mesh: over which devices every clip is split, as in `load`.
          face_models: a folder with the release's ONNX face models.

        Raises:
          UserError: the parts do not fit each other, or all of it not into the device's memory.
        """
        if not 1 <= chunk <= 1000:
            raise UserError(f"chunk {chunk}: expected 1 to 1000 clips")
        self.spec = model.spec
        self.sampler = sampler or model.spec.sampler
        if preset is not None:
            self.sampler = with_preset(self.sampler, preset)
        self.chunk = chunk
        self._check(model)
        split = split_of(mesh)
        spread.check(split, _configs(model), self.sampler)
        self._programs = spread.Programs(split, 1 + guided(self.sampler.guidance))
        self.sampler, self.notes = device_memory.fitted(model, self.sampler, memory, chunk, split)
        self._ear = Ear(model, _onnx(model.folder, "vocal_separator"))
        self._faces = FaceModels(face_models or _folder(model.folder, "face_analysis"))
        self._graphdef, state = nnx.split(_generator(model))
        self._params = self._programs.put(nnx.to_pure_dict(state))
        self._start = self._programs.start(self._traced_start)
        self._chunks: dict[Any, Any] = {}
        self.compile_seconds = 0.0

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "tiny",
        *,
        dtype: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        noise_span: int | None = None,
        preset: str = EXACT,
        guidance_interval: tuple[float, float] | None = None,
        cache_steps: int | None = None,
        latent_carry: bool | None = None,
        memory: str = "auto",
        chunk: int = 1,
        mesh: str | None = None,
        face_models: str | os.PathLike[str] | None = None,
    ) -> Self:
        """A pipeline of a bundled preset, a native model folder, or a published PyTorch one.

        Args:
          model: its name or folder.
          dtype: what matmuls and convolutions run in: "bfloat16", or "float32", which is the
            default on CPUs because they are no faster in bfloat16.
          steps, guidance, noise_span: (`SamplerConfig`) in place of the model's own.
          preset: "exact", or a named approximation that costs less ("fast", "draft").
          guidance_interval, cache_steps, latent_carry: approximations one by one
            (`SamplerConfig`), in place of the preset's.
          memory: "low" needs less of the device's, and rounds the memory of the past to bfloat16;
            "auto" takes it where the device has no room for "normal", and says so in `notes`.
          chunk: clips that are generated in one call of the device.
          mesh: devices that make every clip together: "guidance=2,frames=4" takes eight, one group
            of four for each branch of guidance, and in it a quarter of the frames for each.
          face_models: a folder with the release's ONNX face models.

        Raises:
          UserError: there is no such model, it is not whole, it cannot be split so, or it does not
            fit into the device's memory.
        """
        dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
        if dtype not in DTYPES:
            raise UserError(f"no dtype {dtype!r}; expected {' or '.join(DTYPES)}")
        loaded = load_model(str(model), DTYPES[dtype])
        sampler = changed(
            with_preset(loaded.spec.sampler, preset),
            steps=steps,
            guidance=guidance,
            noise_span=noise_span,
            guidance_interval=guidance_interval,
            cache_steps=cache_steps,
            latent_carry=latent_carry,
        )
        folder = None if face_models is None else Path(face_models)
        # os.path, unlike pathlib, also bears a name that is too long.
        if folder is not None and not (os.path.isdir(folder) and any(folder.rglob("*.onnx"))):
            raise UserError(f"--face-models {str(folder)!r} holds no .onnx file; give their folder")
        return cls(
            loaded, sampler=sampler, memory=memory, chunk=chunk, mesh=mesh, face_models=folder
        )

    def __call__(
        self,
        image: str | os.PathLike[str] | UInt8[np.ndarray, "H W 3"],
        audio: str | os.PathLike[str] | tuple[np.ndarray, int],
        **options: Any,
    ) -> Video:
        """All frames of the crop at once; arguments and errors are those of `stream`."""
        return Video(np.concatenate(list(self.stream(image, audio, **options))), self.sampler.fps)

    def stream(
        self,
        image: str | os.PathLike[str] | UInt8[np.ndarray, "H W 3"],
        audio: str | os.PathLike[str] | tuple[np.ndarray, int],
        *,
        seed: int = 0,
        emotion: str | None = None,
        noise: Float[np.ndarray, "clips 1 f h w z"] | None = None,
        crop: str = "auto",
        face: str = "auto",
        vocals: str = "auto",
    ) -> Iterator[UInt8[np.ndarray, "n s s 3"]]:
        """Frames of the crop, chunk by chunk, while the next chunk is being made.

        `crop` and `face` are those of `scene`, `emotion` and `vocals` those of `hear`, `seed` and
        `noise` those of `start`. Everything is checked before the first frame.
        """
        scene = self.scene(image, crop=crop, face=face)
        hearing = self.hear(audio, emotion=emotion, vocals=vocals)
        return iter(self.start(scene, hearing, seed=seed, noise=noise))

    def scene(
        self,
        image: str | os.PathLike[str] | UInt8[np.ndarray, "H W 3"],
        *,
        crop: str = "auto",
        face: str = "auto",
    ) -> Scene:
        """The picture made ready.

        Args:
          image: a file, or RGB pixels.
          crop: "auto" finds the face; "none" takes the whole picture; "x,y,w,h" in pixels.
          face: "auto", "largest", or the number of one of several faces.

        Raises:
          UserError: the picture cannot be read, or the face is not found or not clear.
        """
        return make_scene(
            image,
            size=self.sampler.image_size,
            identity=self.spec.identity,
            identity_dim=self.spec.parts["image_proj"].config.embedding_dim,
            models=self._faces,
            crop=crop,
            face=face,
        )

    def hear(
        self,
        audio: str | os.PathLike[str] | tuple[np.ndarray, int],
        *,
        emotion: str | None = None,
        vocals: str = "auto",
    ) -> Hearing:
        """The recording made ready.

        Args:
          audio: a file, or (mono samples, their rate in Hz).
          emotion: "happy", "0-3:neutral,3-:happy"; None lets the model's detector hear it.
          vocals: "auto" separates them first where the separator is there, "on", "off".

        Raises:
          UserError: the recording cannot be read, or the emotion is none.
        """
        return self._ear(audio, self.sampler, emotion=emotion, vocals=vocals)

    def start(
        self,
        scene: Scene,
        hearing: Hearing,
        *,
        seed: int = 0,
        noise: Float[np.ndarray, "clips 1 f h w z"] | None = None,
        carry: Carry | None = None,
    ) -> "Run":
        """A run over a recording, which yields frames as it is iterated.

        Args:
          seed: same seed, same machine: same frames.
          noise: in place of drawn noise, to compare with another implementation.
          carry: of a run that stopped (`Run.drain`), to go on from its next clip; its leaves may
            have been saved and loaded. It is copied.
        """
        if not 0 <= seed < 2**32:
            raise UserError(f"seed {seed}: expected a whole number from 0 to {2**32 - 1}")
        if noise is not None and noise.shape != (hearing.clips, 1, *self._latents_shape):
            raise UserError(
                f"noise has shape {noise.shape}, expected "
                f"{(hearing.clips, 1, *self._latents_shape)} [clips, b, f, h, w, z]"
            )
        image = jnp.asarray(scene.image, jnp.float32)[None] / 127.5 - 1
        given = self._programs.put((image, jnp.asarray(scene.identity)[None]))
        portrait, first = self._start(self._params, *given)
        if carry is not None:
            if _shapes(carry.memory) != _shapes(self._programs.shapes(first).memory):
                raise UserError(
                    "carry's memory has other shapes: it is of another model, or of a run with "
                    "another device_memory; give what it was made with"
                )
            if carry.past.shape[2:] != first.past.shape[2:]:
                raise UserError(
                    f"carry has past frames of {carry.past.shape[2:]}, expected "
                    f"{first.past.shape[2:]}; give the latent_carry that it was made with"
                )
            first = self._programs.lay(carry)
        return Run(self, hearing, portrait, first, seed, noise)

    @property
    def _latents_shape(self) -> tuple[int, int, int, int]:
        vae = self.spec.parts["vae"].config
        side = self.sampler.image_size // vae.factor
        return self.sampler.clip_frames, side, side, vae.latent_channels

    def _check(self, model: Model) -> None:
        """The parts must fit each other; a model that does not fit says where."""
        configs = _configs(model)
        net, audio, image = (configs[n] for n in ("diffusion_net", "audio_proj", "image_proj"))
        vae, reference, sampler = configs["vae"], configs["reference_net"], self.sampler
        ear, detector = configs.get("wav2vec2"), configs.get("emotion2vec")
        classifier = configs.get("emotion_classifier")
        heard = model.spec.log_mel
        factor = vae.factor * 2 ** (len(net.block_out_channels) - 1)
        if sampler.image_size % factor:
            raise UserError(
                f"image_size {sampler.image_size} is no multiple of {factor}, by which this model "
                "makes pictures smaller"
            )
        if net.motion.position_code and sampler.clip_frames > net.motion.max_frames:
            raise UserError(
                f"clip_frames {sampler.clip_frames}: the model counts to {net.motion.max_frames}"
            )
        pairs = [
            ("latent channels", vae.latent_channels, net.in_channels),
            ("latent channels", vae.latent_channels, reference.in_channels),
            ("latent channels", vae.latent_channels, net.out_channels),
            ("audio token width", audio.out_dim, net.audio_attention_dim),
            ("face token width", image.cross_attention_dim, net.cross_attention_dim),
            ("face token width", image.cross_attention_dim, reference.cross_attention_dim),
            ("widths", reference.block_out_channels, net.block_out_channels),
            ("blocks", reference.layers_per_block, net.layers_per_block),
            ("the number of emotions", len(model.spec.emotions), net.num_emotions),
        ]
        if heard is not None:
            features = heard.moments, heard.bands
            pairs.append(("what is heard", features, (audio.layers, audio.channels)))
        elif ear is not None:
            pairs.append(("what is heard", (ear.layers, ear.width), (audio.layers, audio.channels)))
        if detector is not None and classifier is not None:
            pairs.append(("emotion features", detector.width, classifier.in_features))
            pairs.append(("the number of emotions", classifier.num_emotions, net.num_emotions))
        if audio.window % 2 == 0:
            raise UserError(f"audio window of {audio.window} frames: expected an odd number")
        for what, a, b in pairs:
            if a != b:
                raise UserError(
                    f"model {model.spec.name!r}: its parts disagree on {what}: {a}, {b}"
                )

    def _traced_start(
        self, params: dict, image: Float[Array, "1 H W 3"], identity: Float[Array, "1 e"]
    ) -> tuple[Portrait, Carry]:
        generator = nnx.merge(self._graphdef, params)
        portrait = prepare_portrait(generator, self.sampler, image, identity)
        return portrait, first_carry(generator, self.sampler, portrait, image)

    def _traced_chunk(
        self, params: dict, portrait: Portrait, key: Array, carry: Carry, inputs: ClipInputs
    ) -> tuple[Carry, UInt8[Array, "n s s 3"]]:
        generator = nnx.merge(self._graphdef, params)
        carry, frames = rollout(generator, self.sampler, portrait, key, carry, inputs)
        # To bytes on the device, which quarters what must leave it; cut off as released.
        pixels = jnp.clip(frames * 255, 0, 255).astype(jnp.uint8)
        return carry, rearrange(pixels, "clips 1 f h w c -> (clips f) h w c")

    def chunk_program(
        self, portrait: Portrait, key: Array, carry: Carry, inputs: ClipInputs
    ) -> Any:
        """The compiled program for a chunk of these shapes: one for every length of sound."""
        args = (self._params, portrait, key, carry, inputs)
        known = _shapes(args[1:])
        if known not in self._chunks:
            begun = time.perf_counter()
            program = self._programs.chunk(self._traced_chunk, carried=3)
            self._chunks[known] = program.lower(*args).compile()
            self.compile_seconds += time.perf_counter() - begun
        return self._chunks[known]


class Run:
    """Frames of one recording, made as they are asked for.

    `clip` is the number of the next clip. While a chunk is given
    the next one is being made already, so `drain` before saving them.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        hearing: Hearing,
        portrait: Portrait,
        carry: Carry,
        seed: int,
        noise: np.ndarray | None,
    ):
        self._carry = carry
        self.clip = int(carry.clip)
        self.hearing = hearing
        self._pipeline, self._portrait, self._noise = pipeline, portrait, noise
        self._key = jax.random.key(seed)
        self._waiting: list[tuple[int, Array]] = []

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "n s s 3"]]:
        """Chunks of frames; the last is cut to the recording's length."""
        while self.clip < self.hearing.clips:
            first = self.clip
            self._waiting.append((first, self._next_chunk()))
            # The device is at work on this chunk; meanwhile the one before leaves it.
            if len(self._waiting) > 1:
                yield self._fetched(*self._waiting.pop(0))
        yield from self.drain()

    @property
    def carry(self) -> Carry:
        """What the next clip goes on from, as one device has it: several devices' is gathered on
        the host."""
        return self._pipeline._programs.gathered(self._carry)

    @property
    def carry_shapes(self) -> Carry:
        """Like `carry`, for its shapes alone."""
        return self._pipeline._programs.shapes(self._carry)

    def drain(self) -> list[UInt8[np.ndarray, "n s s 3"]]:
        """The chunks under way, waited for: afterwards `carry` is what follows the last frame."""
        chunks = [self._fetched(*chunk) for chunk in self._waiting]
        self._waiting.clear()
        return chunks

    def compile(self) -> None:
        """Compile what iterating will run, and make no frame."""
        self._pipeline.chunk_program(*self._arguments())

    def _next_chunk(self) -> UInt8[Array, "n s s 3"]:
        args = self._arguments()
        program = self._pipeline.chunk_program(*args)
        self._carry, frames = program(self._pipeline._params, *args)
        self.clip += self._pipeline.chunk
        return frames

    def _arguments(self) -> tuple[Portrait, Array, Carry, ClipInputs]:
        size, hearing = self._pipeline.chunk, self.hearing
        # Past the end the last clip repeats: one program serves every length.
        clips = np.minimum(np.arange(self.clip, self.clip + size), hearing.clips - 1)
        window = self._pipeline.spec.parts["audio_proj"].config.window
        inputs = ClipInputs(
            audio=jnp.asarray(np.stack([hearing.windows(int(i), window) for i in clips])[:, None]),
            emotion=jnp.asarray(hearing.emotions[clips][:, None]),
            noise=None if self._noise is None else jnp.asarray(self._noise[clips]),
        )
        whole = self._pipeline._programs.put
        return self._portrait, whole(self._key), self._carry, whole(inputs)

    def _fetched(self, first: int, frames: Array) -> UInt8[np.ndarray, "n s s 3"]:
        start = first * self.hearing.clip_frames
        return np.asarray(frames)[: self.hearing.frames - start]


def _generator(model: Model) -> Generator:
    """The networks that make frames, of a model that has them all."""
    parts: dict[str, Any] = {name: model.modules[name] for name in REQUIRED}
    return Generator(**parts)


def _configs(model: Model) -> dict[str, Any]:
    """Of the model's components, by name."""
    return {name: part.config for name, part in model.spec.parts.items()}


def _shapes(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree))


def _folder(model: Path | None, name: str) -> Path | None:
    """A model's folder of ONNX files, natively beside model.json or, published, in misc/."""
    if model is None:
        return None
    return next((p for p in (model / name, model / "misc" / name) if p.is_dir()), None)


def _onnx(model: Path | None, name: str) -> Path | None:
    folder = _folder(model, name)
    return None if folder is None else next(iter(sorted(folder.rglob("*.onnx"))), None)
