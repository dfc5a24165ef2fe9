"""Figures of what was drawn by the renderer itself: what is right gets the best, damage less."""

import dataclasses

import numpy as np
import pytest

from memo_jax.evaluate.figures import figures, from_dict, summary, to_dict
from memo_jax.evaluate.people import Task
from memo_jax.puppets.clips import PuppetSet, portrait
from memo_jax.puppets.readers import Readers
from memo_jax.puppets.truth import Truth
from memo_jax.puppets.world import render

FPS, CLIP = 25, 16


@pytest.fixture(scope="module")
def readers():
    return Readers.load()


@pytest.fixture(scope="module")
def drawn():
    """(task, frames) as the renderer answers it."""
    plan = PuppetSet(clips=8, held_out=True, seconds=3.0, silent=0.0)
    take = plan.take(2)
    face = portrait(take.truth.seed, 64, np.random.default_rng(0))
    truth = take.truth
    task = Task(
        truth.seed, face, take.sound, plan.emotion(2), np.asarray(truth.opening), truth.loudness
    )
    return task, render(truth, 64)


@pytest.fixture(scope="module")
def right(readers, drawn):
    task, frames = drawn
    return figures(readers, frames, task, FPS, CLIP)


def test_the_truth_is_nearly_perfect(right):
    assert right.lips > 0.97 and right.lag == 0 and right.lips_at_once == right.lips
    assert right.emotion > 0.95 and right.identity > 0.8
    assert len(right.by_second) == 3 and right.kept == pytest.approx(1, abs=0.05)
    assert right.jitter < 0.004


@pytest.mark.parametrize("late", [-3, -1, 2])
def test_late_and_early_mouths(readers, drawn, right, late):
    task, frames = drawn
    shifted = figures(readers, np.roll(frames, late, axis=0), task, FPS, CLIP)
    assert shifted.lag == late and shifted.lips_at_once < right.lips_at_once - 0.05


def test_another_person_from_the_second_second_on(readers, drawn, right):
    task, frames = drawn
    other = render(Truth.from_array(PuppetSet(8, held_out=True).take(2).truth.to_array(), 5), 64)
    swapped = figures(readers, np.concatenate([frames[:25], other[25:75]]), task, FPS, CLIP)
    assert swapped.by_second[0] == pytest.approx(right.by_second[0], abs=1e-6)
    assert swapped.kept < 0.6 and swapped.identity < right.identity - 0.2


def test_another_emotion(readers, drawn):
    task, frames = drawn
    asked = dataclasses.replace(task, emotion="sad" if task.emotion != "sad" else "happy")
    assert figures(readers, frames, asked, FPS, CLIP).emotion < 0.1


def test_heads_that_shake(readers, drawn, right):
    task, frames = drawn
    shaken = np.stack([np.roll(frame, 2 * (i % 2), axis=1) for i, frame in enumerate(frames)])
    assert figures(readers, shaken, task, FPS, CLIP).jitter > 5 * right.jitter


def test_heads_that_do_not_move(readers, drawn, right):
    task, frames = drawn
    still = np.repeat(frames[:1], len(frames), axis=0)
    assert 0.005 < right.sway < 0.03 and figures(readers, still, task, FPS, CLIP).sway < 1e-6


def test_clips_that_do_not_go_on(readers, drawn, right):
    task, frames = drawn
    assert right.seams == pytest.approx(1, abs=0.5)
    # In another order; inside they are what they were.
    turned = np.concatenate([frames[i : i + CLIP] for i in (48, 32, 16, 0, 64)])
    assert figures(readers, turned, task, FPS, CLIP).seams > 2 * right.seams


def test_there_and_back(right):
    assert from_dict(to_dict(right)) == right


def test_summaries_are_means_and_the_spread_of_the_seeds(right):
    def with_lips(value):
        return dataclasses.replace(right, lips=value)

    values = summary([[with_lips(0.1), with_lips(0.3)], [with_lips(0.6)]])
    assert values["lips"] == pytest.approx((0.4, np.std([0.2, 0.6], ddof=1)))
    assert summary([[right]])["lips"] == (right.lips, 0.0)
