"""Videos side by side are the pipeline's; variants differ from it by what they say."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from small_model import quick_compilation
from sounds import tone

from memo_jax.errors import UserError
from memo_jax.evaluate.together import Together, with_motion
from memo_jax.pipeline import Pipeline
from memo_jax.weights.build import flatten

SOUND = tone(1.0, 16000).astype(np.float32)  # 25 frames: a clip and a part of one


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def sampler(tiny):
    return dataclasses.replace(tiny.spec.sampler, steps=1)


@pytest.fixture(scope="module")
def portraits():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def alone(tiny, sampler, portraits):
    clips = Together(tiny, sampler)(portraits[:1], [SOUND], ["sad"], seed=5)
    return np.concatenate(list(clips), axis=1)


def test_one_alone_is_the_pipelines(tiny, sampler, portraits, alone):
    pipe = Pipeline(tiny, sampler=sampler)
    video = pipe(portraits[0], (SOUND, 16000), seed=5, emotion="sad", crop="none")
    assert alone.shape == (1, 25, 64, 64, 3)
    difference = np.abs(alone[0].astype(int) - video.frames)
    assert difference.max() <= 1  # a byte that two programs round to two sides


def test_lengths_must_agree(tiny, sampler, portraits):
    together = Together(tiny, sampler)
    with pytest.raises(ValueError, match="lengths"):
        next(together(portraits, [SOUND, SOUND[:8000]], ["sad", "sad"], seed=0))


def test_other_motion_same_weights(tiny):
    net = tiny.modules["diffusion_net"]
    other = with_motion(net, {"decay": 0.5})
    assert other.config.motion.decay == 0.5 and net.config.motion.decay == 0.9
    theirs = flatten(nnx.state(other))
    for place, value in flatten(nnx.state(net)).items():
        assert np.array_equal(theirs[place], value)


def test_motion_that_needs_other_weights_is_told(tiny):
    with pytest.raises(UserError, match="other weights"):
        with_motion(tiny.modules["diffusion_net"], {"attentions_per_block": 1})


def test_models_that_know_faces_otherwise_are_told(tiny):
    model = dataclasses.replace(tiny, spec=dataclasses.replace(tiny.spec, identity="arcface"))
    with pytest.raises(UserError, match="expected a model of puppets"):
        Together(model)
