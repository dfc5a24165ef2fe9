"""Rule tables of the speech encoders."""

from memo_jax.audio.config import Emotion2VecConfig, Wav2Vec2Config
from memo_jax.weights.rules import Rule, conv1d, linear, norm, under

# Published files keep the encoder below a head, and the positional kernel under its older name.
# Patterns of whole names, applied one after the other.
WAV2VEC2_ALIASES: tuple[tuple[str, str], ...] = (
    (r"wav2vec2\.(.*)", r"\1"),
    (r"(.*)\.conv\.weight_g", r"\1.conv.parametrizations.weight.original0"),
    (r"(.*)\.conv\.weight_v", r"\1.conv.parametrizations.weight.original1"),
)
WAV2VEC2_DROPPED: dict[str, str] = {r"lm_head\..*": "CTC head, unused"}

# funasr's checkpoints keep the encoder below a prefix, beside the head of their own classes.
EMOTION2VEC_ALIASES: tuple[tuple[str, str], ...] = ((r"d2v_model\.(.*)", r"\1"),)
EMOTION2VEC_DROPPED: dict[str, str] = {r"proj\.(weight|bias)": "head; MEMO has a classifier"}


def wav2vec2_rules(config: Wav2Vec2Config) -> tuple[Rule, ...]:
    """Names as transformers writes them with torch 2 (`parametrizations`)."""
    position = "encoder.pos_conv_embed.conv"
    ours = "encoder/pos_conv_embed/conv"
    layer = (
        *linear("attention.q_proj"),
        *linear("attention.k_proj"),
        *linear("attention.v_proj"),
        *linear("attention.out_proj"),
        *norm("layer_norm"),
        *linear("feed_forward.intermediate_dense"),
        *linear("feed_forward.output_dense"),
        *norm("final_layer_norm"),
    )
    return (
        Rule(
            "masked_spec_embed",
            "masked_spec_embed",
            optional="only masked pre-training uses it, and published files leave it out",
        ),
        *conv1d("feature_extractor.conv_layers.{i}.conv", bias=config.conv_bias),
        *norm("feature_extractor.conv_layers.0.layer_norm"),
        *norm("feature_projection.layer_norm"),
        *linear("feature_projection.projection"),
        Rule(f"{position}.bias", f"{ours}/bias"),
        Rule(f"{position}.parametrizations.weight.original0", f"{ours}/magnitude", "1 1 k -> k"),
        Rule(
            f"{position}.parametrizations.weight.original1", f"{ours}/direction", "o i k -> k i o"
        ),
        *norm("encoder.layer_norm"),
        *under("encoder.layers.{i}", "encoder/layers/{i}", layer),
    )


def emotion2vec_rules(config: Emotion2VecConfig) -> tuple[Rule, ...]:
    """Names as funasr writes them. Its decoder serves pre-training alone."""
    block = (
        *norm("norm1"),
        *linear("attn.qkv"),
        *linear("attn.proj"),
        *norm("norm2"),
        *linear("mlp.fc1"),
        *linear("mlp.fc2"),
    )
    absent = "only pre-training decodes, and published checkpoints leave it out"
    decoder = (*conv1d("blocks.{i}.0", "blocks/{i}"), *linear("proj"))
    encoder = (
        Rule("extra_tokens", "extra_tokens", "1 n d -> n d"),
        Rule("alibi_scale", "alibi_scale", "l 1 h 1 1 -> l h"),
        *conv1d("local_encoder.conv_layers.{i}.0", "convs/{i}/conv", bias=False),
        *norm("local_encoder.conv_layers.{i}.2.1", "convs/{i}/norm"),
        *norm("project_features.1", "project/norm"),
        *linear("project_features.2", "project/dense"),
        # PyTorch counts from one here, because the layer before the convolutions is a transpose.
        *(
            rule
            for i in range(config.position_layers)
            for rule in conv1d(f"relative_positional_encoder.{i + 1}.0", f"positions/{i}/conv")
        ),
        *norm("context_encoder.norm", "norm"),
        *under("context_encoder.blocks.{i}", "blocks/{i}", block),
        *(
            Rule(f"decoder.{rule.torch}", f"decoder/{rule.jax}", rule.layout, absent)
            for rule in decoder
        ),
    )
    return (
        *under("modality_encoders.AUDIO", "audio", encoder),
        *under("blocks.{i}", "blocks/{i}", block),
    )
