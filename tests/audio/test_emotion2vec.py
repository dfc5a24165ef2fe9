"""emotion2vec against recorded outputs, and the reading of its configuration."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import relative_error

from memo_jax.audio.config import parse_convs
from memo_jax.audio.emotion2vec import Emotion2Vec, Emotion2VecConfig, alibi_slopes
from memo_jax.errors import UserError
from memo_jax.weights.build import CountingRngs
from memo_jax.weights.tables.audio import emotion2vec_rules


@pytest.fixture(scope="module")
def case(golden):
    return golden("m_emotion2vec")


@pytest.fixture(scope="module")
def config(case):
    return Emotion2VecConfig.from_torch(case.config["model_conf"])


def make(config):
    return lambda rngs: Emotion2Vec(config, rngs=rngs)


@pytest.fixture(scope="module")
def module(case, config, load):
    return load(make(config), emotion2vec_rules(config), case.w())


@pytest.mark.parametrize("i", [0, 1])
def test_features(case, module, compiled, i):
    with jax.numpy_dtype_promotion("strict"):
        got = compiled(module)(case.inp(f"{i}/normed"))
    assert relative_error(got, case.out(f"{i}/x")) < 1e-4
    assert relative_error(got.mean(axis=1), case.out(f"{i}/mean")) < 1e-4


@pytest.mark.parametrize("i", [0, 1])
def test_padded_rows_are_heard_as_they_are_alone(case, module, compiled, i):
    own = case.inp(f"{i}/normed")
    wide = np.random.default_rng(0).normal(0, 9, (2, own.shape[1] + 777)).astype(np.float32)
    wide[0, : own.shape[1]] = own[0]
    wide[1, :500] = own[0, :500]
    given = (wide, np.array([own.shape[1], 500], np.int32))
    with jax.numpy_dtype_promotion("strict"):
        got, mean = compiled(module, lambda m, x: (m(*x), m.mean(*x)))(given)
    steps = case.out(f"{i}/x").shape[1]
    assert relative_error(got[:1, :steps], case.out(f"{i}/x")) < 1e-4
    assert relative_error(mean[:1], case.out(f"{i}/mean")) < 1e-4
    alone = np.asarray(compiled(module)(own[:, :500]))
    assert relative_error(got[1:, : alone.shape[1]], alone) < 1e-4
    assert relative_error(mean[1:], alone.mean(axis=1)) < 1e-4
    deaf = np.asarray(compiled(module)(wide))[:1, :steps]
    assert relative_error(deaf, case.out(f"{i}/x")) > 1e-2


def test_the_decoder_may_be_missing_and_changes_nothing(case, config, load, module, compiled):
    tensors = {k: v for k, v in case.w().items() if ".decoder." not in k}
    assert len(tensors) < len(case.w())
    without = load(make(config), emotion2vec_rules(config), tensors)
    samples = case.inp("0/normed")
    assert np.array_equal(compiled(without)(samples), compiled(module)(samples))


def test_every_leaf_is_a_param(config):
    leaves = nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: make(config)(CountingRngs()))))
    assert leaves and all(isinstance(leaf, nnx.Param) for _, leaf in leaves)


def test_a_scale_for_each_layer(case, load, compiled):
    conf = json.loads(json.dumps(case.config["model_conf"]))
    conf["modalities"]["audio"]["learned_alibi_scale_per_layer"] = True
    config = Emotion2VecConfig.from_torch(conf)
    tensors = case.w()
    name = "modality_encoders.AUDIO.alibi_scale"
    tensors[name] = np.concatenate([tensors[name]] * 3)
    same = load(make(config), emotion2vec_rules(config), tensors)
    assert relative_error(compiled(same)(case.inp("0/normed")), case.out("0/x")) < 1e-4
    tensors[name][2] *= 2
    other = load(make(config), emotion2vec_rules(config), tensors)
    assert relative_error(compiled(other)(case.inp("0/normed")), case.out("0/x")) > 1e-3


def test_shortest_is_what_gives_one_feature(module, compiled, config):
    assert config.shortest == 60
    assert compiled(module)(np.ones((1, 60), np.float32)).shape == (1, 1, 32)
    with pytest.raises(UserError, match="at least 60"):
        module(jnp.ones((1, 59)))


def test_slopes():
    assert np.allclose(alibi_slopes(8), [2.0**-k for k in range(1, 9)])
    assert len(set(alibi_slopes(12))) == 12


@pytest.mark.parametrize(
    ("text", "convs"),
    [
        ("[(16, 10, 5)]", ((16, 10, 5),)),
        ("[(8,3,2), (8,2,2)] * 2", ((8, 3, 2), (8, 2, 2)) * 2),
        (
            " [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] ",
            ((512, 10, 5), *((512, 3, 2),) * 4, (512, 2, 2)),
        ),
    ],
)
def test_specs_are_read(text, convs):
    assert parse_convs(text) == convs


@pytest.mark.parametrize(
    "text",
    [
        "", "[", "5", "[(1, 2)]", "[(1, 2, 3.0)]", "[(1, 2, -3)]", "[(1,2,3)] - [(1,2,3)]",
        "__import__('os').getcwd()", "[(1,2,3) for _ in range(9)]", "[(True, 1, 1)]",
    ],
)  # fmt: skip
def test_anything_else_is_refused_and_not_run(text):
    with pytest.raises(UserError, match="feature_encoder_spec"):
        parse_convs(text)


@pytest.mark.parametrize(
    ("where", "field", "value"),
    [("", "layer_norm_first", True), ("audio", "extractor_mode", "default")],
)
def test_other_variants_are_refused(case, where, field, value):
    conf = json.loads(json.dumps(case.config["model_conf"]))
    (conf["modalities"]["audio"] if where else conf)[field] = value
    with pytest.raises(UserError, match=field):
        Emotion2VecConfig.from_torch(conf)


def test_a_missing_field_is_named():
    with pytest.raises(UserError, match="modalities is missing"):
        Emotion2VecConfig.from_torch({"depth": 2})


def test_configs_survive_json(config):
    assert Emotion2VecConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
