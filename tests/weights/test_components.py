"""Every component: published names covered exactly once, and weights there and back to the bit."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from memo_jax.errors import UserError
from memo_jax.weights import load_torch, to_torch
from memo_jax.weights.build import flatten
from memo_jax.weights.components import COMPONENTS, assemble, component
from memo_jax.weights.rules import ConversionError, export_tensors, import_tensors

MANIFESTS = Path(__file__).parents[1] / "manifests"
RELEASED = {
    "vae": "vae_sd_vae_ft_mse",
    "reference_net": "reference_net",
    "diffusion_net": "diffusion_net",
    "image_proj": "image_proj",
    "audio_proj": "audio_proj",
    "emotion_classifier": "audio_emotion_classifier",
    "wav2vec2": "wav2vec2_base_960h",
    "emotion2vec": "emotion2vec_plus_large",
    "unet": "unet_sd15",
    "motion_adapter": "motion_adapter_v1_5_2",
}
# What has no recorded case, as PyTorch configures it; tests/torch_parity runs its own classes.
SMALL = {
    "unet": {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "cross_attention_dim": 12,
        "norm_num_groups": 8,
    },
    "motion_adapter": {
        "block_out_channels": (32, 64),
        "motion_layers_per_block": 1,
        "motion_num_attention_heads": 2,
        "motion_max_seq_length": 6,
        "use_motion_mid_block": True,
    },
}
# Tables say what a layer may have; these layers of the released networks do not have it.
IDLE = ("mid_block.resnets.{j}.conv_shortcut",)  # both sides of a middle are equally wide


def manifest_of(name):
    return json.loads((MANIFESTS / f"{RELEASED[name]}.json").read_text())


def small(name):
    """A small config of PyTorch's, and zeros under its names."""
    part = component(name)
    config = part.config.from_torch(SMALL[name])
    _, params = part.abstract(config)
    zeros = {path: np.zeros(leaf.shape, np.float32) for path, leaf in params.items()}
    return SMALL[name], export_tensors(name, part.rules(config), zeros)


def test_every_component_and_every_manifest_is_here():
    assert set(RELEASED) == set(COMPONENTS)
    assert set(RELEASED.values()) == {path.stem for path in MANIFESTS.glob("*.json")}


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_names_and_shapes(name):
    """Views of one zero stand for the tensors: full shapes without the memory."""
    manifest, part = manifest_of(name), component(name)
    config = part.config.from_torch(manifest["config"])
    _, params = part.abstract(config)
    shapes = {path: leaf.shape for path, leaf in params.items()}
    rules = part.rules(config)
    zero = np.zeros((), np.float32)
    tensors = {k: np.broadcast_to(zero, v["shape"]) for k, v in manifest["params"].items()}
    assert len(tensors) == manifest["n_tensors"]

    assert set(import_tensors(name, rules, tensors, shapes)) == set(shapes)
    paths, values = [], 0
    for tensor in tensors:
        hits = [rule for rule in rules if rule.jax_name(tensor)]
        assert len(hits) == 1 or all(rule.shared for rule in hits), tensor
        paths += [rule.jax_name(tensor) for rule in hits]
        values += int(np.prod(shapes[paths[-1]]))
    assert len(set(paths)) == len(paths) == len(shapes)
    assert values == manifest["n_values_state_dict"]
    idle = [rule.torch for rule in rules if not any(rule.jax_name(t) for t in tensors)]
    assert all(name.rsplit(".", 1)[0].endswith(IDLE) for name in idle)


@pytest.mark.parametrize("name", RELEASED)
def test_there_and_back_to_the_bit(name, recorded):
    config, weights = small(name) if name in SMALL else recorded(name)
    rng = np.random.default_rng(0)
    tensors = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in weights.items()}
    back = to_torch(name, load_torch(name, config, tensors))
    assert set(back) == set(tensors)
    for key, value in tensors.items():
        assert back[key].dtype == value.dtype and np.array_equal(back[key], value), key


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_files_come_back_as_they_were(dtype, recorded):
    config, weights = recorded("image_proj")
    tensors = {name: value.astype(dtype) for name, value in weights.items()}
    back = to_torch("image_proj", load_torch("image_proj", config, tensors))
    for name, value in tensors.items():
        assert back[name].dtype == value.dtype and np.array_equal(back[name], value)


def test_a_hub_file_of_wav2vec2(recorded):
    """Below a prefix, beside a head that is not ours, the position kernel under older names."""
    config, weights = recorded("wav2vec2")
    hub = {"lm_head.weight": np.zeros((32, 32)), "lm_head.bias": np.zeros(32)}
    for name, tensor in weights.items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        hub["wav2vec2." + name.replace("parametrizations.weight.original1", "weight_v")] = tensor
    assert "wav2vec2.encoder.pos_conv_embed.conv.weight_g" in hub
    back = to_torch("wav2vec2", load_torch("wav2vec2", config, hub))
    assert set(back) == set(weights)
    assert all(np.array_equal(back[name], value) for name, value in weights.items())


