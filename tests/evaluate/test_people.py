"""Tasks: people and sounds that nobody trained on, and the truth of what is right."""

import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.evaluate.people import tasks
from memo_jax.puppets.clips import PuppetSet
from memo_jax.puppets.emotion import SHOWN, number
from memo_jax.puppets.readers import Readers


@pytest.fixture(scope="module")
def eight():
    return tasks(8, 1.0, seed=3)


def test_they_are_held_out(eight):
    trained = PuppetSet(clips=4000, per_identity=1, seed=1)
    known = {trained.person(i) for i in range(trained.clips)}
    people = [task.person for task in eight]
    assert len(set(people)) == 8 and not known & set(people)


def test_every_emotion_is_asked_for(eight):
    assert sorted(task.emotion for task in eight) == sorted(SHOWN)


def test_the_portrait_shows_another_emotion_and_the_same_person(eight):
    shown = Readers.load().read(np.stack([task.portrait for task in eight])).shown
    assert not any(shown == [number(task.emotion) for task in eight])


def test_truth_lasts_as_long_as_the_sound(eight):
    for task in eight:
        assert len(task.sound) == 16000 and len(task.opening) == len(task.loudness) == 25
        assert 0 <= task.opening.min() < 0.2 < task.opening.max() <= 1


def test_same_seed_same_tasks_and_another_seed_others(eight):
    again, other = tasks(8, 1.0, seed=3), tasks(8, 1.0, seed=4)
    for a, b, c in zip(eight, again, other, strict=True):
        assert np.array_equal(a.sound, b.sound) and np.array_equal(a.portrait, b.portrait)
        assert not np.array_equal(a.sound, c.sound)


def test_the_truth_is_the_voices_whatever_is_asked(eight):
    """What a voice sounds like changes with its emotion; the truth is of the voice heard."""
    other = tasks(8, 1.0, seed=3, asked="other")
    assert [task.emotion for task in other] == [task.emotion for task in eight]
    assert not np.array_equal(other[0].sound, eight[0].sound)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"asked": "nobody"}])
def test_what_makes_no_sense_is_told(wrong):
    with pytest.raises(UserError, match="expected"):
        tasks(**{"count": 1, "seconds": 1.0, "seed": 0} | wrong)
