"""The shipped readers against the truth of people whom no training set shows."""

import jax
import numpy as np
import pytest
from flax import nnx

from memo_jax.errors import UserError
from memo_jax.puppets.emotion import SHOWN, number
from memo_jax.puppets.identity import HELD_OUT
from memo_jax.puppets.readers import CLASSES, SHIPPED, ReaderNet, Readers, write_readers
from memo_jax.puppets.still import still
from memo_jax.puppets.train_readers.__main__ import main
from memo_jax.puppets.train_readers.fit import FitConfig, draw_people, fit
from memo_jax.puppets.train_readers.frames import blurred, clip_pictures, damaged
from memo_jax.puppets.train_readers.scores import equal_error_rate, r2, scores
from memo_jax.puppets.truth import Truth
from memo_jax.puppets.world import render
from memo_jax.weights import build
from memo_jax.weights.readers.safetensors import open_safetensors

PEOPLE, PER_CLIP = 100, 3


@pytest.fixture(scope="module")
def readers():
    return Readers.load()


@pytest.fixture(scope="module")
def pictures():
    return clip_pictures(PEOPLE, PER_CLIP)


@pytest.fixture(scope="module")
def reached(readers, pictures):
    return scores(readers.read(pictures.frames), pictures)


@pytest.fixture(scope="module")
def reached_damaged(readers, pictures):
    frames = blurred(pictures.frames, 0.7, 0.02, np.random.default_rng(0))
    return scores(readers.read(frames), pictures)


def test_only_people_held_out_are_asked(pictures):
    assert len(pictures) == PEOPLE * len(SHOWN) * PER_CLIP >= 2000
    assert len(np.unique(pictures.person)) == PEOPLE
    assert pictures.person.min() >= HELD_OUT
    assert set(pictures.field("emotion")) == set(CLASSES)
    with pytest.raises(UserError, match="people"):
        FitConfig(people=HELD_OUT + 1)


def test_the_mouths_opening_is_read(reached):
    assert reached.r2["opening"] >= 0.98


@pytest.mark.parametrize("name", ["x", "roll"])
def test_numbers_are_read(reached, reached_damaged, name):
    assert reached.r2[name] >= 0.98
    assert reached_damaged.r2[name] >= 0.98


def test_emotions_are_read(reached, reached_damaged):
    assert reached.emotion >= 0.98
    assert reached_damaged.emotion >= 0.98


def test_identities_are_told_apart(reached, reached_damaged):
    assert reached.identity <= 0.01
    assert reached_damaged.identity <= 0.01


def test_a_person_is_known_before_another_background(readers):
    other = clip_pictures(20, 1, elsewhere=True)
    assert scores(readers.read(other.frames), other).identity <= 0.02


def states(seed: int, emotion: str = "neutral", **columns: np.ndarray) -> Truth:
    """A person at rest but for fields that change from frame to frame."""
    n = len(next(iter(columns.values())))
    rows = [
        still(seed, emotion, values={k: float(v[i]) for k, v in columns.items()}).to_array()[0]
        for i in range(n)
    ]
    return Truth.from_array(np.array(rows), seed)


@pytest.mark.parametrize("field", ["x", "y", "roll", "scale"])
def test_readings_follow_a_sweep(readers, field):
    low, high = {
        "opening": (0, 1),
        "x": (-0.05, 0.05),
        "y": (-0.05, 0.05),
        "roll": (-9, 9),
        "scale": (0.93, 1.07),
    }[field]
    values = np.linspace(low, high, 11)
    for k, emotion in enumerate(SHOWN):
        truth = states(HELD_OUT + 500 + k, emotion, **{field: values})
        read = getattr(readers.read(render(truth, 64)), field)
        assert (np.diff(read) > 0).all(), f"{emotion}: {read}"
        assert abs((read[-1] - read[0]) / (high - low) - 1) < 0.15


def test_a_faint_emotion_is_read_as_fainter(readers):
    for k, emotion in enumerate(("angry", "happy", "sad", "surprised")):
        seed = HELD_OUT + 600 + k
        shown = [render(still(seed, emotion, i), 64)[0] for i in (0.3, 0.6, 1.0)]
        read = readers.read(np.stack(shown))
        assert (np.diff(read.intensity) > 0).all()
        assert read.shown[-1] == number(emotion)


