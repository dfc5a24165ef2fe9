"""What a model hears and sees: by its own front end, its detector or labels, its faces."""

import numpy as np
import pytest
from small_model import CLASSIFIER, WAV2VEC2, emotion2vec, random_module, small_model

from memo_jax.audio.emotion import EMOTIONS, EmotionDetector, expand_labels
from memo_jax.audio.logmel import log_mel
from memo_jax.audio.timing import normalise
from memo_jax.audio.wav2vec2 import Wav2Vec2
from memo_jax.data.clip import BFLOAT16
from memo_jax.errors import UserError
from memo_jax.io.boxes import Face
from memo_jax.pipeline.scene import pixel_identity
from memo_jax.prepare import embed
from memo_jax.prepare.embed import Embedder, Span
from memo_jax.weights.folder import write_model


@pytest.fixture(scope="module")
def model():
    """One that hears as the release does."""
    return small_model(
        log_mel=None,
        wav2vec2=(WAV2VEC2, random_module("wav2vec2", WAV2VEC2)),
        emotion2vec=emotion2vec(),
        emotion_classifier=(CLASSIFIER, random_module("emotion_classifier", CLASSIFIER, seed=1)),
    )


@pytest.fixture(scope="module")
def listener(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "small"
    write_model(folder, model)
    return Embedder(str(folder))


@pytest.fixture(scope="module")
def tiny():
    return Embedder("tiny")


@pytest.fixture(scope="module")
def speech():
    rng = np.random.default_rng(5)
    t = np.arange(48000) / 16000
    return (0.3 * np.sin(900 * t) * (t < 1) + 0.1 * rng.normal(size=len(t)) * (t > 2)).astype(
        np.float32
    )


def test_wav2vec2_hears_at_the_clips_own_rate(model, listener, speech):
    for fps in (25.0, 30000 / 1001):
        frames = round(3 * fps)
        heard = listener.hear(speech, frames, fps)
        assert heard.dtype == BFLOAT16 and heard.shape == (frames, 3, 8)
        whole = model.modules["wav2vec2"](normalise(speech)[None], frames)
        wanted = np.swapaxes(np.asarray(whole[0]), 0, 1).astype(BFLOAT16)
        assert np.array_equal(heard, wanted) or np.allclose(
            heard.astype(np.float32), wanted.astype(np.float32), atol=2e-2
        )


def test_clips_of_many_lengths_share_a_program(model, speech, monkeypatch):
    module = model.modules["wav2vec2"]
    shapes = []
    call = Wav2Vec2.__call__

    def traced(self, samples, frames, real=None):
        shapes.append((samples.shape, frames))
        return call(self, samples, frames, real)

    encode = embed._encoder(module)
    monkeypatch.setattr(Wav2Vec2, "__call__", traced)
    lengths = (51, 60, 66, 75)
    heard = [encode(normalise(speech[: n * 640]), n) for n in lengths]
    assert shapes == [((1, 48000), 75)]
    monkeypatch.undo()
    for n, got in zip(lengths, heard, strict=True):
        alone = np.swapaxes(np.asarray(module(normalise(speech[: n * 640])[None], n)[0]), 0, 1)
        assert got.shape == alone.shape
        assert np.abs(got - alone).max() < 1e-4 * np.abs(alone).max()


def test_tiny_hears_log_mel(tiny, speech):
    heard = tiny.hear(speech, 75, 25.0)
    assert np.array_equal(heard, log_mel(speech, 75, 25.0).astype(BFLOAT16))
    assert tiny.audio_features.startswith("log-mel: 4 moments of 32 bands")


def test_the_detector_labels_every_second(model, listener, speech):
    detector = EmotionDetector(
        model.modules["emotion2vec"],
        model.modules["emotion_classifier"],
        shortest=model.spec.parts["emotion2vec"].config.shortest,
    )
    wanted = expand_labels(detector(speech), len(speech), 75, fps=25.0, emotion_times="exact")
    assert listener.feel(speech, 75, 25.0, "happy", ()).tolist() == wanted.tolist()


def test_without_a_detector_the_corpus_labels_or_nobody_does(tiny, speech):
    happy, unknown = EMOTIONS.index("happy"), EMOTIONS.index("unknown")
    assert set(tiny.feel(speech, 75, 25.0, "happy", ()).tolist()) == {happy}
    assert set(tiny.feel(speech, 75, 25.0, "", ()).tolist()) == {unknown}
    felt = tiny.feel(speech, 75, 25.0, "", [Span(-1.0, 1.0, "happy"), Span(2.0, 9.0, "")])
    assert felt.tolist() == [happy] * 25 + [unknown] * 50


def test_faces_are_pixels_or_arcface_or_zeros(listener, tiny):
    rng = np.random.default_rng(0)
    crop, picture = (rng.integers(0, 255, (s, s, 3), np.uint8) for s in (64, 96))
    face = Face((1, 2, 3, 4), 1.0, np.ones((5, 2), np.float32))
    seen = tiny.face(crop, picture, face)
    assert np.array_equal(seen, pixel_identity(crop, len(seen)))
    assert not listener.face(crop, picture, face).any()
    assert any("face embeddings are zeros" in note for note in listener.notes)
    assert not any("face" in note for note in tiny.notes)


def test_arcface_sees_the_picture_where_there_are_face_models(model, listener, monkeypatch):
    class Models:
        finder = object()

        def __init__(self, folder):
            self.embedder = self

        def embed(self, picture, face):
            return np.full(16, picture.shape[0] + face.box[0], np.float32)

    monkeypatch.setattr(listener, "_faces", Models(None))
    crop, picture = np.zeros((64, 64, 3), np.uint8), np.zeros((96, 96, 3), np.uint8)
    seen = Face((1, 2, 3, 4), 1.0, np.ones((5, 2), np.float32))
    assert listener.face(crop, picture, seen)[0] == 97
    # ArcFace goes by landmarks: a head found without them is looked into by the face finder.
    head, marks = Face((20, 20, 40, 40), 1.0), np.ones((5, 2), np.float32)
    finds = [Face((0, 0, 30, 30), 1.0, marks), Face((30, 30, 9, 9), 1.0)]
    monkeypatch.setattr(listener, "finder", Found(finds))
    assert not listener.face(crop, picture, head).any()
    finds.append(Face((32, 30, 8, 8), 1.0, marks))
    assert listener.face(crop, picture, head)[0] == 96 + 32


class Found:
    def __init__(self, faces):
        self.faces = faces

    def find(self, image):
        return self.faces


def test_vocals_are_separated_at_their_own_rate(monkeypatch, speech):
    class Separator:
        def __init__(self, path):
            pass

        def __call__(self, samples):
            assert samples.shape[0] == 2
            return 0.5 * samples

    monkeypatch.setattr(embed, "VocalSeparator", Separator)
    ear = Embedder("tiny", vocals="voice.onnx")
    assert ear.sound_rate == 44100
    wide = np.repeat(speech, 3)[:88200]
    voice, plain = ear.voice(wide, 44100), ear.plain(wide, 44100)
    assert len(voice) == 32000 and np.allclose(voice, 0.5 * plain, atol=1e-6)


def test_a_models_own_separator_and_faces_are_taken(model, tmp_path, monkeypatch):
    folder = tmp_path / "small"
    write_model(folder, model)
    for name in ("vocal_separator/voice.onnx", "face_analysis/models/x.onnx"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"")
    asked = []
    monkeypatch.setattr(embed, "VocalSeparator", asked.append)
    monkeypatch.setattr(embed, "FaceModels", _finding(asked))
    Embedder(str(folder))
    own = [str(folder / "vocal_separator/voice.onnx"), folder / "face_analysis"]
    assert asked == own
    Embedder(str(folder), vocals="off", face_models="mine")
    assert [str(path) for path in asked[2:]] == ["mine"]


def _finding(asked):
    class Models:
        finder = embedder = None

        def __init__(self, folder):
            asked.append(folder)

    return Models


def test_a_model_that_cannot_hear_is_refused(tmp_path):
    write_model(tmp_path / "deaf", small_model(log_mel=None))
    with pytest.raises(UserError, match="neither wav2vec2 nor log_mel"):
        Embedder(str(tmp_path / "deaf"))
