"""The Diffusion Net: from noisy latents of a clip to the velocity that cleans them."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int

from memo_jax.config import DiffusionNetConfig
from memo_jax.models import exchange
from memo_jax.models.audio_attention import NORMS_PER_MODULE, AudioModule
from memo_jax.models.layers import TimestepEmbedding, conv, group_norm, normed_frames, timestep_code
from memo_jax.models.motion import LayerMemory, MemoryRows, MotionMemory, MotionModule
from memo_jax.models.pieces import Part
from memo_jax.models.reference_net import ReferenceFeatures
from memo_jax.models.remat import Remat, around_layer, around_module
from memo_jax.models.resnet import Downsample, ResnetBlock, Upsample
from memo_jax.models.spatial import SpatialCache, SpatialTransformer
from memo_jax.models.types import Dtype, Rngs
from memo_jax.models.unet import MID_FEATURE, LayerPlan, LevelPlan, down_levels, up_levels


@struct.dataclass
class CachedFeatures:
    """Reference and face keys and values of every spatial transformer, by feature name."""

    spatial: dict[str, SpatialCache]


@struct.dataclass
class DeepFeatures:
    """What enters the last level of the expanding side: all that the levels below the first give a
    step. `audio` are the audio tokens as they have become by then."""

    x: Float[Array, "b f h w c"]
    audio: Float[Array, "b f m c_audio"] | None


@struct.dataclass
class _Step:
    """What every layer of one denoising step is given."""

    time: Float[Array, "b t"]
    spatial: dict[str, SpatialCache]
    emotion: Int[Array, "b modules norms"] | None
    memory: MotionMemory | ReferenceFeatures | None
    use_reference: np.ndarray | Array | None = struct.field(pytree_node=False)
    remat: Remat = struct.field(pytree_node=False)
    part: Part | None = struct.field(pytree_node=False, default=None)

    def remembered(self, module: MotionModule, path: str, feature: str) -> MotionMemory | None:
        """What a motion module reads."""
        if isinstance(self.memory, ReferenceFeatures):
            return MotionMemory(module.remember(path, self.memory.past(feature), None))
        return self.memory


class DiffusionNet(nnx.Module):
    """SD1.5's UNet over frames: resnet -> spatial -> audio -> motion in every layer, the last two
    as configured."""

    def __init__(self, config: DiffusionNetConfig, *, dtype: Dtype = jnp.float32, rngs: Rngs):
        self.config = config
        widths = config.block_out_channels
        time_dim = 4 * widths[0]
        self.conv_in = conv(config.in_channels, widths[0], 3, dtype=dtype, rngs=rngs)
        self.time_embedding = TimestepEmbedding(widths[0], time_dim, dtype=dtype, rngs=rngs)
        kwargs = {"time_dim": time_dim, "dtype": dtype, "rngs": rngs}
        self.down_blocks = nnx.List([Level(plan, config, **kwargs) for plan in down_levels(config)])
        self.mid_block = Middle(config, **kwargs)
        self.up_blocks = nnx.List([Level(plan, config, **kwargs) for plan in up_levels(config)])
        self.conv_norm_out = group_norm(
            widths[0], config.norm_num_groups, config.norm_eps, rngs=rngs
        )
        self.conv_out = conv(widths[0], config.out_channels, 3, dtype=dtype, rngs=rngs)

    @property
    def emotion_norms(self) -> int:
        """How many emotion norms there are, each of which training drops on its own."""
        parts = [*self._levels(), self.mid_block]
        return NORMS_PER_MODULE * sum(len(getattr(part, "audio_modules", ())) for part in parts)

    def cache(
        self, features: ReferenceFeatures | None, face_tokens: Float[Array, "b t c"]
    ) -> CachedFeatures:
        """What the portrait and the face give every spatial transformer, whatever the step.

        With no features each frame attends to itself alone, and to the face tokens.
        """
        attentions = {MID_FEATURE: self.mid_block.attentions[0]}
        for level in self._levels():
            attentions |= level.named_attentions()
        return CachedFeatures(
            {
                name: attention.cache(
                    face_tokens, None if features is None else features.portrait(name)
                )
                for name, attention in attentions.items()
            }
        )

    def remember(self, features: ReferenceFeatures, memory: MotionMemory | None) -> MotionMemory:
        """The memory after the clip whose frames `features` holds as past.

        `memory` is what was remembered before them; None means nothing. The result depends on the
        past frames alone, not on the step, and carries no gradient. Without motion modules, or
        where they take softmax attention, it is empty.
        """
        layers: dict[str, LayerMemory | MemoryRows] = {}
        for level in self._levels():
            for j, module in enumerate(getattr(level, "motion_modules", ())):
                past = features.past(level.plan.feature(j))
                layers |= module.remember(level.motion_path(j), past, memory)
        for j, module in enumerate(getattr(self.mid_block, "motion_modules", ())):
            past = features.past(MID_FEATURE)
            layers |= module.remember(self.mid_block.motion_path(j), past, memory)
        return MotionMemory(layers)

    def __call__(
        self,
        latents: Float[Array, "b f h w c"],
        timesteps: Float[Array, " b"],
        features: ReferenceFeatures | CachedFeatures | None,
        face_tokens: Float[Array, "b t c_face"] | None,
        audio_tokens: Float[Array, "b f m c_audio"] | None = None,
        emotion: Int[Array, " b"] | Int[Array, "b norms"] | None = None,
        memory: MotionMemory | ReferenceFeatures | None = None,
        use_reference: Bool[np.ndarray, " b"] | Bool[Array, " b"] | None = None,
        remat: Remat = "none",
    ) -> Float[Array, "b f h w c_out"]:
        """The velocity (noise - data) at `timesteps` = 1000 * sigma, float32.

        Args:
          features: those of the Reference Net, or what `cache` made of them (then `face_tokens`
            are in it already and may be None). None means no portrait: each frame attends to
            itself alone, and to the face tokens.
          audio_tokens: without audio modules neither they nor `emotion` are looked at.
          emotion: one label per sample, or one for each of the `emotion_norms`, which is how
            training drops them independently.
          memory: what `remember` gave; None means no past. Features in its place are remembered
            by each motion module as its turn comes: the same numbers, but the memories of all
            modules, many times larger than the features, never exist at once.
          use_reference: which samples attend to their portrait; None means all. Known values (not
            traced ones) are used to skip the work of those that do not.
          remat: what the backward pass computes again (training).
        """
        return self.evaluate(
            latents,
            timesteps,
            features,
            face_tokens,
            audio_tokens,
            emotion,
            memory,
            use_reference,
            remat,
        )[0]

    def evaluate(
        self,
        latents: Float[Array, "b f h w c"],
        timesteps: Float[Array, " b"],
        features: ReferenceFeatures | CachedFeatures | None,
        face_tokens: Float[Array, "b t c_face"] | None,
        audio_tokens: Float[Array, "b f m c_audio"] | None = None,
        emotion: Int[Array, " b"] | Int[Array, "b norms"] | None = None,
        memory: MotionMemory | ReferenceFeatures | None = None,
        use_reference: Bool[np.ndarray, " b"] | Bool[Array, " b"] | None = None,
        remat: Remat = "none",
        *,
        deep: DeepFeatures | None = None,
        part: Part | None = None,
    ) -> tuple[Float[Array, "b f h w c_out"], DeepFeatures]:
        """The velocity, and what the levels below the first gave for it.

        Args:
          deep: of another step, in place of what those levels would give: they are not evaluated
            then. None evaluates all, which is what a call does.
          part: cached features and memory are of a whole batch, all else of this part of it.
        """
        config = self.config
        if not isinstance(features, CachedFeatures):
            if face_tokens is None:
                raise ValueError("face_tokens are needed unless features are cached")
            features = self.cache(features, face_tokens)
        x = self.conv_in(latents)
        labels, audio = None, None
        if config.audio_modules:
            if audio_tokens is None or emotion is None:
                raise ValueError("audio_tokens and emotion are needed by the audio modules")
            if emotion.ndim == 1:
                emotion = jnp.broadcast_to(emotion[:, None], (len(emotion), self.emotion_norms))
            labels = rearrange(emotion, "b (modules n) -> b modules n", n=NORMS_PER_MODULE)
            audio = audio_tokens.astype(x.dtype)
        code = timestep_code(
            timesteps,
            config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )
        step = _Step(
            time=self.time_embedding(code),
            spatial=features.spatial,
            emotion=labels,
            memory=memory,
            use_reference=use_reference,
            remat=remat,
            part=part,
        )

        first, last = self.down_blocks[0], self.up_blocks[-1]
        skips, module = [x], 0
        for j in range(len(first.plan.layers)):
            x, audio, module = first.layer(j, x, audio, module, step)
            skips.append(x)
        if deep is None:
            outer = len(skips)
            if first.plan.resample:
                x = first.downsamplers[0](x)
                skips.append(x)
            x, audio, module = self._below(x, audio, module, skips, step)
            assert len(skips) == outer  # those of the first level
            deep = DeepFeatures(x, audio)
        x, audio = deep.x, deep.audio
        module = self.emotion_norms // NORMS_PER_MODULE - len(getattr(last, "audio_modules", ()))
        for j in range(len(last.plan.layers)):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x, audio, module = last.layer(j, x, audio, module, step)
        x = normed_frames(self.conv_norm_out, x, per_frame=config.norm_per_frame)
        return self.conv_out(nnx.silu(x)).astype(jnp.float32), deep

    def _below(
        self, x: Array, audio: Array | None, module: int, skips: list[Array], step: _Step
    ) -> tuple[Array, Array | None, int]:
        """The levels below the first, from its downsampled end to the last level's start; skips of
        theirs are put on the stack and taken from it."""
        for level in list(self.down_blocks)[1:]:
            for j in range(len(level.plan.layers)):
                x, audio, module = level.layer(j, x, audio, module, step)
                skips.append(x)
            if level.plan.resample:
                x = level.downsamplers[0](x)
                skips.append(x)
        x, audio, module = self.mid_block(x, audio, module, step)
        for level in list(self.up_blocks)[:-1]:
            for j in range(len(level.plan.layers)):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x, audio, module = level.layer(j, x, audio, module, step)
            if level.plan.resample:
                # Latents whose sides do not halve evenly come back to the skip's size.
                x = level.upsamplers[0](x, like=skips[-1])
        return x, audio, module

    def _levels(self) -> list["Level"]:
        return [*self.down_blocks, *self.up_blocks]


def _spatial(config: DiffusionNetConfig, width: int, **kwargs) -> SpatialTransformer:
    return SpatialTransformer(
        width, config.cross_attention_dim, config.num_heads, config.norm_num_groups, **kwargs
    )


def _audio(
    config: DiffusionNetConfig, layer: LayerPlan, *, final: bool = False, **kwargs
) -> AudioModule:
    return AudioModule(
        layer.c_out,
        config.num_heads * (layer.audio_width // config.num_heads),
        config.audio_attention_dim,
        config.num_heads,
        config.norm_num_groups,
        config.emotion_rows,
        joint=config.audio_attention == "joint",
        final=final,
        **kwargs,
    )


def _resnet(config: DiffusionNetConfig, c_in: int, c_out: int, **kwargs) -> ResnetBlock:
    return ResnetBlock(
        c_in,
        c_out,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        per_frame=config.norm_per_frame,
        **kwargs,
    )


class Level(nnx.Module):
    """One resolution (manifest: `down_blocks.*`, `up_blocks.*`)."""

    def __init__(
        self,
        plan: LevelPlan,
        config: DiffusionNetConfig,
        *,
        time_dim: int,
        dtype: Dtype,
        rngs: Rngs,
    ):
        self.plan = plan
        self.attention = plan.attention
        self.mixed_rows = config.reference_rows == "mixed"
        kwargs = {"dtype": dtype, "rngs": rngs}
        layers, width = plan.layers, plan.layers[-1].c_out
        self.resnets = nnx.List(
            [
                _resnet(config, layer.c_in, layer.c_out, time_dim=time_dim, **kwargs)
                for layer in layers
            ]
        )
        if plan.attention:
            self.attentions = nnx.List(
                [_spatial(config, layer.c_out, **kwargs) for layer in layers]
            )
        if plan.attention and config.audio_modules:
            self.audio_modules = nnx.List(
                [
                    _audio(config, layer, final=plan.last and layer is layers[-1], **kwargs)
                    for layer in layers
                ]
            )
        if plan.scale in config.motion_resolutions:
            self.motion_modules = nnx.List(
                [MotionModule(layer.c_out, config.motion, **kwargs) for layer in layers]
            )
        if plan.resample and plan.side == "down":
            self.downsamplers = nnx.List([Downsample(width, **kwargs)])
        if plan.resample and plan.side == "up":
            self.upsamplers = nnx.List([Upsample(width, **kwargs)])

    def named_attentions(self) -> dict[str, SpatialTransformer]:
        """The spatial transformers by the names of their reference features."""
        return {self.plan.feature(j): a for j, a in enumerate(getattr(self, "attentions", ()))}

    def motion_path(self, j: int) -> str:
        """The manifest path of a motion module."""
        return f"{self.plan.side}_blocks.{self.plan.index}.motion_modules.{j}"

    def layer(
        self, j: int, x: Array, audio: Array | None, module: int, step: _Step
    ) -> tuple[Array, Array | None, int]:
        """Layer `j`; `module` counts the audio modules that have run."""

        def run(x: Array, audio: Array | None) -> tuple[Array, Array | None]:
            x = around_module(self.resnets[j], step.remat)(x, step.time)
            if self.attention:
                x = _attended(
                    self.attentions[j], x, self.plan.feature(j), step, mixed_rows=self.mixed_rows
                )
            if hasattr(self, "audio_modules"):
                assert audio is not None and step.emotion is not None  # only the last leaves none
                heard = around_module(self.audio_modules[j], step.remat)
                x, audio = heard(x, audio, step.emotion[:, module])
            if hasattr(self, "motion_modules"):
                x = _moved(
                    self.motion_modules[j], x, self.motion_path(j), self.plan.feature(j), step
                )
            return x, audio

        x, audio = around_layer(run, step.remat)(x, audio)
        return x, audio, module + hasattr(self, "audio_modules")


class Middle(nnx.Module):
    """The lowest resolution: resnet, one full layer's modules, resnet (manifest: `mid_block`)."""

    def __init__(self, config: DiffusionNetConfig, *, time_dim: int, dtype: Dtype, rngs: Rngs):
        width = config.block_out_channels[-1]
        self.mixed_rows = config.reference_rows == "mixed"
        kwargs = {"dtype": dtype, "rngs": rngs}
        self.attentions = nnx.List([_spatial(config, width, **kwargs)])
        if config.audio_modules:
            plan = LayerPlan(width, width, width)
            self.audio_modules = nnx.List([_audio(config, plan, **kwargs)])
        if config.mid_motion:
            self.motion_modules = nnx.List([MotionModule(width, config.motion, **kwargs)])
        self.resnets = nnx.List(
            [_resnet(config, width, width, time_dim=time_dim, **kwargs) for _ in range(2)]
        )

    def motion_path(self, j: int) -> str:
        """The manifest path of a motion module."""
        return f"mid_block.motion_modules.{j}"

    def __call__(
        self, x: Array, audio: Array | None, module: int, step: _Step
    ) -> tuple[Array, Array | None, int]:
        def run(x: Array, audio: Array | None) -> tuple[Array, Array | None]:
            x = around_module(self.resnets[0], step.remat)(x, step.time)
            x = _attended(self.attentions[0], x, MID_FEATURE, step, mixed_rows=self.mixed_rows)
            if hasattr(self, "audio_modules"):
                assert audio is not None and step.emotion is not None  # it is never the last
                heard = around_module(self.audio_modules[0], step.remat)
                x, audio = heard(x, audio, step.emotion[:, module])
            if hasattr(self, "motion_modules"):
                x = _moved(self.motion_modules[0], x, self.motion_path(0), MID_FEATURE, step)
            return around_module(self.resnets[1], step.remat)(x, step.time), audio

        x, audio = around_layer(run, step.remat)(x, audio)
        return x, audio, module + hasattr(self, "audio_modules")


