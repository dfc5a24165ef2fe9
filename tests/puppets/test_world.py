"""What is drawn is what the truth says, and people and emotions can be told apart."""

import hashlib
import itertools
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.puppets.clips import PuppetSet
from memo_jax.puppets.emotion import SHOWN
from memo_jax.puppets.features import INSIDE, TEETH, TONGUE
from memo_jax.puppets.identity import HELD_OUT, identity, shade
from memo_jax.puppets.still import still
from memo_jax.puppets.truth import FIELDS, Truth
from memo_jax.puppets.world import CENTRE, UNIT, render

PLAN = PuppetSet(64, seed=5, beds=0.0, silent=0.0)


def changed(truth, **values):
    """The truth with some fields set to one value, or to one for each frame."""
    array = truth.to_array()
    for name, value in values.items():
        array[:, FIELDS.index(name)] = value
    return Truth.from_array(array, truth.seed)


def clear(seed):
    """Whether a person's lips and skin are far from the colours of an open mouth, and no beard
    hides it: only then can pixels be counted by colour."""
    who = identity(seed)
    apart = [
        np.abs(np.subtract(colour, inside)).sum()
        for colour in (who.lip_colour, who.skin, shade(who.lip_colour, 0.5))
        for inside in (INSIDE, TEETH, TONGUE)
    ]
    return min(apart) > 75 and who.beard == "none" and not who.freckles


