"""AnimateDiff's motion modules, as diffusers' MotionAdapter names them."""

from memo_jax.weights.rules import Rule, linear, norm, under
from memo_jax.weights.tables.unet import ATTENTION, FEED_FORWARD

BLOCK = (
    *norm("norm1", "norms/0"),
    *under("attn1", "attention_blocks/0", ATTENTION),
    *norm("norm2", "norms/1"),
    *under("attn2", "attention_blocks/1", ATTENTION),
    *norm("norm3", "ff_norm"),
    *under("ff", "ff", FEED_FORWARD),
    # diffusers has one position code for both attentions of a block.
    Rule("pos_embed.pe", "attention_blocks/0/pos_encoder/pe", shared=True),
    Rule("pos_embed.pe", "attention_blocks/1/pos_encoder/pe", shared=True),
)

MODULE = (
    *norm("norm"),
    *linear("proj_in"),
    *under("transformer_blocks.{b}", "transformer_blocks/{b}", BLOCK),
    *linear("proj_out"),
)

RULES = (
    *under("down_blocks.{i}.motion_modules.{j}", "down_blocks/{i}/motion_modules/{j}", MODULE),
    *under("mid_block.motion_modules.{j}", "mid_block/motion_modules/{j}", MODULE),
    *under("up_blocks.{i}.motion_modules.{j}", "up_blocks/{i}/motion_modules/{j}", MODULE),
)