def test_a_hub_file_of_an_older_autoencoder(recorded):
    config, weights = recorded("vae")
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    hub = {}
    for name, tensor in weights.items():
        for new, old in older.items():
            name = name.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{old}.")
        hub[name] = tensor
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in hub
    back = to_torch("vae", load_torch("vae", config, hub))
    assert all(np.array_equal(back[name], value) for name, value in weights.items())


def test_a_published_file_of_emotion2vec_lacks_the_decoder(recorded):
    config, weights = recorded("emotion2vec")
    encoder = {name: value for name, value in weights.items() if ".decoder." not in name}
    assert len(encoder) < len(weights)
    back = to_torch("emotion2vec", load_torch("emotion2vec", config, encoder))
    assert all(np.array_equal(back[name], value) for name, value in encoder.items())


def test_what_is_amiss_in_a_file_is_told_at_once(recorded):
    config, weights = recorded("diffusion_net")
    del weights["conv_in.bias"]
    weights["conv_out.weight"] = weights["conv_out.weight"][:, :1]
    weights["down_blocks.9.resnets.0.conv1.bias"] = np.zeros(1)
    with pytest.raises(ConversionError, match=r"diffusion_net: 3 problem\(s\)") as error:
        load_torch("diffusion_net", config, weights)
    for name in ("conv_in.bias", "conv_out.weight", "down_blocks.9.resnets.0.conv1.bias"):
        assert name in str(error.value)


def test_a_component_by_another_name():
    with pytest.raises(UserError, match="no component 'unets'; expected one of vae, reference_net"):
        component("unets")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "gelu"}, "diffusion_net: act_fn='gelu' is not supported, expected 'silu'"),
        ({"center_input_sample": True}, "center_input_sample=True is not supported"),
        ({"norm_num_groups": 7}, "32 channels do not divide into norm_num_groups=7"),
    ],
)
def test_a_config_we_do_not_implement(recorded, change, message):
    config, weights = recorded("diffusion_net")
    with pytest.raises(UserError, match=message):
        load_torch("diffusion_net", {**config, **change}, weights)


def test_a_config_that_lacks_a_field(recorded):
    config, weights = recorded("diffusion_net")
    del config["block_out_channels"]
    with pytest.raises(UserError, match="block_out_channels"):
        load_torch("diffusion_net", config, weights)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("unet", {"attention_head_dim": (2, 4)}, "attention_head_dim=.2, 4. is not supported"),
        ("unet", {"addition_embed_type": "text"}, "unet: addition_embed_type='text'"),
        ("unet", {"down_block_types": ("AttnDownBlock2D",)}, "unet: down_block_types="),
        ("unet", {"time_embedding_type": "fourier"}, "expected 'positional'"),
        ("motion_adapter", {"conv_in_channels": 9}, "motion_adapter: conv_in_channels=9"),
        ("motion_adapter", {"motion_norm_num_groups": 16}, "motion_norm_num_groups=16"),
        ("motion_adapter", {"motion_layers_per_block": (1, 2)}, "expected one for all levels"),
        (
            "motion_adapter",
            {"motion_transformer_layers_per_mid_block": 2},
            "motion_transformer_layers_per_mid_block=2 is not supported, expected 1",
        ),
    ],
)
def test_stable_diffusions_of_another_kind(name, change, message):
    config, weights = small(name)
    with pytest.raises(UserError, match=message):
        load_torch(name, {**config, **change}, weights)


def test_levels_may_list_what_is_the_same_for_all():
    config, weights = small("motion_adapter")
    blocks = {"motion_transformer_layers_per_block": [[1], [1]], "motion_layers_per_block": [1, 1]}
    listed = load_torch("motion_adapter", {**config, **blocks}, weights)
    assert listed.config == load_torch("motion_adapter", config, weights).config


@pytest.mark.parametrize("name", SMALL)
def test_configs_survive_json(name):
    kind = component(name).config
    config = kind.from_torch(SMALL[name])
    assert kind.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_position_code_that_attentions_no_longer_share_does_not_go_back():
    """PyTorch has one for both attentions of a block."""
    module = load_torch("motion_adapter", *small("motion_adapter"))
    graphdef, state = nnx.split(module)
    values = flatten(state)
    code = "mid_block/motion_modules/0/transformer_blocks/0/attention_blocks/{}/pos_encoder/pe"
    values[code.format(1)] += 1
    with pytest.raises(ConversionError, match=r"(?s)mid_block.*pos_embed\.pe.*pos_encoder/pe"):
        to_torch("motion_adapter", assemble(graphdef, values))
    values[code.format(0)] += 1
    back = to_torch("motion_adapter", assemble(graphdef, values))
    assert np.all(back["mid_block.motion_modules.0.transformer_blocks.0.pos_embed.pe"] == 1)