def mouth_area(frames):
    """Pixels of inner mouth, teeth and tongue in the frames' lower middle."""
    size = frames.shape[1]
    lower = frames[:, round(0.58 * size) : round(0.92 * size), size // 4 : -size // 4]
    near = [np.abs(lower - np.array(c)).sum(-1) < 60 for c in (INSIDE, TEETH, TONGUE)]
    return np.any(near, axis=0).sum((1, 2))


def straightened(frames, truth):
    """The frames with the head turned, moved and scaled back to rest."""
    size = frames.shape[1]
    out = []
    for i, frame in enumerate(frames):
        matrix = cv2.getRotationMatrix2D((0, 0), 0, 1)
        angle = np.radians(truth.roll[i])
        c, s = truth.scale[i] * np.cos(angle), truth.scale[i] * np.sin(angle)
        matrix[:, :2] = [[c, -s], [s, c]]
        rest = size * np.array(CENTRE) - 0.5
        matrix[:, 2] = rest + size * np.array((truth.x[i], truth.y[i])) - matrix[:, :2] @ rest
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out.append(cv2.warpAffine(frame, matrix, (size, size), flags=flags))
    return np.stack(out).astype(int)


def digest(people, size):
    drawn = [render(still(s, values={"opening": 0.4, "roll": 7.0}), size) for s in people]
    return hashlib.sha256(b"".join(frames.tobytes() for frames in drawn)).hexdigest()


def test_pictures_are_the_same_in_another_process_and_another_order():
    code = (
        "import sys; sys.path.insert(0, 'tests/puppets'); from test_world import digest; "
        "print(digest((1, 5, 9), 64))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    render(still(9, "happy"), 64)  # what was drawn before leaves no trace
    assert other.stdout.split()[-1] == digest((1, 5, 9), 64)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_mouth_is_as_open_as_the_truth_says(size):
    opening = np.linspace(0, 1, 21)
    for seed in list(filter(clear, range(100)))[:4]:
        one = still(seed)
        truth = changed(Truth.from_array(np.repeat(one.to_array(), 21, 0), seed), opening=opening)
        area = mouth_area(render(truth, size).astype(int))
        assert np.corrcoef(area, opening)[0, 1] > 0.97
        assert area[0] <= 0.02 * area[-1]


@pytest.mark.parametrize("emotion", SHOWN)
def test_the_mouth_follows_the_truth_through_a_moving_clip(emotion):
    clip = next(i for i in range(400) if PLAN.emotion(i) == emotion and clear(PLAN.person(i)))
    truth = PLAN.take(clip).truth
    area = mouth_area(straightened(render(truth, 128), truth))
    by_lag = [np.corrcoef(area, np.roll(truth.opening, lag))[0, 1] for lag in range(-2, 3)]
    assert np.argmax(by_lag) == 2 and by_lag[2] > 0.9


def test_width_and_rounding_change_the_mouths_width():
    def width(**values):
        frame = render(still(3, values={"opening": 0.7, **values}), 256).astype(int)[0]
        near = [np.abs(frame - np.array(c)).sum(-1) < 60 for c in (INSIDE, TEETH, TONGUE)]
        columns = np.nonzero(np.any(near, axis=0)[150:].any(0))[0]
        return np.ptp(columns)

    assert width(width=1.0) > 1.1 * width() > 1.2 * width(width=0.0)
    assert width(rounding=1.0) < 0.7 * width()


def test_the_head_is_where_the_truth_says():
    """By the eyes' whites: their middle, their distance and the angle between them."""
    rng = np.random.default_rng(0)
    n, size, seed = 24, 256, 4
    pose = {
        "x": rng.uniform(-0.06, 0.06, n),
        "y": rng.uniform(-0.06, 0.06, n),
        "roll": rng.uniform(-12, 12, n),
        "scale": rng.uniform(0.92, 1.08, n),
    }
    truth = changed(Truth.from_array(np.repeat(still(seed).to_array(), n, 0), seed), **pose)
    who, found = identity(seed), []
    for frame in render(truth, size):
        white = (frame.min(-1) > 225).astype(np.uint8)
        _, _, stats, centres = cv2.connectedComponentsWithStats(white)
        # An iris parts the white in two: halves are joined by side.
        spots = centres[1:][stats[1:, cv2.CC_STAT_AREA] > 12] + 0.5
        weights = stats[1:, cv2.CC_STAT_AREA][stats[1:, cv2.CC_STAT_AREA] > 12]
        middle = np.average(spots, axis=0, weights=weights)
        sides = [spots[:, 0] < middle[0], spots[:, 0] >= middle[0]]
        left, right = (np.average(spots[s], axis=0, weights=weights[s]) for s in sides)
        across, unit = right - left, 2 * who.eye_spacing * UNIT * size
        found.append(
            (
                *((left + right) / 2 / size),
                np.degrees(np.arctan2(across[1], across[0])),
                np.hypot(*across) / unit,
            )
        )
    x, y, roll, scale = np.array(found).T
    assert np.abs(roll - truth.roll).max() < 1.5
    assert np.abs(scale - truth.scale).max() < 0.05
    # The eyes turn about the head's middle and are above it.
    down = who.eye_height * UNIT * truth.scale
    angle = np.radians(truth.roll)
    assert np.abs(x - (CENTRE[0] + truth.x - np.sin(angle) * down)).max() < 0.012
    assert (
        np.abs((y - y.mean()) - (truth.y + np.cos(angle) * down - (truth.y + down).mean())).max()
        < 0.012
    )


def test_a_blink_hides_the_eyes():
    def white(blink):
        return (render(still(4, values={"blink": blink}), 128)[0, 40:80].min(-1) > 225).sum()

    assert white(0.0) > white(0.5) > white(1.0) == 0


def test_emotions_differ_in_every_face():
    for seed in (*range(12), *range(HELD_OUT, HELD_OUT + 12)):
        faces = np.stack([render(still(seed, e, 0.7), 64)[0] for e in SHOWN]).astype(int)
        for a, b in itertools.combinations(range(len(SHOWN)), 2):
            pixels = (np.abs(faces[a] - faces[b]).max(-1) > 40).sum()
            assert pixels > 25, (seed, SHOWN[a], SHOWN[b])


def test_an_unseen_faces_emotion_can_be_read_from_its_difference_to_rest():
    """By as little as a linear map of 40 other faces."""
    felt = [name for name in SHOWN if name != "neutral"]
    rng = np.random.default_rng(0)

    def differences(people):
        seen = []
        for seed in people:
            truths = [still(seed), *(still(seed, e, rng.uniform(0.7, 1)) for e in felt)]
            faces = np.stack([render(truth, 64)[0, 12:60, 8:56].mean(-1) for truth in truths])
            seen.append((faces[1:] - faces[0]).reshape(len(felt), -1) / 50)
        return np.concatenate(seen)

    known, unseen = differences(range(40)), differences(range(HELD_OUT, HELD_OUT + 20))
    wanted = np.tile(np.eye(len(felt)), (40, 1))
    weights = known.T @ np.linalg.solve(known @ known.T + 10 * np.eye(len(known)), wanted)
    read = (unseen @ weights).argmax(-1).reshape(20, -1)
    assert (read == np.arange(len(felt))).mean() > 0.95


def test_no_two_people_look_alike():
    people = [*range(200), *range(HELD_OUT, HELD_OUT + 200)]
    faces = np.stack([render(still(seed), 64)[0, 8:58, 12:52] for seed in people])
    flat = faces.reshape(len(faces), -1)[:, ::5].astype(np.float32)
    apart = np.abs(flat[:, None] - flat[None]).mean(-1) + 255 * np.eye(len(flat))
    assert apart.min() > 8.0  # of 255, on average over the face
    vectors = np.stack([identity(seed).vector() for seed in people])
    assert np.isfinite(vectors).all() and np.abs(vectors).max() <= 1.5
    assert len(np.unique(vectors, axis=0)) == len(people)


def test_64_pixels_are_drawn_at_200_frames_a_second_on_one_core():
    truth = PLAN.take(0).truth
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        render(truth, 64)
        took = []
        for _ in range(3):
            begun = time.process_time()
            render(truth, 64)
            took.append(time.process_time() - begun)
    finally:
        cv2.setNumThreads(threads)
    assert len(truth) / min(took) > 200


def test_what_cannot_be_drawn_is_refused_in_one_line():
    with pytest.raises(UserError, match="size 16, expected 32"):
        render(still(0), 16)
    with pytest.raises(UserError, match="identity seed -1"):
        identity(-1)
