"""Hearing with the networks: wav2vec2, the emotion detector, the vocal separator."""

import numpy as np
import pytest
from small_model import CLASSIFIER, LOG_MEL, WAV2VEC2, emotion2vec, random_module, small_model

from memo_jax.audio.emotion import EmotionDetector, clip_labels, expand_labels
from memo_jax.audio.timing import normalise
from memo_jax.errors import UserError
from memo_jax.pipeline import Pipeline


@pytest.fixture(scope="module")
def listening():
    """A model that hears as the release does."""
    return small_model(
        log_mel=None,
        wav2vec2=(WAV2VEC2, random_module("wav2vec2", WAV2VEC2)),
        emotion2vec=emotion2vec(),
        emotion_classifier=(CLASSIFIER, random_module("emotion_classifier", CLASSIFIER, seed=1)),
    )


@pytest.fixture(scope="module")
def listener(listening):
    return Pipeline(listening)


@pytest.fixture(scope="module")
def speech():
    """2.6 s whose seconds differ."""
    rng = np.random.default_rng(5)
    t = np.arange(41600) / 16000
    loud = 0.2 + 0.15 * np.sin(2 * np.pi * 2 * t)
    voice = np.sin(2 * np.pi * 150 * t) * (t < 1) + rng.normal(size=len(t)) * (t > 1.7)
    return (loud * voice).clip(-1, 1).astype(np.float32), 16000


@pytest.fixture(scope="module")
def heard(listener, speech):
    return listener.hear(speech)


def test_wav2vec2_hears(listener, listening, speech, heard):
    assert heard.frames == 65 and heard.clips == 17
    assert heard.hidden.shape == (68, 3, 8)
    assert np.isfinite(heard.hidden).all()
    assert heard.windows(16, 5).shape == (4, 5, 3, 8)
    padded = np.pad(normalise(speech[0]), (0, 68 * 640 - 41600))
    direct = listening.modules["wav2vec2"](padded[None], 68)
    assert np.allclose(heard.hidden, np.moveaxis(np.asarray(direct[0]), 0, 1), atol=1e-4)


def test_labels_come_from_the_detector(listening, speech, heard):
    detector = EmotionDetector(
        listening.modules["emotion2vec"], listening.modules["emotion_classifier"], shortest=60
    )
    labels = expand_labels(detector(speech[0]), 41600, 68, fps=25, emotion_times="exact")
    assert heard.emotions.tolist() == clip_labels(labels, 4).tolist()
    assert not any("detector" in note for note in heard.notes)


def test_labels_of_every_second_reach_their_clips(listener, speech, monkeypatch):
    """2.6 s are heard in three windows, which label 1 s, to 1.6 s, and the last second."""
    monkeypatch.setattr(listener._ear, "_detector", lambda samples: np.array([1, 6, 3], np.int32))
    emotions = listener.hear(speech).emotions.tolist()
    assert emotions[:6] == [1] * 6 and emotions[7:10] == [6] * 3 and emotions[10:] == [3] * 7
    part = listener.hear(speech, emotion="1-:happy").emotions.tolist()
    assert part[:6] == [1] * 6 and part[7:] == [3] * 10
    monkeypatch.setattr(listener._ear, "_detector", None)
    assert set(listener.hear(speech, emotion="1-2:happy").emotions) == {3, 4}


def test_given_emotions_need_no_detector(listener, speech, monkeypatch):
    def never(samples):
        raise AssertionError

    monkeypatch.setattr(listener._ear, "_detector", never)
    assert set(listener.hear(speech, emotion="sad").emotions) == {6}
    assert set(listener.hear(speech, emotion="0-1:sad,1-9:angry").emotions) == {0, 6}


def test_without_a_separator(listener, speech):
    with pytest.raises(UserError, match="separator's ONNX file"):
        listener.hear(speech, vocals="on")
    assert "no vocal separator" in listener.hear(speech).notes[0]
    assert listener.hear(speech, vocals="off").notes == ()


def write_separator(path, scale):
    """An MDX network of the published shape that multiplies."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    shape = ("b", 4, 3072, 16)
    name = helper.make_tensor("scale", TensorProto.FLOAT, [], [scale])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("input", "output")]
    node = helper.make_node("Mul", ["input", "scale"], ["output"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [name])
    path.parent.mkdir(parents=True)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


@pytest.mark.parametrize("place", ["vocal_separator", "misc/vocal_separator"])
def test_a_separator_that_changes_nothing(tmp_path, tone, place):
    write_separator(tmp_path / place / "same.onnx", 1.0)
    pipe = Pipeline(small_model(folder=tmp_path))
    sound = tone(1.3)
    on, auto, off = (pipe.hear(sound, vocals=v) for v in ("on", "auto", "off"))
    assert np.array_equal(on.hidden, auto.hidden)
    assert on.frames == off.frames == 33
    # Bands that hold the tone; in the others the separator's own noise shows. 0.2 is 4 dB.
    loud = off.hidden > 0
    assert loud.sum() > 50 and np.abs(on.hidden - off.hidden)[loud].max() < 0.2


def test_the_separator_is_asked(tmp_path, tone):
    write_separator(tmp_path / "vocal_separator" / "silent.onnx", 0.0)
    pipe = Pipeline(small_model(folder=tmp_path))
    silence = np.float32((LOG_MEL.floor - LOG_MEL.centre) / LOG_MEL.scale)
    assert (pipe.hear(tone(0.3)).hidden == silence).all()
    assert (pipe.hear(tone(0.3), vocals="off").hidden > -1).any()
