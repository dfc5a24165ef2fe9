"""The bundled model at work: a small sample of what docs/tiny.md measures."""

import numpy as np

from memo_jax.evaluate.figures import figures
from memo_jax.evaluate.people import tasks
from memo_jax.evaluate.together import Together
from memo_jax.puppets.emotion import SHOWN
from memo_jax.puppets.readers import Readers


def test_held_out_people_speak_in_time_with_the_emotion_asked_for_and_stay_themselves(tiny):
    fps, clip = tiny.spec.sampler.fps, tiny.spec.sampler.clip_frames
    people = tasks(len(SHOWN), 2.56, seed=7, asked="other")
    clips = Together(tiny)(
        np.stack([one.portrait for one in people]),
        [one.sound for one in people],
        [one.emotion for one in people],
        7,
    )
    videos = np.concatenate(list(clips), axis=1)
    readers = Readers.load()
    found = [figures(readers, v, one, fps, clip) for v, one in zip(videos, people, strict=True)]
    assert {one.emotion for one in people} == set(SHOWN)
    assert np.mean([one.lips_at_once for one in found]) > 0.8
    # Eight videos say this to within ten points or so.
    assert np.mean([one.emotion for one in found]) > 0.65
    assert np.mean([one.identity for one in found]) > 0.85
