"""Clips in the schema that training reads, with their truth beside them."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.audio.logmel import LogMelConfig
from memo_jax.config import SamplerConfig
from memo_jax.data.clip import read_frame
from memo_jax.data.loader import Loader
from memo_jax.data.record import decode, encode
from memo_jax.data.store import Store
from memo_jax.data.windows import WindowConfig
from memo_jax.errors import UserError
from memo_jax.io.video import probe
from memo_jax.pipeline.hearing import Ear
from memo_jax.pipeline.scene import pixel_identity
from memo_jax.puppets.__main__ import main
from memo_jax.puppets.clips import FACE, PuppetSet, perform, portrait, records
from memo_jax.puppets.emotion import SHOWN
from memo_jax.puppets.identity import HELD_OUT
from memo_jax.puppets.truth import FIELDS, Truth, attach, truth_of
from memo_jax.puppets.world import render

PLAN = PuppetSet(6, seed=2, seconds=1.0, per_identity=3)


@pytest.fixture(scope="module")
def stored():
    return list(records(PLAN))


def test_any_number_of_processes_makes_the_same_bytes(stored):
    assert list(records(PLAN, workers=2)) == stored
    assert len(set(stored)) == len(stored)


def test_a_clip_does_not_depend_on_how_many_there_are(stored):
    assert PuppetSet(500, seed=2, seconds=1.0, per_identity=3).record(4) == stored[4]
    assert PuppetSet(6, seed=3, seconds=1.0, per_identity=3).record(4) != stored[4]


def test_the_records_pictures_are_those_of_its_truth(stored):
    for record in stored[:2]:
        clip, truth = decode(record), truth_of(record)
        frames = np.stack([read_frame(clip, i) for i in range(clip.frames)])
        np.testing.assert_array_equal(frames, render(truth, 64))
        np.testing.assert_array_equal(clip.emotion, truth.emotion)
        assert clip.identity == f"puppet-{truth.seed}"
        assert clip.clip_emotion == EMOTIONS[truth.emotion[0]]
        assert clip.scores["person"] == truth.seed


def test_a_truth_survives_its_record_and_a_record_its_truth(stored):
    truth = truth_of(stored[0])
    assert FIELDS[:3] == ("opening", "width", "rounding") and len(truth) == 25
    again = Truth.from_array(truth.to_array(), truth.seed)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(again, name), getattr(truth, name))
    twice = attach(stored[0], truth)
    assert truth_of(twice).seed == truth.seed and decode(twice).frames == 25
    with pytest.raises(UserError, match="truth is "):
        Truth.from_array(np.zeros((3, 2)), 0)


def test_a_record_without_truth_is_told(stored):
    with pytest.raises(UserError, match="holds no truth"):
        truth_of(encode(decode(stored[0])))


def test_features_are_those_that_sampling_hears(stored, tmp_path):
    """The record's own sound file, heard as a user's recording is."""
    spec = SimpleNamespace(log_mel=LogMelConfig(), emotions=EMOTIONS, name="tiny")
    ear = Ear(SimpleNamespace(spec=spec, modules={}), None)
    sampler = SamplerConfig(image_size=64, fps=25, audio_padding="exact", emotion_times="exact")
    for i, record in enumerate(stored[:3]):
        clip = decode(record)
        file = tmp_path / f"{i}.flac"
        file.write_bytes(clip.sound)
        hidden = ear(file, sampler, emotion="happy").hidden[: clip.frames]
        assert np.abs(hidden - clip.audio.astype(np.float32)).max() < 0.02  # bfloat16's
        assert clip.audio.shape == (25, 4, 32)
        assert clip.audio_features == LogMelConfig().text


def test_the_face_embedding_is_of_a_portrait_as_in_sampling(stored):
    clip = decode(stored[0])
    own = pixel_identity(read_frame(clip, 0), FACE)
    others = [pixel_identity(read_frame(decode(r), 0), FACE) for r in stored[3:]]
    apart = [np.abs(clip.face - other).mean() for other in others]
    assert np.abs(clip.face - own).mean() < 0.5 * min(apart)
    assert not np.array_equal(clip.face, own)


def test_a_loader_gives_batches_with_references_of_other_emotions(tmp_path):
    wanted = "--clips=6 --seed=2 --seconds=1 --per-identity=3 --workers=1 --shard-size=4 --quiet"
    main([f"--output={tmp_path / 'set'}", *wanted.split()])
    store = Store(tmp_path / "set")
    assert len(store) == 6 and store.layout.emotions == EMOTIONS
    assert store.layout.audio == (4, 32) and store.layout.face == FACE
    config = WindowConfig(frames=16, past_frames=8, decoupled=("puppets",))
    batch = next(Loader(store, config, batch_size=4, seed=0, threads=1, prefetch=1))
    assert batch["frames"].shape == (4, 16, 64, 64, 3)
    assert batch["audio"].shape == (4, 16, 5, 4, 32)
    for record, emotion in zip(batch["record"], batch["emotion"], strict=True):
        assert truth_of(store[int(record)]).emotion[0] == emotion
        own = decode(store[int(record)])
        others = store.others("puppets", own.identity, own.clip_emotion)
        assert len(others) == 2


def test_each_person_shows_every_emotion_before_one_again():
    plan = PuppetSet(24, seed=1)
    for first in (0, 8, 16):
        assert sorted(plan.emotion(first + k) for k in range(8)) == sorted(SHOWN)
        assert len({plan.person(first + k) for k in range(8)}) == 1
    assert len({plan.person(i) for i in range(24)}) == 3


def test_people_and_sounds_held_out_are_in_no_training_set():
    train, held = (
        PuppetSet(80, seed=7, seconds=1.0),
        PuppetSet(80, seed=7, held_out=True, seconds=1.0),
    )
    assert max(PuppetSet(10**6, seed=2**32 - 1).person(i) for i in (0, 10**6 - 1)) < HELD_OUT
    assert min(held.person(i) for i in range(80)) >= HELD_OUT
    one, other = train.take(0).voice, held.take(0).voice
    assert np.abs(np.corrcoef(one, other)[0, 1]) < 0.5


def test_the_truth_stays_in_its_ranges_and_moves_smoothly():
    for i in range(16):
        truth = PuppetSet(16, seed=4).take(i).truth
        for name in ("opening", "width", "rounding", "intensity", "blink"):
            values = getattr(truth, name)
            assert values.min() >= 0 and values.max() <= 1
        for name, most in (("x", 0.015), ("y", 0.015), ("roll", 2.5), ("scale", 0.02)):
            assert np.abs(np.diff(getattr(truth, name))).max() < most, name
        assert np.isfinite(truth.to_array()).all()


def test_a_silent_clip_has_a_closed_mouth():
    take = PuppetSet(1, silent=1.0, beds=1.0).take(0)
    assert not take.truth.opening.any() and np.abs(take.sound).max() > 0


def test_a_portrait_is_awake_and_silent():
    rng = np.random.default_rng(0)
    assert portrait(3, 128, rng, "happy").shape == (128, 128, 3)
    with pytest.raises(UserError, match="no emotion 'glad' of puppets; expected one of angry"):
        perform(3, "glad", np.zeros(16000, np.float32), 25, rng)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --output"),
        (["--output=x", "--preview=y.png"], "give either --output"),
        (["--output=x", "--clips=0"], "0 clips"),
        (["--output=x", "--size=8"], "size 8"),
        (["--output=x", "--seconds=0.2"], "0.2 seconds, expected 1"),
        (["--output=x", "--workers=0"], "0 workers"),
        (["--output=x", "--seed=-1"], "seed -1"),
        (["--output=x", "--beds=2"], "--beds 2, expected 0 to 1"),
    ],
)
def test_the_commands_mistakes_are_told_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        main(arguments)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_previews_are_a_sheet_a_crowd_or_a_talking_video(tmp_path, capsys):
    main([f"--preview={tmp_path / 'sheet.png'}", "--clips=9", "--seconds=1"])
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (13 * 64, (2 + 1 + 2) * 64)  # people, a strip, its sound
    main([f"--preview={tmp_path / 'crowd.png'}", "--clips=30", "--per-identity=1", "--size=32"])
    with Image.open(io.BytesIO((tmp_path / "crowd.png").read_bytes())) as image:
        assert image.size == (20 * 32, 2 * 32)
    main([f"--preview={tmp_path / 'talk.mp4'}", "--seconds=1"])
    info = probe(tmp_path / "talk.mp4")
    assert info.frames == 25 and info.audio_seconds == pytest.approx(1.0, abs=0.05)
    assert capsys.readouterr().out.split()[-1].endswith("talk.mp4")
