"""A model with wav2vec2 and an emotion detector: its features are those that generation hears."""

import dataclasses

import numpy as np
import pytest
from small_model import (
    CLASSIFIER,
    SAMPLER,
    WAV2VEC2,
    emotion2vec,
    quick_compilation,
    random_module,
    small_model,
)
from tfrecord import writing
from tfrecord.writing import FPS, MAP

from memo_jax.data.clip import BFLOAT16
from memo_jax.data.record import decode
from memo_jax.data.store import Store
from memo_jax.pipeline.hearing import Ear
from memo_jax.weights.folder import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config, detector = emotion2vec()
    classifier = dataclasses.replace(CLASSIFIER, in_features=config.width)
    made = small_model(
        log_mel=None,
        wav2vec2=(WAV2VEC2, random_module("wav2vec2", WAV2VEC2)),
        emotion2vec=(config, detector),
        emotion_classifier=(classifier, random_module("emotion_classifier", classifier)),
    )
    folder = tmp_path_factory.mktemp("model") / "small"
    write_model(folder, made)
    with quick_compilation():
        yield made, folder


def test_features_and_emotions_are_those_that_generation_hears(model, command, tmp_path):
    made, folder = model
    unlabelled = {name: field for name, field in MAP.items() if name != "emotion"}
    writing.write(tmp_path / "a.tfrecord", [writing.example(writing.clip(k)) for k in range(2)])
    command("--model", folder, record_map=unlabelled)
    ear = Ear(made, None)
    for k, record in enumerate([*map(Store(command.output).__getitem__, range(2))]):
        clip = decode(record)
        samples = writing.tone(k, 20 / FPS) / np.float32(32768)
        heard = ear((samples, 16000), dataclasses.replace(SAMPLER, fps=FPS))
        assert clip.audio.dtype == BFLOAT16
        np.testing.assert_allclose(
            clip.audio.astype(np.float32), heard.hidden[:20], atol=1e-4, rtol=2**-8
        )  # bfloat16 rounds to 8 bits
        labels = np.repeat(heard.emotions, SAMPLER.clip_frames)
        np.testing.assert_array_equal(clip.emotion, labels[:20])
        assert clip.clip_emotion == ""


def test_without_a_label_or_a_detector_the_emotion_is_unknown(command, tmp_path):
    unlabelled = {name: field for name, field in MAP.items() if name != "emotion"}
    writing.write(tmp_path / "a.tfrecord", [writing.example(writing.clip(0))])
    command(record_map=unlabelled)
    clip = decode(Store(command.output)[0])
    assert {clip.emotions[i] for i in clip.emotion} == {"unknown"}
    assert clip.clip_emotion == ""
