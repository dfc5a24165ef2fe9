"""Names of the original single-file checkpoints of Stable Diffusion 1.x and of AnimateDiff.

Their layers are numbered through, so a rule stands for one layer of one configuration, where the
other tables' rules stand for a layer of every level.
"""

from memo_jax.config import MotionAdapterConfig, UNetConfig, VAEConfig
from memo_jax.models.unet import LevelPlan, down_levels, up_levels
from memo_jax.weights.rules import Rule, conv2d, conv2d_1x1, linear, norm, under
from memo_jax.weights.tables.unet import MOTION_MODULE, SPATIAL_BLOCK, transformer

RESNET = (
    *norm("in_layers.0", "norm1"),
    *conv2d("in_layers.2", "conv1"),
    *linear("emb_layers.1", "time_emb_proj"),
    *norm("out_layers.0", "norm2"),
    *conv2d("out_layers.3", "conv2"),
    *conv2d("skip_connection", "conv_shortcut"),
)

VAE_RESNET = (
    *norm("norm1"),
    *conv2d("conv1"),
    *norm("norm2"),
    *conv2d("conv2"),
    *conv2d("nin_shortcut", "conv_shortcut"),
)

VAE_ATTENTION = (
    *norm("norm", "group_norm"),
    *conv2d_1x1("q", "to_q"),
    *conv2d_1x1("k", "to_k"),
    *conv2d_1x1("v", "to_v"),
    *conv2d_1x1("proj_out", "to_out"),
)


def unet_rules(config: UNetConfig) -> tuple[Rule, ...]:
    """Every tensor of the UNet, below `model.diffusion_model` in the file."""
    attention = transformer(config, SPATIAL_BLOCK)
    rules = [
        *conv2d("input_blocks.0.0", "conv_in"),
        *linear("time_embed.0", "time_embedding/linear_1"),
        *linear("time_embed.2", "time_embedding/linear_2"),
        *under("middle_block.0", "mid_block/resnets/0", RESNET),
        *under("middle_block.1", "mid_block/attentions/0", attention),
        *under("middle_block.2", "mid_block/resnets/1", RESNET),
        *norm("out.0", "conv_norm_out"),
        *conv2d("out.2", "conv_out"),
    ]

    def layer(block: str, level: LevelPlan, j: int) -> list[Rule]:
        path = f"{level.side}_blocks/{level.index}"
        found = under(f"{block}.0", f"{path}/resnets/{j}", RESNET)
        if level.attention:
            found += under(f"{block}.1", f"{path}/attentions/{j}", attention)
        return list(found)

    n = 1  # block 0 is conv_in
    for level in down_levels(config):
        for j in range(len(level.layers)):
            rules += layer(f"input_blocks.{n}", level, j)
            n += 1
        if level.resample:
            down = f"down_blocks/{level.index}/downsamplers/0/conv"
            rules += conv2d(f"input_blocks.{n}.0.op", down)
            n += 1
    n = 0
    for level in up_levels(config):
        for j in range(len(level.layers)):
            rules += layer(f"output_blocks.{n}", level, j)
            n += 1
        if level.resample:  # in the block of the level's last layer, after its other parts
            last = f"output_blocks.{n - 1}.{2 if level.attention else 1}.conv"
            rules += conv2d(last, f"up_blocks/{level.index}/upsamplers/0/conv")
    return tuple(rules)


def vae_rules(config: VAEConfig) -> tuple[Rule, ...]:
    """Every tensor of the autoencoder, below `first_stage_model` in a whole checkpoint."""
    rules = [*conv2d_1x1("quant_conv"), *conv2d_1x1("post_quant_conv")]
    levels = len(config.block_out_channels)
    for side, blocks, resample in (
        ("encoder", "down", "downsample"),
        ("decoder", "up", "upsample"),
    ):
        rules += conv2d(f"{side}.conv_in")
        rules += under(f"{side}.mid.block_1", f"{side}/mid_block/resnets/0", VAE_RESNET)
        rules += under(f"{side}.mid.attn_1", f"{side}/mid_block/attentions/0", VAE_ATTENTION)
        rules += under(f"{side}.mid.block_2", f"{side}/mid_block/resnets/1", VAE_RESNET)
        rules += norm(f"{side}.norm_out", f"{side}/conv_norm_out")
        rules += conv2d(f"{side}.conv_out")
        for i in range(levels):
            # The decoder's levels are numbered from the finest, which runs last.
            level = f"{side}.{blocks}.{i if blocks == 'down' else levels - 1 - i}"
            path = f"{side}/{blocks}_blocks/{i}"
            rules += under(f"{level}.block.{{j}}", f"{path}/resnets/{{j}}", VAE_RESNET)
            rules += conv2d(f"{level}.{resample}.conv", f"{path}/{resample}rs/0/conv")
    return tuple(rules)


def motion_rules(config: MotionAdapterConfig) -> tuple[Rule, ...]:
    """Every tensor of AnimateDiff's motion modules, which MEMO's are named after."""
    modules = under("motion_modules.{j}", "motion_modules/{j}", MOTION_MODULE)
    return (
        *under("down_blocks.{i}", "down_blocks/{i}", modules),
        *under("mid_block", "mid_block", modules),
        *under("up_blocks.{i}", "up_blocks/{i}", modules),
    )
