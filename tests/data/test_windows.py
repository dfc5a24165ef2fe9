"""Training samples: aligned to the frame, drawn as they should be, and by the generator alone."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from memo_jax.data.clip import BadRecord
from memo_jax.data.windows import WindowConfig, cut
from memo_jax.errors import UserError

PLAIN = WindowConfig(frames=4, past_frames=6, still_past=0, audio_edge=0)
LATENTS = dataclasses.replace(PLAIN, form="latents")
DRAWS = 400


def draw(clip, config, seed, other=lambda rng: None):
    return cut(clip, np.random.default_rng(seed), config, other)


def shown(pictures):
    """The frame each picture is of: its red."""
    assert pictures.dtype == np.uint8 and (pictures[..., 2] == 0).all()
    return pictures[..., 0, 0, 0].astype(int)


def heard(audio):
    """The frame each of the sound's [f, 5] is of."""
    assert audio.dtype == ml_dtypes.bfloat16 and (audio == audio[:, :, :1, :1]).all()
    return audio[:, :, 0, 0].astype(int)


@pytest.fixture(scope="module")
def clip(make_clip):
    return make_clip(9, n=30)


def test_past_frames_and_sound_belong_to_the_window(clip):
    starts = set()
    for seed in range(DRAWS):
        sample = draw(clip, PLAIN, seed)
        frames = shown(sample["frames"])
        start = frames[0]
        starts.add(int(start))
        np.testing.assert_array_equal(frames, start + np.arange(4))
        np.testing.assert_array_equal(
            shown(sample["past"]), np.maximum(start + np.arange(-6, 0), 0)
        )
        around = frames[:, None] + np.arange(-2, 3)
        np.testing.assert_array_equal(heard(sample["audio"]), np.clip(around, 0, 29))
        np.testing.assert_array_equal(sample["face"], clip.face)
        assert shown(sample["reference"][None])[0] not in frames
    assert starts == set(range(27))


def test_latents_are_of_the_same_frames_as_the_pictures(clip):
    for seed in range(20):
        images, latents = draw(clip, PLAIN, seed), draw(clip, LATENTS, seed)
        for name, of in (("latents", "frames"), ("past", "past"), ("reference", "reference")):
            mean, std = latents[f"{name}_mean"], latents[f"{name}_std"]
            assert mean.dtype == std.dtype == np.float32
            wanted = images[of][..., 0, 0, 0].astype(np.float32)
            np.testing.assert_array_equal(mean[..., 1, 1, 3], wanted)
            np.testing.assert_array_equal(std, mean + 0.5)
        assert not set(latents) & {"frames", "past", "reference"}
        np.testing.assert_array_equal(images["audio"], latents["audio"])


def test_every_other_frame_may_be_the_reference(make_clip):
    samples = many(make_clip(n=9), 1000, LATENTS)
    seen = {(int(s["latents_mean"].flat[0]), int(s["reference_mean"].flat[0])) for s in samples}
    assert seen == {(a, b) for a in range(6) for b in range(9) if not a <= b < a + 4}


def many(clip, count, config=PLAIN, other=lambda rng: None):
    rng = np.random.default_rng(1)
    return [cut(clip, rng, config, other) for _ in range(count)]


def test_a_clip_as_long_as_the_window_is_used_whole(make_clip):
    sample = draw(make_clip(n=4), PLAIN, 0)
    assert shown(sample["frames"]).tolist() == [0, 1, 2, 3]
    assert shown(sample["past"]).tolist() == [0] * 6
    assert shown(sample["reference"][None])[0] < 4


def test_still_past_frames_are_the_first_target_frame_one_time_in_twenty(clip):
    config = dataclasses.replace(LATENTS, still_past=0.05)
    samples = many(clip, 4000, config)
    starts = [s["latents_mean"][0, 0, 0, 0] for s in samples]
    still = [
        bool((s["past_mean"] == start).all()) for s, start in zip(samples, starts, strict=True)
    ]
    starts_late = [s for s, start in zip(still, starts, strict=True) if start]
    assert 0.035 < np.mean(starts_late) < 0.065
    always = draw(clip, dataclasses.replace(PLAIN, still_past=1), 3)
    assert set(shown(always["past"])) == {shown(always["frames"])[0]}


@pytest.mark.parametrize("config", [PLAIN, LATENTS])
def test_past_frames_may_be_the_portrait_as_before_a_video(clip, config):
    samples = many(clip, 400, dataclasses.replace(config, portrait_past=0.4))
    name, reference = ("past", "reference") if config is PLAIN else ("past_mean", "reference_mean")
    same = [bool((s[name] == s[reference][None]).all()) for s in samples]
    assert 0.3 < np.mean(same) < 0.5
    # What else is drawn does not change.
    without = many(clip, 400, config)
    for new, old, portrait in zip(samples, without, same, strict=True):
        assert all((new[k] == old[k]).all() for k in new if portrait is False or "past" not in k)


