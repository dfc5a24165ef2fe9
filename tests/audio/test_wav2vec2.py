"""wav2vec2 against recorded outputs, and its ways through long recordings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import relative_error

from memo_jax.audio import layers, timing, wav2vec2_convs
from memo_jax.audio.lengths import padded
from memo_jax.audio.wav2vec2 import Real, Wav2Vec2, Wav2Vec2Config
from memo_jax.errors import UserError
from memo_jax.weights.build import CountingRngs, abstract
from memo_jax.weights.tables.audio import wav2vec2_rules


@pytest.fixture(scope="module")
def case(golden):
    return golden("g_wav2vec")


@pytest.fixture(scope="module")
def config(case):
    return Wav2Vec2Config.from_torch(case.config["wav2vec2_config"])


@pytest.fixture(scope="module")
def module(case, config, load):
    return load(lambda rngs: Wav2Vec2(config, rngs=rngs), wav2vec2_rules(config), case.w())


def test_every_hidden_state(case, module, compiled):
    samples, frames = case.inp("direct/1/input_values"), case.config["seq_lens"][1]
    with jax.numpy_dtype_promotion("strict"):
        call = compiled(module, lambda m, x: (m.features(x, frames), m.hidden_states(x, frames)))
        features, states = call(samples)
    wanted = case.out("direct/1/conv_features_interpolated")
    assert relative_error(features, wanted) < 1e-5
    for j, state in enumerate(states):
        assert relative_error(state, case.out(f"direct/1/hidden_{j}")) < 1e-5


def test_the_whole_embedding(case, module, compiled):
    samples, frames = timing.prepare(case.inp("speech"), 30, 16)
    assert frames == case.out("audio_length")
    run = compiled(module, lambda m, x: m(x, frames))
    hidden = jnp.moveaxis(run(samples[None])[0], 0, 1)
    assert relative_error(hidden, case.out("emb_nowindow")) < 1e-4
    assert relative_error(timing.windows(hidden), case.out("audio_emb")) < 1e-4


def test_every_hidden_state_where_rows_do_not_mix(case, module, compiled):
    forwards = case.inp("direct/0/input_values")
    samples = np.concatenate([forwards, forwards[:, ::-1]])
    states = compiled(module, lambda m, x: m.hidden_states(x, 23))(samples)
    for j, state in enumerate(states):
        assert relative_error(state[:1], case.out(f"direct/0/hidden_{j}")) < 1e-5
    assert relative_error(states[-1][1:], np.asarray(states[-1][:1])) > 1e-3


def test_long_recordings_go_in_pieces(module, compiled, monkeypatch):
    samples = np.random.default_rng(0).normal(size=(2, 40000)).astype(np.float32)
    whole = compiled(module, lambda m, x: m(x, 150))(samples)
    monkeypatch.setattr(wav2vec2_convs, "STEPS_AT_ONCE", 17)
    monkeypatch.setattr(layers, "SCORES_AT_ONCE", 150 * 13)
    monkeypatch.setattr(layers, "FEWEST_QUERIES", 4)
    pieces = compiled(module, lambda m, x: m(x, 150))(samples)
    assert relative_error(pieces, np.asarray(whole)) < 1e-5


@pytest.mark.parametrize("n", [17 * 320 + 79, 17 * 320 + 80, 34 * 320])
def test_pieces_join_at_every_length(module, compiled, monkeypatch, n):
    samples = np.random.default_rng(n).normal(size=(1, n)).astype(np.float32)
    whole = compiled(module.feature_extractor)(samples)
    monkeypatch.setattr(wav2vec2_convs, "STEPS_AT_ONCE", 17)
    pieces = compiled(module.feature_extractor)(samples)
    assert relative_error(pieces, np.asarray(whole)) < 1e-5


def wide(rows, samples, frames):
    """Recordings in rows of one length; what is beyond them is loud, and must not be heard."""
    noise = np.random.default_rng(1).normal(0, 9, (len(rows), samples)).astype(np.float32)
    for row, own in zip(noise, rows, strict=True):
        row[: len(own)] = own
    lengths = [len(row) for row in rows]
    return noise, Real(np.array(lengths, np.int32), np.array(frames, np.int32))


@pytest.mark.parametrize("pieces", [False, True])
def test_padded_rows_are_heard_as_they_are_alone(case, module, compiled, monkeypatch, pieces):
    if pieces:
        monkeypatch.setattr(wav2vec2_convs, "STEPS_AT_ONCE", 17)
        monkeypatch.setattr(layers, "SCORES_AT_ONCE", 97 * 13)
        monkeypatch.setattr(layers, "FEWEST_QUERIES", 4)
    (long,), frames = case.inp("direct/1/input_values"), case.config["seq_lens"][1]
    short = long[:-3217]
    samples, real = wide([long, short], len(long) + 9001, [frames, frames - 6])

    def hear(m, given):
        x, real = given
        return m.features(x, 97, real), m.hidden_states(x, 97, real)

    with jax.numpy_dtype_promotion("strict"):
        features, states = compiled(module, hear)((samples, real))
    wanted = case.out("direct/1/conv_features_interpolated")
    assert relative_error(features[:1, :frames], wanted) < 1e-5
    for j, state in enumerate(states):
        assert relative_error(state[:1, :frames], case.out(f"direct/1/hidden_{j}")) < 1e-5
    alone = compiled(module, lambda m, x: m.hidden_states(x, frames - 6))(short[None])
    for state, own in zip(states, alone, strict=True):
        assert relative_error(state[1:, : frames - 6], np.asarray(own)) < 1e-5


def test_the_whole_embedding_padded(case, module, compiled):
    samples, frames = timing.prepare(case.inp("speech"), 30, 16)
    n, room = padded(len(samples), frames)
    assert n > len(samples) and room > frames
    given, real = wide([samples], n, [frames])
    run = compiled(module, lambda m, given: m(given[0], room, given[1]))
    hidden = jnp.moveaxis(run((given, real))[0, :, :frames], 0, 1)
    assert relative_error(hidden, case.out("emb_nowindow")) < 1e-4


def test_more_than_whole_numbers_hold_is_not_padded(module):
    real = Real(np.array([400], np.int32), np.array([1], np.int32))
    with pytest.raises(ValueError, match="too many to be padded"):
        module.features(np.broadcast_to(np.float32(0), (1, 320 * 47000)), 46000, real)


def test_bfloat16_multiplies_and_stays_near(case, config, module, compiled):
    graphdef, _ = abstract(lambda rngs: Wav2Vec2(config, dtype=jnp.bfloat16, rngs=rngs))
    half = nnx.merge(graphdef, nnx.state(module))
    with jax.numpy_dtype_promotion("strict"):
        run = compiled(half, lambda m, x: m.hidden_states(x, 40)[-1])
        got = run(case.inp("direct/1/input_values"))
    assert got.dtype == jnp.bfloat16
    assert relative_error(got, case.out("direct/1/last")) < 0.05


def test_every_leaf_is_a_param(config):
    module = nnx.eval_shape(lambda: Wav2Vec2(config, rngs=CountingRngs()))
    leaves = [leaf for _, leaf in nnx.to_flat_state(nnx.state(module))]
    assert leaves and all(isinstance(leaf, nnx.Param) for leaf in leaves)
    assert all(leaf.get_value().dtype == jnp.float32 for leaf in leaves)


def test_a_fresh_module_is_sane(config):
    convs = {"conv_channels": (16,), "conv_kernels": (10,), "conv_strides": (5,)}
    small = dataclasses.replace(config, layers=1, **convs)
    make = jax.jit(lambda x: Wav2Vec2(small, rngs=CountingRngs())(x, 3))
    got = make(np.ones((1, 800), np.float32))
    assert got.shape == (1, 1, 3, 32) and bool(jnp.isfinite(got).all())


def test_too_short_a_recording(module):
    with pytest.raises(UserError, match=r"399 samples.*at least 400"):
        module(jnp.zeros((1, 399)), 1)


@pytest.mark.parametrize(
    "field",
    [{"do_stable_layer_norm": True}, {"feat_extract_norm": "layer"}, {"hidden_act": "relu"}],
)
def test_other_variants_are_refused(field):
    with pytest.raises(UserError, match=next(iter(field))):
        Wav2Vec2Config.from_torch(field)


def test_fields_of_training_are_ignored_and_configs_survive_json(config):
    assert Wav2Vec2Config.from_torch({"layerdrop": 0.3, "vocab_size": 7}) == Wav2Vec2Config()
    assert Wav2Vec2Config.from_dict(config.to_dict()) == config


def test_widths_must_divide():
    with pytest.raises(UserError, match="768 is no multiple of heads 7"):
        Wav2Vec2Config(heads=7)
