"""The rule tables of the speech encoders are total, and lose no bit."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from memo_jax.audio.emotion2vec import Emotion2Vec, Emotion2VecConfig
from memo_jax.audio.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from memo_jax.weights.build import abstract, flatten
from memo_jax.weights.rules import ConversionError, export_tensors, import_tensors
from memo_jax.weights.tables import audio

MANIFESTS = Path(__file__).parents[1] / "manifests"
NETS = {
    "wav2vec2_base_960h": (Wav2Vec2Config, Wav2Vec2, audio.wav2vec2_rules),
    "emotion2vec_plus_large": (Emotion2VecConfig, Emotion2Vec, audio.emotion2vec_rules),
}
CASES = {
    "g_wav2vec": ("wav2vec2_config", *NETS["wav2vec2_base_960h"]),
    "m_emotion2vec": ("model_conf", *NETS["emotion2vec_plus_large"]),
}


@pytest.mark.parametrize("name", NETS)
def test_the_published_shapes(name):
    """Strided views of one number stand for tensors: full shapes without the memory."""
    manifest = json.loads((MANIFESTS / f"{name}.json").read_text())
    config_type, module, rules = NETS[name]
    config = config_type.from_torch(manifest["config"])
    _, params = abstract(lambda rngs: module(config, rngs=rngs))
    shapes = {path: leaf.shape for path, leaf in params.items()}
    zero = np.float32(0)
    tensors = {k: np.broadcast_to(zero, v["shape"]) for k, v in manifest["params"].items()}
    imported = import_tensors(name, rules(config), tensors, shapes)
    assert set(imported) == set(shapes)
    assert sum(int(np.prod(s)) for s in shapes.values()) == manifest["n_parameters"]
    for rule in rules(config):
        assert any(rule.jax_name(tensor) for tensor in tensors), f"idle rule {rule.torch}"


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_to_the_bit(name, golden, load):
    case = golden(name)
    key, config_type, module, rules = CASES[name]
    config = config_type.from_torch(case.config[key])
    made = load(lambda rngs: module(config, rngs=rngs), rules(config), case.w())
    back = export_tensors(name, rules(config), flatten(nnx.state(made)))
    assert set(back) == set(case.w())
    for tensor, value in case.w().items():
        assert back[tensor].dtype == value.dtype and np.array_equal(back[tensor], value)


def rename(tensors, aliases, dropped):
    """What the loader does before the rules: whole names, one pattern after the other."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in aliases:
            name = re.sub(f"^(?:{pattern})$", replacement, name)
        if not any(re.fullmatch(pattern, name) for pattern in dropped):
            renamed[name] = tensor
    return renamed


def test_a_checkpoint_of_emotion2vec(golden):
    tensors = {k: v for k, v in golden("m_emotion2vec").w().items() if ".decoder." not in k}
    hub = {f"d2v_model.{name}": tensor for name, tensor in tensors.items()}
    hub |= {"proj.weight": np.zeros((9, 32)), "proj.bias": np.zeros(9)}
    assert (
        rename(hub, audio.EMOTION2VEC_ALIASES, audio.EMOTION2VEC_DROPPED).keys() == tensors.keys()
    )


def test_a_hub_file_of_wav2vec2(golden, load):
    case = golden("g_wav2vec")
    config = Wav2Vec2Config.from_torch(case.config["wav2vec2_config"])
    hub = {"lm_head.weight": np.zeros((32, 32)), "lm_head.bias": np.zeros(32)}
    for name, tensor in case.w().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        if name != "masked_spec_embed":
            hub[f"wav2vec2.{name}"] = tensor
    renamed = rename(hub, audio.WAV2VEC2_ALIASES, audio.WAV2VEC2_DROPPED)
    assert set(renamed) == set(case.w()) - {"masked_spec_embed"}
    load(lambda rngs: Wav2Vec2(config, rngs=rngs), audio.wav2vec2_rules(config), renamed)


def test_what_is_amiss_is_listed(golden, load):
    case = golden("g_wav2vec")
    config = Wav2Vec2Config.from_torch(case.config["wav2vec2_config"])
    tensors = case.w()
    del tensors["encoder.layers.1.attention.q_proj.weight"]
    tensors["encoder.layers.7.attention.q_proj.weight"] = np.zeros((32, 32))
    tensors["encoder.layer_norm.weight"] = np.zeros(31)
    with pytest.raises(ConversionError) as error:
        load(lambda rngs: Wav2Vec2(config, rngs=rngs), audio.wav2vec2_rules(config), tensors)
    told = "\n".join(error.value.problems)
    for name in ("layers.1.attention.q_proj", "layers.7.attention.q_proj", "(31,)"):
        assert name in told
