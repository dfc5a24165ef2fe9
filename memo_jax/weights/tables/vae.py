"""AutoencoderKL, as diffusers names it."""

from memo_jax.weights.rules import Rule, conv2d, conv2d_1x1, linear, norm, under

RESNET = (
    *norm("norm1"),
    *conv2d("conv1"),
    *norm("norm2"),
    *conv2d("conv2"),
    *conv2d("conv_shortcut"),
)

ATTENTION = (
    *norm("group_norm"),
    *linear("to_q"),
    *linear("to_k"),
    *linear("to_v"),
    *linear("to_out.0", "to_out"),
)


def _side(name: str, blocks: str, resample: str) -> tuple[Rule, ...]:
    level = f"{blocks}.{{i}}"
    path = f"{blocks}/{{i}}"
    return under(
        name,
        name,
        (
            *conv2d("conv_in"),
            *under(f"{level}.resnets.{{j}}", f"{path}/resnets/{{j}}", RESNET),
            *conv2d(f"{level}.{resample}.0.conv", f"{path}/{resample}/0/conv"),
            *under("mid_block.resnets.{j}", "mid_block/resnets/{j}", RESNET),
            *under("mid_block.attentions.0", "mid_block/attentions/0", ATTENTION),
            *norm("conv_norm_out"),
            *conv2d("conv_out"),
        ),
    )


RULES = (
    *_side("encoder", "down_blocks", "downsamplers"),
    *_side("decoder", "up_blocks", "upsamplers"),
    *conv2d_1x1("quant_conv"),
    *conv2d_1x1("post_quant_conv"),
)

# Checkpoints older than diffusers 0.15 name the middle attention otherwise.
ALIASES = (
    (r"(.*mid_block\.attentions\.0)\.query\.(.*)", r"\1.to_q.\2"),
    (r"(.*mid_block\.attentions\.0)\.key\.(.*)", r"\1.to_k.\2"),
    (r"(.*mid_block\.attentions\.0)\.value\.(.*)", r"\1.to_v.\2"),
    (r"(.*mid_block\.attentions\.0)\.proj_attn\.(.*)", r"\1.to_out.0.\2"),
)