def test_past_frames_may_be_those_before_the_reference_in_the_other_clip(make_clip):
    clip, other = make_clip(1, n=30, corpus="MEAD"), make_clip(2, n=12)
    config = dataclasses.replace(PLAIN, portrait_past=0.3, other_past=0.4)
    samples, without = (many(clip, 400, c, lambda rng: other) for c in (config, PLAIN))
    moved = 0
    for new, old in zip(samples, without, strict=True):
        if (new["past"] == new["reference"][None]).all():
            continue
        if not (new["past"] == old["past"]).all():
            at = shown(new["reference"][None])[0]
            np.testing.assert_array_equal(shown(new["past"]), np.maximum(np.arange(at - 6, at), 0))
            assert (new["past"][..., 1] == new["reference"][..., 1]).all()  # the clip's number
            moved += 1
        # What else is drawn does not change.
        assert all((new[k] == old[k]).all() for k in new if k != "past")
    assert 0.3 < moved / 400 < 0.5


def test_shares_that_exclude_each_other_are_one_at_most():
    with pytest.raises(UserError, match="exclude each other, expected 1 at most"):
        WindowConfig(portrait_past=0.6, other_past=0.5)


def test_a_cut_edge_of_the_sound_repeats_the_first_target_frame(clip):
    config = dataclasses.replace(LATENTS, audio_edge=0.05)
    cuts = []
    for sample in many(clip, 4000, config):
        start = int(sample["latents_mean"][0, 0, 0, 0])
        around = start + np.arange(4)[:, None] + np.arange(-2, 3)
        whole, edge = np.clip(around, 0, 29), np.clip(around, start, 29)
        found = heard(sample["audio"])
        assert (found == whole).all() or (found == edge).all()
        if start:
            cuts.append((found == edge).all())
    assert 0.035 < np.mean(cuts) < 0.065


def test_the_emotion_is_the_most_frequent_known_one_and_the_smaller_of_equals(make_clip):
    for labels, emotion in (
        ([2, 2, 1, 0], 2),
        ([2, 1, 2, 1], 1),
        ([-1, -1, -1, 2], 2),
        ([2, 0, 1, 1], 1),
    ):
        clip = make_clip(n=4, emotion=np.array(labels, np.int8))
        sample = draw(clip, PLAIN, 0)
        assert sample["emotion"] == emotion and sample["emotion"].dtype == np.int32


def test_what_makes_a_clip_unfit_for_a_window_is_named(make_clip):
    half_known = np.array([-1] * 10 + [0] * 10, np.int8)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        try:
            outcomes.add(int(cut(make_clip(n=20, emotion=half_known), rng, PLAIN, None)["emotion"]))
        except BadRecord as error:
            outcomes.add(error.code)
    assert outcomes == {0, "no-emotion"}
    for clip, config, code in (
        (make_clip(n=3), PLAIN, "short"),
        (make_clip(images=()), PLAIN, "no-frames"),
        (make_clip(latents_mean=None, latents_std=None), LATENTS, "no-frames"),
        (make_clip(corpus="mead"), PLAIN, "no-other-emotion"),
    ):
        with pytest.raises(BadRecord) as caught:
            draw(clip, config, 0)
        assert caught.value.code == code


def test_a_decoupled_corpus_takes_its_reference_from_the_other_clip(make_clip):
    clip, other = make_clip(1, corpus="MEAD"), make_clip(2, n=12)
    references = set()
    for sample in many(clip, 300, other=lambda rng: other):
        assert sample["reference"][0, 0, 1] == 2 and sample["fallback"] == 0
        assert (sample["frames"][..., 1] == 1).all() and (sample["past"][..., 1] == 1).all()
        references.add(int(sample["reference"][0, 0, 0]))
    assert references == set(range(12))


def test_where_there_is_no_other_clip_falling_back_is_allowed_and_said(make_clip):
    config = dataclasses.replace(PLAIN, same_clip_fallback=True)
    sample = draw(make_clip(1, corpus="MEAD"), config, 0)
    assert sample["fallback"] == 1 and sample["reference"][0, 0, 1] == 1
    assert draw(make_clip(1), config, 0)["fallback"] == 0


def test_a_sample_depends_on_the_clip_and_the_generator_alone(clip):
    for config in (PLAIN, LATENTS, WindowConfig(frames=4, past_frames=6)):
        for seed in range(10):
            one, again = draw(clip, config, seed), draw(clip, config, seed)
            assert all((one[name] == again[name]).all() for name in one)
    # One choice does not move another: only what the probability is of changes.
    one, still = draw(clip, PLAIN, 5), draw(clip, dataclasses.replace(PLAIN, still_past=1), 5)
    assert {name for name in one if (one[name] != still[name]).any()} == {"past"}


@pytest.mark.parametrize(
    "wrong", [{"frames": 0}, {"past_frames": -1}, {"form": "video"}, {"still_past": 1.5}]
)
def test_a_config_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong)).split("_")[0]):
        WindowConfig(**wrong)


def test_no_past_frames_are_none(clip):
    sample = draw(clip, dataclasses.replace(PLAIN, past_frames=0), 0)
    assert sample["past"].shape == (0, 16, 16, 3)