def test_blur_does_not_flip_identity(readers):
    people = range(HELD_OUT + 700, HELD_OUT + 740)
    sharp = np.concatenate([render(still(seed), 64) for seed in people])
    happy = np.concatenate(
        [render(still(seed, "happy", values={"opening": 0.7, "x": 0.03}), 64) for seed in people]
    )
    blurry = blurred(happy, 1.0, 0.02, np.random.default_rng(0))
    likeness = readers.read(blurry).identity @ readers.read(sharp).identity.T
    assert (likeness.argmax(axis=1) == np.arange(len(people))).all()


def test_frames_are_read_one_by_one(readers, pictures):
    some = pictures.frames[:150]
    all_at_once, alone = readers.read(some), readers.read(some[140:])
    np.testing.assert_array_equal(alone.opening, all_at_once.opening[140:])
    np.testing.assert_array_equal(alone.identity, all_at_once.identity[140:])
    np.testing.assert_allclose(all_at_once.emotion.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose((all_at_once.identity**2).sum(axis=1), 1, rtol=1e-5)
    assert len(readers.read(some[:0])) == 0


def test_larger_frames_read_alike(readers):
    truth = states(HELD_OUT + 800, "happy", opening=np.linspace(0, 1, 8))
    small, large = (readers.read(render(truth, size)) for size in (64, 192))
    assert np.abs(small.opening - large.opening).max() < 0.08
    assert ((small.identity * large.identity).sum(axis=1) > 0.9).all()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 64, 64, 3), np.float32), "float32"),
        (np.zeros((64, 64, 3), np.uint8), r"\[64, 64, 3\]"),
        (np.zeros((2, 64, 48, 3), np.uint8), "48x64"),
    ],
)
def test_other_frames_are_refused(readers, frames, message):
    with pytest.raises(UserError, match=message):
        readers.read(frames)


def test_the_shipped_file_is_small_and_plain():
    (file,) = SHIPPED.iterdir()
    assert file.suffix == ".safetensors"
    assert file.stat().st_size < 1_000_000
    with open_safetensors(file) as tensors:
        assert {value.dtype for value in tensors.values()} == {np.dtype(np.float16)}


def test_weights_of_something_else_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no readers\.safetensors"):
        Readers.load(tmp_path)
    write_readers(tmp_path, {"stem/kernel": np.zeros((3, 3, 12, 32))}, {})
    with pytest.raises(UserError, match="other weights"):
        Readers.load(tmp_path)


def test_training_is_a_function_of_its_seed_and_learns():
    config, lines = FitConfig(people=8, together=8, voices=2, steps=40), []
    drawn = [draw_people(config) for _ in range(2)]
    np.testing.assert_array_equal(drawn[0].frames, drawn[1].frames)
    first, again = (fit(pictures, config, tell=lines.append) for pictures in drawn)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)
    assert lines[:2] == lines[2:]
    before, after = (float(line.split("numbers ")[1].split(",")[0]) for line in lines[:2])
    assert after < 0.5 * before
    net = ReaderNet(rngs=build.CountingRngs(jax.random.key(config.seed)))
    start = build.flatten(nnx.state(net))
    assert all(np.any(value != start[name]) for name, value in first.items())
    assert len(Readers.of(first).read(drawn[0].frames)) == 32


def test_the_command_writes_what_loads(tmp_path, capsys):
    folder = tmp_path / "new"
    arguments = ["--people", "24", "--steps", "2", "--held-out", "2", "--quiet"]
    main(["--output", str(folder), *arguments])
    out = capsys.readouterr().out.splitlines()
    assert any(line.startswith("as drawn: R2 opening") for line in out)
    Readers.load(folder)
    with pytest.raises(UserError, match="exists already"):
        main(["--output", str(folder), *arguments])


def test_damage_keeps_a_quarter_and_changes_the_rest(pictures):
    some = pictures.frames[:400]
    hurt = damaged(some, np.random.default_rng(0))
    same = (hurt == some).all(axis=(1, 2, 3)).mean()
    assert 0.2 < same < 0.45
    apart = np.abs(hurt.astype(float) - some).mean()
    assert 2 < apart < 12


def test_scores_of_known_cases():
    true = np.array([0.0, 1.0, 2.0, 3.0])
    assert r2(true, true) == 1
    assert r2(np.full(4, 1.5), true) == 0
    assert equal_error_rate(np.array([0.8, 0.9]), np.array([0.1, 0.2, 0.3])) == 0
    assert equal_error_rate(np.array([0.1, 0.2]), np.array([0.8, 0.9])) == 1
    overlapping = equal_error_rate(np.arange(0.5, 1.5, 0.01), np.arange(0, 1, 0.01))
    assert overlapping == pytest.approx(0.25, abs=0.02)
