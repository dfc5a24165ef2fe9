"""The emotion-aware audio block against recorded outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx
from golden_case import relative_error

from memo_jax.config import DiffusionNetConfig
from memo_jax.models.audio_attention import (
    NORMS_PER_MODULE,
    AudioBlock,
    AudioModule,
    EmoAdaNorm,
)
from memo_jax.models.diffusion_net import DiffusionNet
from memo_jax.weights.components import to_torch
from memo_jax.weights.tables.unet import AUDIO_BLOCK

EMOTION_ROWS = 10  # nine classes and the null class


@pytest.mark.parametrize("name", ["b_joint_nonfinal", "b_joint_final", "b_joint_single"])
def test_recorded_outputs(name, golden, load, compiled):
    case = golden(name)
    kwargs, batch = case.config["kwargs"], case.config["batch"]
    module = load(
        lambda rngs: AudioBlock(
            kwargs["dim"],
            kwargs["cross_attention_dim"],
            kwargs["num_attention_heads"],
            EMOTION_ROWS,
            final=kwargs["is_final_block"],
            dtype=jnp.float32,
            rngs=rngs,
        ),
        AUDIO_BLOCK,
        case.w(),
    )
    video, audio = (
        rearrange(case.inp(stream), "(b f) n c -> b f n c", b=batch)
        for stream in ("video", "audio")
    )
    run = compiled(module)
    for i in range(len(case.config["emotion_sets"])):
        emotion = case.inp(f"{i}/emotion")
        labels = np.repeat(emotion[:, None], NORMS_PER_MODULE, axis=1)
        got_video, got_audio = run(video, audio, labels)
        unfold = "b f n c -> (b f) n c"
        assert relative_error(rearrange(got_video, unfold), case.out(f"{i}/video")) <= 1e-5
        if kwargs["is_final_block"]:
            assert got_audio is None
        else:
            assert relative_error(rearrange(got_audio, unfold), case.out(f"{i}/audio")) <= 1e-5


def test_a_recorded_emotion_norm(golden, load, compiled):
    """`norm1_alone` was recorded with the labels of the first call."""
    case = golden("b_joint_nonfinal")
    kwargs, batch = case.config["kwargs"], case.config["batch"]
    block = load(
        lambda rngs: AudioBlock(
            kwargs["dim"],
            kwargs["cross_attention_dim"],
            kwargs["num_attention_heads"],
            EMOTION_ROWS,
            dtype=jnp.float32,
            rngs=rngs,
        ),
        AUDIO_BLOCK,
        case.w(),
    )
    video = rearrange(case.inp("video"), "(b f) n c -> b f n c", b=batch)
    got = compiled(block.norm1)(video, case.inp("0/emotion"))
    assert relative_error(rearrange(got, "b f n c -> (b f) n c"), case.out("norm1_alone")) <= 1e-5


def test_before_training_a_norm_tells_emotions_apart():
    """What a step changes in a norm goes by its embedding's size: from rows of 0.02 no training of
    a few thousand steps has made norms that emotions change by more than a tenth."""
    norm = EmoAdaNorm(64, EMOTION_ROWS, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(1, 1, 50, 64)).astype(np.float32)
    same = np.broadcast_to(x, (EMOTION_ROWS, *x.shape[1:]))
    got = np.asarray(norm(same, np.arange(EMOTION_ROWS)))
    assert got.std(axis=0).mean() >= 0.3


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 2, 2, 32), (2, 3, 4, 12)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.fixture(scope="module")
def module(random_module, compiled):
    """`module(joint)`: the compiled module."""

    def module(joint):
        return compiled(
            random_module(
                lambda rngs: AudioModule(
                    width=32,
                    inner=16,
                    audio_dim=12,
                    heads=2,
                    groups=8,
                    emotion_rows=EMOTION_ROWS,
                    joint=joint,
                    dtype=jnp.float32,
                    rngs=rngs,
                )
            )
        )

    return module


@pytest.fixture(scope="module")
def run(module):
    return module(True)


@pytest.fixture(scope="module")
def run_cross(module):
    return module(False)


@pytest.mark.parametrize("norm", range(NORMS_PER_MODULE))
def test_each_norm_follows_its_own_label(run, inputs, norm):
    labels = np.zeros((2, NORMS_PER_MODULE), np.int32)
    other = labels.copy()
    other[1, norm] = 9
    (video, audio), (other_video, other_audio) = run(*inputs, labels), run(*inputs, other)
    assert np.array_equal(video[0], other_video[0]) and np.array_equal(audio[0], other_audio[0])
    assert relative_error(other_video[1], video[1]) > 1e-4
    assert relative_error(other_audio[1], audio[1]) > 1e-4


def test_frames_do_not_mix(run, inputs):
    labels = np.zeros((2, NORMS_PER_MODULE), np.int32)
    video, audio = run(*inputs, labels)
    changed = [x.copy() for x in inputs]
    for x in changed:
        x[:, 1] += 1
    other_video, other_audio = run(*changed, labels)
    for whole, other in ((video, other_video), (audio, other_audio)):
        difference = np.abs(np.asarray(whole) - np.asarray(other))
        assert difference[:, 0].max() == difference[:, 2].max() == 0 < difference[:, 1].max()


def test_cross_attention_reads_the_audio_and_leaves_it(run_cross, inputs):
    labels = np.zeros((2, NORMS_PER_MODULE), np.int32)
    video, audio = run_cross(*inputs, labels)
    assert np.array_equal(audio, inputs[1])
    louder = inputs[1].copy()
    louder[0, 1] *= 2
    other, _ = run_cross(inputs[0], louder, labels)
    difference = np.abs(np.asarray(video) - np.asarray(other)).max(axis=(2, 3, 4))
    assert difference[0, 1] > 1e-4
    difference[0, 1] = 0
    assert not difference.any()


@pytest.mark.parametrize(("norm", "heard"), [(0, True), (1, False), (2, True), (3, False)])
def test_cross_attention_has_the_videos_norms(run_cross, inputs, norm, heard):
    labels = np.zeros((2, NORMS_PER_MODULE), np.int32)
    other = labels.copy()
    other[1, norm] = 9
    (video, _), (other_video, _) = run_cross(*inputs, labels), run_cross(*inputs, other)
    assert np.array_equal(video[0], other_video[0])
    assert (relative_error(other_video[1], video[1]) > 1e-4) == heard


def test_every_parameter_of_cross_attention_has_a_name(random_module):
    unet = {"block_out_channels": (32, 32), "down_attention": (True, False), "num_heads": 2}
    unet |= {"up_attention": (False, True), "layers_per_block": 1, "norm_num_groups": 8}
    config = DiffusionNetConfig(
        **unet, cross_attention_dim=8, audio_attention_dim=8, audio_attention="cross"
    )
    net = random_module(lambda rngs: DiffusionNet(config, rngs=rngs))
    tensors = to_torch("diffusion_net", net)
    assert not any("add_k_proj" in name or "audio_norm" in name for name in tensors)
    assert sum(t.size for t in tensors.values()) == sum(
        leaf.size for leaf in jax.tree.leaves(nnx.state(net))
    )
