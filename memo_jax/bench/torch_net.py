"""The published Diffusion Net in plain PyTorch, run the way it is published: what we compare with.

Functions of PyTorch's tensors by their published names, after METHOD.md and the notes on what the
release computes; nothing of it is shared with our networks, so that it also judges them. Run its
own way means: the null branch's self-attention is first computed with the portrait's tokens and
then again without; the portrait's and the face's keys and values are projected for every frame and
step; the past frames' queries, keys and values are projected at every step, and memory made again.
Better than published: frames lie folded into the batch throughout, so no convolution copies its
input, and attention is `scaled_dot_product_attention`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from einops import rearrange

from memo_jax.config import DiffusionNetConfig

Tensor = Any

# {manifest path of an attention: (sums of keys and values [n, d, d], sums of keys [n, 1, d])}
Memory = dict[str, tuple[Tensor, Tensor]]

_WRAPPER_EPS = 1e-6
_MOTION_GROUPS = 32
_MIN_NORMALISER = 1e-10


@dataclass
class _Given:
    """What every layer of one call is given; `remembered` fills up as motion modules run."""

    frames: int
    time: Tensor
    features: Mapping[str, Tensor]
    faces: Tensor
    emotion: Tensor
    memory: Memory | None
    blind: Tensor | None
    remembered: Memory = field(default_factory=dict)


class PublishedNet:
    """The network over these weights.

    Args:
      config: with the release's switches, as `DiffusionNetConfig.from_torch` sets them.
      weights: PyTorch name -> array in PyTorch's layout (reference/manifests/diffusion_net.json).

    Raises:
      ValueError: a config that the release cannot run.
    """

    def __init__(self, config: DiffusionNetConfig, weights: Mapping[str, np.ndarray]):
        import torch

        motion = config.motion
        if (motion.memory_decay, motion.key_activation) != ("released", "frames"):
            raise ValueError(f"the release fades and activates otherwise than {motion}")
        if not (config.audio_modules and config.norm_per_frame and motion.norm_per_frame):
            raise ValueError("the release has audio modules and group norms of single frames")
        if config.reference_rows != "mixed":
            raise ValueError("the release mixes samples' portraits: reference_rows is mixed")
        if config.audio_attention != "joint" or motion.attention != "linear":
            raise ValueError("the release attends jointly to audio, and linearly over frames")
        self.torch, self.functional = torch, torch.nn.functional
        self.config = config
        self.weights = tensors(weights)

    def __call__(
        self,
        latents: Tensor,
        timesteps: Tensor,
        features: Mapping[str, Tensor],
        faces: Tensor,
        audio: Tensor,
        emotion: Tensor,
        memory: Memory | None = None,
        use_reference: Tensor | None = None,
    ) -> tuple[Tensor, Memory]:
        """The velocity [b, c, f, h, w], and the memory after the past frames.

        Args:
          latents: [b, c, f, h, w].
          timesteps: [b], 1000 * sigma.
          features: the Reference Net's by name: tokens [b*(1+p), s, c], maps [b*(1+p), c, h, w].
          faces: [b, t, c]. audio: [b, f, m, c]. emotion: [b].
          memory: what the clip before left; None is nothing.
          use_reference: [b], which samples attend to their portrait; None means all.
        """
        config, frames = self.config, latents.shape[2]
        code = self._timestep_code(timesteps)
        time = self._linear(
            "time_embedding.linear_2",
            self.functional.silu(self._linear("time_embedding.linear_1", code)),
        )
        given = _Given(
            frames=frames,
            time=time.repeat_interleave(frames, 0),
            features=features,
            faces=faces.repeat_interleave(frames, 0),
            emotion=emotion.repeat_interleave(frames, 0),
            memory=memory,
            blind=None if use_reference is None else (~use_reference).repeat_interleave(frames, 0),
        )
        x = self._conv("conv_in", rearrange(latents, "b c f h w -> (b f) c h w"))
        sound = rearrange(audio, "b f m c -> (b f) m c")

        skips, levels = [x], len(config.block_out_channels)
        for i in range(levels):
            name = f"down_blocks.{i}"
            for j in range(config.layers_per_block):
                x, sound = self._layer(name, j, x, sound, config.down_attention[i], 2**i, given)
                skips.append(x)
            if i + 1 < levels:
                x = self._conv(f"{name}.downsamplers.0.conv", x, stride=2)
                skips.append(x)
        x = self._resnet("mid_block.resnets.0", x, given)
        x, sound = self._modules("mid_block", 0, x, sound, True, config.mid_motion, given)
        x = self._resnet("mid_block.resnets.1", x, given)
        for i in range(levels):
            name, scale = f"up_blocks.{i}", 2 ** (levels - 1 - i)
            for j in range(config.layers_per_block + 1):
                x = self.torch.cat([x, skips.pop()], 1)
                x, sound = self._layer(name, j, x, sound, config.up_attention[i], scale, given)
            if i + 1 < levels:
                x = self.functional.interpolate(x, size=skips[-1].shape[2:], mode="nearest")
                x = self._conv(f"{name}.upsamplers.0.conv", x)
        x = self.functional.silu(self._group_norm("conv_norm_out", x, config.norm_eps))
        return rearrange(self._conv("conv_out", x), "(b f) c h w -> b c f h w", f=frames), (
            given.remembered
        )

    def _layer(
        self,
        name: str,
        j: int,
        x: Tensor,
        sound: Tensor,
        attention: bool,
        scale: int,
        given: _Given,
    ) -> tuple[Tensor, Tensor]:
        x = self._resnet(f"{name}.resnets.{j}", x, given)
        moves = scale in self.config.motion_resolutions
        return self._modules(name, j, x, sound, attention, moves, given)

    def _modules(
        self,
        name: str,
        j: int,
        x: Tensor,
        sound: Tensor,
        attention: bool,
        moves: bool,
        given: _Given,
    ) -> tuple[Tensor, Tensor]:
        side, _, index = name.partition("_")[0], *name.rpartition(".")[1:]
        feature = f"{side}.{index if side != 'mid' else 0}.{j}"
        if attention:
            x = self._spatial(f"{name}.attentions.{j}", x, f"{feature}.tokens", given)
            x, sound = self._audio(f"{name}.audio_modules.{j}", x, sound, given)
        if moves:
            past = given.features[f"{feature}.{'tokens' if attention else 'map'}"]
            past = rearrange(past, "n s c -> n c s") if attention else past.flatten(2)
            x = self._motion(f"{name}.motion_modules.{j}.temporal_transformer", x, past, given)
        return x, sound

    def _resnet(self, name: str, x: Tensor, given: _Given) -> Tensor:
        silu, eps = self.functional.silu, self.config.norm_eps
        h = self._conv(f"{name}.conv1", silu(self._group_norm(f"{name}.norm1", x, eps)))
        h = h + self._linear(f"{name}.time_emb_proj", silu(given.time))[:, :, None, None]
        h = self._conv(f"{name}.conv2", silu(self._group_norm(f"{name}.norm2", h, eps)))
        if f"{name}.conv_shortcut.weight" in self.weights:
            x = self._conv(f"{name}.conv_shortcut", x)
        return x + h

    def _spatial(self, name: str, x: Tensor, feature: str, given: _Given) -> Tensor:
        h, block = self._enter(name, x), f"{name}.transformer_blocks.0"
        own = self._layer_norm(f"{block}.norm1", h)
        portraits = rearrange(
            given.features[feature], "(b n) s c -> b n s c", b=len(h) // given.frames
        )[:, 0]
        row = self.torch.arange(len(h))
        seen = portraits[row % len(portraits)]  # as released: not the frame's own sample's
        out = self._attention(f"{block}.attn1", own, self.torch.cat([own, seen], 1))
        if given.blind is not None:  # computed above, and here once more
            out[given.blind] = self._attention(f"{block}.attn1", own[given.blind], own[given.blind])
        h = h + out
        asks = self._layer_norm(f"{block}.norm2", h)
        h = h + self._attention(f"{block}.attn2", asks, given.faces)
        h = h + self._feed_forward(f"{block}.ff", self._layer_norm(f"{block}.norm3", h))
        return self._leave(name, h, x)

    def _audio(self, name: str, x: Tensor, sound: Tensor, given: _Given) -> tuple[Tensor, Tensor]:
        h, block = self._enter(name, x), f"{name}.transformer_blocks.0"

        def felt(norm: str, tokens: Tensor) -> Tensor:
            return self._emotion_norm(f"{block}.{norm}", tokens, given.emotion)

        own = felt("norm1", h)
        h = h + self._attention(f"{block}.attn1", own, own)
        own = felt("audio_norm1", sound)
        a = sound + self._attention(f"{block}.audio_attn1", own, own)
        joint_h, joint_a = self._joint(f"{block}.attn2", felt("norm2", h), felt("audio_norm2", a))
        h = h + joint_h
        h = h + self._feed_forward(f"{block}.ff", self._layer_norm(f"{block}.norm3", h))
        if joint_a is not None:
            a = a + joint_a
            audio = self._layer_norm(f"{block}.audio_norm3", a)
            sound = a + self._feed_forward(f"{block}.audio_ff", audio) + sound
        return self._leave(name, h, x), sound

    def _joint(self, name: str, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor | None]:
        q, k, v = (
            self.torch.cat(
                [
                    self._linear(f"{name}.to_{each}", video),
                    self._linear(f"{name}.add_{each}_proj", audio),
                ],
                1,
            )
            for each in "qkv"
        )
        out, pixels = self._attend(q, k, v), video.shape[1]
        video = self._linear(f"{name}.to_out.0", out[:, :pixels])
        if f"{name}.to_add_out.weight" not in self.weights:
            return video, None
        return video, self._linear(f"{name}.to_add_out", out[:, pixels:])

    def _emotion_norm(self, name: str, x: Tensor, emotion: Tensor) -> Tensor:
        felt = self.weights[f"{name}.class_embedder.embedding_table.weight"][emotion]
        vector = self._linear(f"{name}.adaLN_modulation.1", self.functional.silu(felt))
        shift, scale = vector[:, None].chunk(2, -1)
        return self.functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift

    def _motion(self, name: str, x: Tensor, past: Tensor, given: _Given) -> Tensor:
        """`past`: features [b*(1+p), c, s], of which the portrait's are not used."""
        b, frames = len(x) // given.frames, given.frames
        images = len(past) // b

        def enter(rows: Tensor, n: int) -> Tensor:
            normed = self._group_norm(f"{name}.norm", rows, _WRAPPER_EPS, _MOTION_GROUPS)
            tokens = self._linear(f"{name}.proj_in", normed.transpose(1, 2))
            return rearrange(tokens, "(b n) s c -> (b s) n c", n=n)

        only = past.unflatten(0, (b, images))[:, 1:].flatten(0, 1)
        h, before = enter(x.flatten(2), frames), enter(only, images - 1)
        for i in range(self.config.motion.num_blocks):
            block = f"{name}.transformer_blocks.{i}"
            for k in range(self.config.motion.attentions_per_block):
                norm = f"{block}.norms.{k}"
                h = h + self._over_frames(
                    f"{block}.attention_blocks.{k}",
                    self._layer_norm(norm, h),
                    self._layer_norm(norm, before),
                    given,
                )
            h = h + self._feed_forward(f"{block}.ff", self._layer_norm(f"{block}.ff_norm", h))
        tokens = rearrange(h, "(b s) f c -> (b f) s c", b=b)
        out = self._linear(f"{name}.proj_out", tokens).transpose(1, 2)
        return x + out.reshape(x.shape)

    def _over_frames(self, name: str, now: Tensor, past: Tensor, given: _Given) -> Tensor:
        """Linear attention of [positions, f, c] to itself and the memory of [positions, p, c]."""
        config, (f, p) = self.config.motion, (now.shape[1], past.shape[1])
        d = now.shape[2] // config.num_heads
        if config.position_code:
            now = now + self.weights[f"{name}.pos_encoder.pe"][:, :f]
        # All frames are projected together; of the past ones' queries nothing is read.
        both = self.torch.cat([now, past], 1)
        q, k, v = (
            rearrange(
                self._linear(f"{name}.to_{each}", both),
                "s f (heads d) -> (s heads) f d",
                heads=config.num_heads,
            )
            for each in "qkv"
        )
        q = q[:, :f].softmax(-1) * d**-0.5
        past_k, past_v, k, v = k[:, f:].softmax(1), v[:, f:], k[:, :f].softmax(1), v[:, :f]

        fade = config.decay ** self.torch.arange(p - 1, -1, -1, dtype=now.dtype)[:, None]
        faded = past_k * fade
        kv, z = faded.transpose(1, 2) @ (past_v * fade), faded.sum(1, keepdim=True)
        if given.memory is not None:
            old_kv, old_z = given.memory[name]
            kv, z = config.decay**p * old_kv + kv, config.decay**p * old_z + z
        given.remembered[name] = kv, z

        kv = config.decay * kv + k.transpose(1, 2) @ v
        z = config.decay * z + k.sum(1, keepdim=True)
        y = (q @ kv) / (q @ z.transpose(1, 2)).clamp(min=_MIN_NORMALISER)
        merged = rearrange(y, "(s heads) f d -> s f (heads d)", heads=config.num_heads)
        return self._linear(f"{name}.to_out.0", merged)

    def _attention(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        q = self._linear(f"{name}.to_q", x)
        k, v = (self._linear(f"{name}.to_{each}", context) for each in "kv")
        return self._linear(f"{name}.to_out.0", self._attend(q, k, v))

    def _attend(self, *qkv: Tensor) -> Tensor:
        heads = self.config.num_heads
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv)
        out = self.functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).flatten(2)

    def _feed_forward(self, name: str, x: Tensor) -> Tensor:
        value, gate = self._linear(f"{name}.net.0.proj", x).chunk(2, -1)
        return self._linear(f"{name}.net.2", value * self.functional.gelu(gate))

    def _enter(self, name: str, x: Tensor) -> Tensor:
        """Maps [n, c, h, w] as tokens, normalised and projected."""
        normed = self._group_norm(f"{name}.norm", x, _WRAPPER_EPS)
        if self.config.use_linear_projection:
            return self._linear(f"{name}.proj_in", normed.flatten(2).transpose(1, 2))
        return self._conv(f"{name}.proj_in", normed).flatten(2).transpose(1, 2)

    def _leave(self, name: str, tokens: Tensor, x: Tensor) -> Tensor:
        """Tokens as maps again, projected, on top of `x`."""
        if self.config.use_linear_projection:
            tokens = self._linear(f"{name}.proj_out", tokens)
            return x + tokens.transpose(1, 2).reshape(x.shape)
        maps = tokens.transpose(1, 2).unflatten(2, tuple(x.shape[2:]))
        return x + self._conv(f"{name}.proj_out", maps)

    def _timestep_code(self, timesteps: Tensor) -> Tensor:
        half = self.config.block_out_channels[0] // 2
        exponent = -np.log(10000.0) / (half - self.config.freq_shift)
        angles = timesteps[:, None] * self.torch.exp(self.torch.arange(half) * exponent)
        pair = [angles.cos(), angles.sin()]
        return self.torch.cat(pair if self.config.flip_sin_to_cos else pair[::-1], -1)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return self.functional.linear(
            x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        )

    def _conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        return self.functional.conv2d(
            x, weight, self.weights[f"{name}.bias"], stride, padding=weight.shape[-1] // 2
        )

    def _group_norm(self, name: str, x: Tensor, eps: float, groups: int | None = None) -> Tensor:
        return self.functional.group_norm(
            x,
            groups or self.config.norm_num_groups,
            self.weights[f"{name}.weight"],
            self.weights[f"{name}.bias"],
            eps,
        )

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return self.functional.layer_norm(x, x.shape[-1:], weight, bias)


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays for PyTorch, each in one piece; copied only where they are not, or are read-only."""
    import torch

    return {name: torch.from_numpy(np.require(a, None, ["C", "W"])) for name, a in arrays.items()}