def _attended(
    attention: SpatialTransformer, x: Array, feature: str, step: _Step, *, mixed_rows: bool
) -> Array:
    def run(x: Array) -> Array:
        cache, part = step.spatial[feature], step.part
        if part is not None and mixed_rows and cache.reference_k is not None:
            return _attended_in_part(attention, x, cache, step, part)
        if part is not None:
            cache = jax.tree.map(part.rows, cache)
        return attention(x, cache, use_reference=step.use_reference, mixed_rows=mixed_rows)[0]

    return around_module(run, step.remat)(x)


def _attended_in_part(
    attention: SpatialTransformer, x: Array, cache: SpatialCache, step: _Step, part: Part
) -> Array:
    """Where rows are mixed over the whole batch, a part of it finds its frames' portraits in the
    others: each frame becomes a sample with the portrait it sees."""
    b, f = x.shape[:2]
    rows = exchange.rows(b, f, first=part.index * b).reshape(-1) % (part.count * b)
    own = SpatialCache(
        *(
            repeat(part.rows(face), "b ... -> (b f) ...", f=f)
            for face in (cache.face_k, cache.face_v)
        ),
        *(
            None if leaf is None else jnp.take(leaf, rows, axis=0, mode="clip")
            for leaf in (cache.reference_k, cache.reference_v)
        ),
    )
    use = step.use_reference
    if use is not None:
        use = np.repeat(use, f) if isinstance(use, np.ndarray) else jnp.repeat(use, f)
    out = attention(rearrange(x, "b f h w c -> (b f) 1 h w c"), own, use_reference=use)[0]
    return rearrange(out, "(b f) 1 h w c -> b f h w c", f=f)


def _moved(module: MotionModule, x: Array, path: str, feature: str, step: _Step) -> Array:
    def run(x: Array) -> Array:
        return module(path, x, step.remembered(module, path, feature), step.part)

    return around_module(run, step.remat)(x)
