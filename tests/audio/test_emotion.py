"""Emotion labels: windows, frames, clips, by hand, and the detector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import relative_error
from hypothesis import given
from hypothesis import strategies as st

from memo_jax.audio import emotion
from memo_jax.audio.emotion import EMOTIONS
from memo_jax.audio.emotion2vec import Emotion2Vec, Emotion2VecConfig
from memo_jax.audio.schedule import parse_emotion
from memo_jax.errors import UserError
from memo_jax.weights.build import CountingRngs
from memo_jax.weights.tables.audio import emotion2vec_rules

SR = 16000


def test_the_released_rule(golden):
    case = golden("l_emotion_labels")
    for q, given_ in enumerate(case.config["cases"]):
        n, frames, fps = given_["n_samples"], given_["frames"], given_["fps"]
        spans = emotion.emotion_windows(n)
        assert [s.stop - s.start for s in spans] == case.out(f"{q}/window_lengths").tolist()
        labels = case.inp(f"{q}/window_labels")
        got = emotion.expand_labels(labels, n, frames, fps=fps)
        assert np.array_equal(got, case.out(f"{q}/frame_labels"))


def test_the_released_mode(golden):
    case = golden("l_emotion_labels")
    for name in case.names("in/mode/"):
        labels = case.inp(f"mode/{name}")
        assert emotion.clip_labels(labels, len(labels)).tolist() == [case.out(f"mode/{name}")]


def test_clips_are_counted_one_by_one():
    assert emotion.clip_labels(np.array([1, 1, 0, 2, 3, 3, 5, 5]), 4).tolist() == [1, 3]
    with pytest.raises(ValueError, match="no whole clips"):
        emotion.clip_labels(np.zeros(5, np.int32), 4)


@given(n=st.integers(1, 30 * SR))
def test_every_sample_has_a_label(n):
    spans = emotion.emotion_windows(n)
    end = 0
    for span in spans:
        assert span.start <= span.label_start <= end
        assert span.label_stop <= span.stop <= n and span.stop - span.start <= 3 * SR
        end = max(end, span.label_stop)
    assert end == n


def test_exact_times_follow_the_sound():
    n, fps = 4 * SR, 30
    labels = np.array([5, 6, 7, 8])  # one window for each second
    got = emotion.expand_labels(labels, n, 128, fps=fps, emotion_times="exact")
    assert got.tolist() == [5] * 30 + [6] * 30 + [7] * 30 + [8] * 38
    late = emotion.expand_labels(labels, n, 128, fps=fps)
    assert (late[:30] == 5).all() and late[31] == 5


def test_normalising_as_recorded(golden):
    case = golden("m_emotion2vec")
    got = emotion._normalised(case.inp("0/wav")[0])
    assert relative_error(got, case.inp("0/normed")[0]) < 1e-6


def test_windows_are_normalised_and_batched_by_length():
    samples = np.random.default_rng(0).normal(3.0, 2.0, 12 * SR + 777)
    seen = []

    def classify(heard):
        seen.append(heard.shape)
        assert np.allclose(heard.mean(axis=1), 0, atol=1e-5)
        assert np.allclose(heard.var(axis=1), 1, atol=1e-3)
        # Which second it is: the first sample tells windows apart.
        return jax.nn.one_hot(np.abs(heard[:, 0] * 1000).astype(int) % 9, 9)

    labels = emotion.detect_labels(samples, classify, batch=4)
    spans = emotion.emotion_windows(len(samples))
    assert labels.dtype == np.int32 and len(labels) == len(spans)
    assert sorted(set(seen)) == [(1, 2 * SR + 777), (2, 2 * SR), (4, 3 * SR)]
    again = emotion.detect_labels(samples, classify, batch=1)
    assert np.array_equal(labels, again)


class Judge(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(32, 9, rngs=rngs)

    def __call__(self, x):
        return jax.nn.softmax(self.dense(x) * 30)


@pytest.fixture(scope="module")
def hearing(golden, load):
    case = golden("m_emotion2vec")
    config = Emotion2VecConfig.from_torch(case.config["model_conf"])
    hear = load(lambda rngs: Emotion2Vec(config, rngs=rngs), emotion2vec_rules(config), case.w())
    return hear, Judge(CountingRngs()), config


def test_the_detector_is_its_parts(hearing, golden):
    hear, judge, config = hearing
    detector = emotion.EmotionDetector(hear, judge, shortest=config.shortest)
    case = golden("m_emotion2vec")
    want = judge(jnp.asarray(case.out("0/mean")))
    assert relative_error(detector.probabilities(case.inp("0/normed")), want) < 1e-4


def test_the_detector_hears_less_than_a_second(hearing):
    hear, judge, config = hearing
    detector = emotion.EmotionDetector(hear, judge, shortest=config.shortest)
    labels = detector(np.random.default_rng(0).normal(size=30))
    assert labels.shape == (2,) and labels[0] == labels[1] and 0 <= labels[0] < 9


def test_recordings_of_all_lengths_share_programs(hearing, monkeypatch):
    hear, judge, config = hearing
    shapes = []
    mean = Emotion2Vec.mean

    def traced(self, heard, real):
        shapes.append(heard.shape)
        return mean(self, heard, real)

    monkeypatch.setattr(Emotion2Vec, "mean", traced)
    detector = emotion.EmotionDetector(hear, judge, shortest=config.shortest)
    samples = np.random.default_rng(0).normal(size=4 * SR)
    for n in (2 * SR + 50, 2 * SR + 777, 3 * SR, 3 * SR + 123):
        detector(samples[:n])
    assert sorted(shapes) == [(1, 3 * SR), (2, 2 * SR)]


def test_silence_is_no_sound_to_refuse_but_nothing_is():
    with pytest.raises(UserError, match="empty"):
        emotion.emotion_windows(0)


@pytest.mark.parametrize(("text", "label"), [("happy", 3), (" Sad ", 6), ("3", 3), ("0", 0)])
def test_one_emotion(text, label):
    schedule = parse_emotion(text, EMOTIONS, 2.0)
    assert schedule.complete
    assert schedule.labels(5, 30).tolist() == [label] * 5


def test_stretches_of_time():
    schedule = parse_emotion("1-:happy, 0-1:sad", EMOTIONS, 2.0)
    assert schedule.complete
    # Frames that fill the last clip keep the last emotion.
    assert schedule.labels(10, 4).tolist() == [6] * 4 + [3] * 6


def test_gaps_are_the_detectors_or_neutral():
    schedule = parse_emotion("0.5-1:happy", EMOTIONS, 2.0)
    assert not schedule.complete
    assert schedule.labels(8, 4).tolist() == [4, 4, 3, 3, 4, 4, 4, 4]
    assert schedule.labels(8, 4, np.arange(8)).tolist() == [0, 1, 3, 3, 4, 5, 6, 7]


def test_a_stretch_to_just_the_end_is_complete_with_frames_after_it():
    schedule = parse_emotion("0-2:happy", EMOTIONS, 2.0)
    assert schedule.complete
    assert schedule.labels(12, 4).tolist() == [3] * 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hapy", "no emotion 'hapy'; did you mean 'happy'\\? expected one of angry, disgusted"),
        ("9", "number from 0 to 8"),
        ("", "expected one of angry"),
        ("0-2:happy,1-3:sad", "0-2 and 1-3 overlap"),
        ("0-:happy,1-:sad", "overlap"),
        ("2-1:happy", "ends before it starts"),
        ("5-:happy", "lasts 4 s"),
        ("0-2", "no emotion"),
        ("a-b:happy", "not understood; expected a name"),
        ("0-.:happy", "not understood"),
        ("0-2:joyful", "no emotion 'joyful'"),
    ],
)
def test_mistakes_are_told_in_one_line(text, message):
    with pytest.raises(UserError, match=message) as error:
        parse_emotion(text, EMOTIONS, 4.0)
    assert "\n" not in str(error.value)


@given(cuts=st.lists(st.integers(1, 99), unique=True, min_size=1, max_size=6), data=st.data())
def test_stretches_that_meet_are_complete_and_each_frame_has_its_own(cuts, data):
    edges = [0, *sorted(cuts), 100]
    chosen = [data.draw(st.sampled_from(EMOTIONS)) for _ in edges[1:]]
    parts = [f"{a / 10}-{b / 10}:{e}" for a, b, e in zip(edges, edges[1:], chosen, strict=False)]
    order = data.draw(st.permutations(parts))
    schedule = parse_emotion(",".join(order), EMOTIONS, 10.0)
    assert schedule.complete
    want = [
        EMOTIONS.index(e)
        for a, b, e in zip(edges, edges[1:], chosen, strict=False)
        for _ in range(a, b)
    ]
    assert schedule.labels(100, 10).tolist() == want
