"""The Reference Net and the Diffusion Net, as the published release names them."""

from memo_jax.config import DiffusionNetConfig, ReferenceNetConfig, UNetConfig
from memo_jax.weights.rules import Rule, conv2d, conv2d_1x1, linear, norm, under

RESNET = (
    *norm("norm1"),
    *conv2d("conv1"),
    *linear("time_emb_proj"),
    *norm("norm2"),
    *conv2d("conv2"),
    *conv2d("conv_shortcut"),
)

FEED_FORWARD = (*linear("net.0.proj", "proj"), *linear("net.2", "out"))

ATTENTION = (
    *linear("to_q", bias=False),
    *linear("to_k", bias=False),
    *linear("to_v", bias=False),
    *linear("to_out.0", "to_out"),
)

SPATIAL_BLOCK = (
    *norm("norm1"),
    *under("attn1", "attn1", ATTENTION),
    *norm("norm2"),
    *under("attn2", "attn2", ATTENTION),
    *norm("norm3"),
    *under("ff", "ff", FEED_FORWARD),
)

EMOTION_NORM = (
    Rule("class_embedder.embedding_table.weight", "embedding/embedding"),
    *linear("adaLN_modulation.1", "modulation"),
)

JOINT_ATTENTION = (
    *ATTENTION,
    *linear("add_q_proj"),
    *linear("add_k_proj"),
    *linear("add_v_proj"),
    *linear("to_add_out"),
)

AUDIO_BLOCK = (
    *under("norm1", "norm1", EMOTION_NORM),
    *under("attn1", "attn1", ATTENTION),
    *under("audio_norm1", "audio_norm1", EMOTION_NORM),
    *under("audio_attn1", "audio_attn1", ATTENTION),
    *under("norm2", "norm2", EMOTION_NORM),
    *under("audio_norm2", "audio_norm2", EMOTION_NORM),
    *under("attn2", "attn2", JOINT_ATTENTION),
    *norm("norm3"),
    *under("ff", "ff", FEED_FORWARD),
    *norm("audio_norm3"),
    *under("audio_ff", "audio_ff", FEED_FORWARD),
)

MOTION_BLOCK = (
    *under("attention_blocks.{k}", "attention_blocks/{k}", ATTENTION),
    Rule("attention_blocks.{k}.pos_encoder.pe", "attention_blocks/{k}/pos_encoder/pe"),
    *norm("norms.{k}", "norms/{k}"),
    *under("ff", "ff", FEED_FORWARD),
    *norm("ff_norm"),
)

MOTION_MODULE = under(
    "temporal_transformer",
    "",
    (
        *norm("norm"),
        *linear("proj_in"),
        *under("transformer_blocks.{b}", "transformer_blocks/{b}", MOTION_BLOCK),
        *linear("proj_out"),
    ),
)


def transformer(config: UNetConfig, block: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """A block between norm and projections, which are 1x1 convolutions unless configured."""
    project = linear if config.use_linear_projection else conv2d_1x1
    return (
        *norm("norm"),
        *project("proj_in"),
        *under("transformer_blocks.0", "transformer_blocks/0", block),
        *project("proj_out"),
    )


def _unet(config: UNetConfig, modules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    layers = (
        *under("resnets.{j}", "resnets/{j}", RESNET),
        *under("attentions.{j}", "attentions/{j}", transformer(config, SPATIAL_BLOCK)),
        *modules,
    )
    down = (*layers, *conv2d("downsamplers.0.conv"))
    up = (*layers, *conv2d("upsamplers.0.conv"))
    return (
        *conv2d("conv_in"),
        *linear("time_embedding.linear_1"),
        *linear("time_embedding.linear_2"),
        *under("down_blocks.{i}", "down_blocks/{i}", down),
        *under("mid_block", "mid_block", layers),
        *under("up_blocks.{i}", "up_blocks/{i}", up),
    )


def reference_net_rules(config: ReferenceNetConfig) -> tuple[Rule, ...]:
    """Every tensor of reference_net."""
    return _unet(config, ())


def diffusion_net_rules(config: DiffusionNetConfig) -> tuple[Rule, ...]:
    """Every tensor of diffusion_net; without audio and motion modules, of Stable Diffusion 1.5's
    UNet as diffusers names it."""
    modules: tuple[Rule, ...] = ()
    if config.audio_modules:
        block = transformer(config, AUDIO_BLOCK)
        modules += under("audio_modules.{j}", "audio_modules/{j}", block)
    if config.motion_resolutions or config.mid_motion:
        modules += under("motion_modules.{j}", "motion_modules/{j}", MOTION_MODULE)
    return (*_unet(config, modules), *norm("conv_norm_out"), *conv2d("conv_out"))
