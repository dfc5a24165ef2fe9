"""Every measure moves the right way, step by step, as videos of puppets are damaged more.

The measures without weights are read from files, as a user has them; the distances under drawn
weights, of which the same is true.
"""

import itertools

import cv2
import numpy as np
import pytest

from memo_jax.io.face import HaarFinder
from memo_jax.metrics.expression import Expression
from memo_jax.metrics.frechet import Moments, frechet_distance, kernel_distance
from memo_jax.metrics.i3d import I3D, I3DFeatures, windows_of
from memo_jax.metrics.identity import Identity, cosines, drift
from memo_jax.metrics.inception import InceptionFeatures, InceptionV3
from memo_jax.metrics.meters import Cache, measure
from memo_jax.metrics.quality import NAMES, Quality
from memo_jax.metrics.sync import MouthMeter

FPS = 25.0


def rises(values, least=0.0):
    """Strictly, each by more than `least`."""
    return all(b - a > least for a, b in itertools.pairwise(values))


def seen(path, meter, finder=None):
    """What a meter gives of a file, portraits unless there is a finder."""
    found = measure(
        path, [meter], fps=FPS, finder=finder, where=type(finder).__name__, cache=Cache(None)
    )
    return found[meter.name]


def quality(path):
    """Means over a file's frames."""
    return dict(zip(NAMES, seen(path, Quality())["frames"].mean(axis=0), strict=True))


def blurred(frames, sigma):
    if not sigma:
        return frames
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])


def flickering(frames, strength):
    waver = np.where(np.arange(len(frames)) % 2, 1 + strength, 1 - strength)
    return np.clip(frames * waver[:, None, None, None], 0, 255).astype(np.uint8)


def held(frames, lost):
    """Frames by their numbers lost, the one before shown in their place."""
    at = np.arange(len(frames))
    at[list(lost)] = -1
    return frames[np.maximum.accumulate(at)]


@pytest.mark.parametrize("who", [0, 1])
def test_blur(acts, tmp_path, who):
    frames = acts[who].frames
    files = [acts[who].save(tmp_path / f"{s}.mp4", blurred(frames, s)) for s in (0, 0.7, 1.5, 3)]
    sharp = [quality(path)["sharpness"] for path in files]
    assert rises(sharp[::-1]) and sharp[-1] < 0.3 * sharp[0]


@pytest.mark.parametrize("who", [0, 1])
def test_flicker(acts, tmp_path, who):
    frames = acts[who].frames
    strengths = (0, 0.01, 0.03, 0.1)
    files = [acts[who].save(tmp_path / f"{s}.mp4", flickering(frames, s)) for s in strengths]
    found = [quality(path) for path in files]
    assert rises([one["flicker"] for one in found])
    assert found[-1]["flicker"] > 5 * found[0]["flicker"]
    assert [one["frozen"] for one in found] == [0, 0, 0, 0]


@pytest.mark.parametrize("who", [0, 1])
def test_frozen_frames(acts, tmp_path, who):
    """A picture that stands for longer and longer: the share of frames that do not move."""
    frames, lengths = acts[who].frames, (0, 10, 25, 60)
    found = []
    for length in lengths:
        lost = range(10, 10 + length)
        found.append(quality(acts[who].save(tmp_path / f"{length}.mp4", held(frames, lost))))
    assert [one["frozen"] for one in found] == pytest.approx([n / 75 for n in lengths])
    assert rises([-one["motion"] for one in found])


@pytest.mark.parametrize("who", [0, 1])
def test_dropped_frames(acts, tmp_path, who):
    """Every 8th, 4th and 2nd frame lost, the one before shown in its place, as players do."""
    frames = acts[who].frames
    found = []
    for every in (1000, 8, 4, 2):
        lost = [i for i in range(1, len(frames)) if i % every == 1]
        if every == 1000:
            lost = []
        path = acts[who].save(tmp_path / f"{every}.mp4", held(frames, lost))
        found.append((quality(path)["frozen"], len(lost) / len(frames)))
    assert [share for share, _ in found] == pytest.approx([lost for _, lost in found])
    assert rises([share for share, _ in found])


def test_colours_that_shift(acts, tmp_path):
    frames, found = acts[0].frames, []
    for strength in (0, 5, 15, 40):
        ramp = np.linspace(0, strength, len(frames))[:, None, None]
        red = np.clip(frames[..., 0] + ramp, 0, 255).astype(np.uint8)
        path = tmp_path / f"{strength}.mp4"
        found.append(
            quality(acts[0].save(path, np.concatenate([red[..., None], frames[..., 1:]], -1)))
        )
    assert rises([one["colour"] for one in found], 0.2)


def test_another_person_takes_over(acts, tmp_path):
    """From the third, second, first quarter on: the mean cosine falls, and the curve shows when."""
    meter, own, other = Identity(None), acts[0].frames, acts[1].frames
    means, curves = [], []
    for start in (75, 50, 25, 0):
        mixed = np.concatenate([own[:start], other[start:]])
        arrays = seen(acts[0].save(tmp_path / f"{start}.mp4", mixed), meter)
        reference = meter.embed(own[0], None)
        values = cosines(arrays["embeddings"], reference)
        means.append(values.mean())
        curves.append(drift(values, arrays["seconds"]))
    assert rises([-mean for mean in means], 0.1)
    assert min(curves[0]) > 0.9
    assert curves[1][:2] == pytest.approx(curves[0][:2]) and curves[1][2] < 0.6


def test_sound_that_is_shifted(acts, tmp_path):
    """By 0 to 10 frames to either side: found to the frame for each, and the mean of what is
    between them, as the table has it, rises with it."""
    meter, shifts, lates = MouthMeter(), (-10, -4, 0, 4, 10), []
    for who in range(3):
        found = []
        for frames in shifts:
            path = acts[who].save(tmp_path / f"{who} {frames}.mp4", late=frames * 640)
            score, late, reason = seen(path, meter)["mouth"]
            assert reason == 0 and score > 0.1
            found.append(late * FPS)
        # The mouth itself may be some frames off its sound, which no shift changes.
        assert np.abs(np.array(found) - found[2] - shifts).max() <= 1.01
        assert abs(found[2]) <= 2.01
        lates.append(found)
    apart = np.abs(lates).mean(axis=0)
    assert rises(apart[2:], 1) and rises(apart[2::-1], 1)


def test_lips_of_another_recording(acts, tmp_path):
    own = seen(acts[0].save(tmp_path / "own.mp4"), MouthMeter())["mouth"][0]
    silent = type(acts[0])(acts[0].frames, acts[1].sound)
    other = seen(silent.save(tmp_path / "other.mp4"), MouthMeter())["mouth"][0]
    assert own > 2 * other


def test_faces_are_found_where_they_are(acts, tmp_path):
    """By the finder that needs no weights, as with the place that portraits have."""
    path = acts[1].save(tmp_path / "one.mp4")
    meter = Identity(None)
    arrays = seen(path, meter, HaarFinder())
    assert len(arrays["seconds"]) == 15 and arrays["seconds"][1] == pytest.approx(0.2)
    assert cosines(arrays["embeddings"], arrays["embeddings"][0]).min() > 0.8


def moments_of(features):
    found = Moments(features.shape[1])
    found.add(features)
    return found


@pytest.fixture(scope="module")
def i3d(filled):
    return I3DFeatures(filled(lambda rngs: I3D(rngs=rngs)), batch=4, side=64)


@pytest.fixture(scope="module")
def fid(acts, filled):
    """FID and KID under drawn weights, of frames against others of the same people."""
    inception = InceptionFeatures(filled(lambda rngs: InceptionV3(rngs=rngs)), batch=4)
    real = inception(np.concatenate([act.frames[19::38] for act in acts[:3]]))

    def fid(frames):
        features = inception(frames)
        return (
            frechet_distance(moments_of(real), moments_of(features)),
            kernel_distance(real, features).mean,
        )

    return fid


@pytest.mark.parametrize("damage", ["blur", "flicker", "another"])
def test_fid_and_kid_of_damaged_frames(acts, fid, damage):
    """They see pictures one by one: frames that are frozen or lost change nothing in them."""
    frames = np.concatenate([act.frames[::38] for act in acts[:3]])
    found = [fid(frames)]
    for k in range(2):
        if damage == "blur":
            found.append(fid(blurred(frames, (1.5, 4)[k])))
        elif damage == "flicker":
            found.append(fid(flickering(frames, (0.45, 0.9)[k])))
        else:  # of the fourth, in the place of more and more
            n = (2, 6)[k]
            found.append(fid(np.concatenate([acts[3].frames[:60:10][:n], frames[n:]])))
    assert rises([one[0] for one in found]) and rises([one[1] for one in found])


class Grid:
    """Stands for a 3DMM regressor: the greys of an upright grid over the mouth."""

    width, columns = 8, slice(0, 8)

    def __call__(self, face):
        grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[128:224, 64:192].astype(np.float32)
        return cv2.resize(grey, (2, 4), interpolation=cv2.INTER_AREA).ravel()


def test_e_fid_of_faces_that_freeze(acts, tmp_path):
    """From the end, the second half, the beginning on: expressions that do not change are
    further and further from those that do."""
    meter, real, found = Expression(Grid(), ""), Moments(8), []
    for who in range(3):
        real.add(seen(acts[who].save(tmp_path / f"{who}.mp4"), meter)["coefficients"])
    for start in (75, 38, 1):
        frozen = Moments(8)
        for who in range(3):
            frames = held(acts[who].frames, range(start, 75))
            path = acts[who].save(tmp_path / f"{who} {start}.mp4", frames)
            frozen.add(seen(path, meter)["coefficients"])
        found.append(frechet_distance(real, frozen))
    assert found[0] == pytest.approx(0, abs=1e-6) and rises(found, 1)


def damaged(frames, other, damage, k):
    """`frames` a little (k = 0) or much (k = 1) damaged."""
    if damage == "blur":
        return blurred(frames, (1, 2.5)[k])
    if damage == "flicker":
        return flickering(frames, (0.1, 0.3)[k])
    if damage == "frozen":
        return held(frames, [j for j in range(len(frames)) if j % 16 > (9, 0)[k]])
    if damage == "dropped":
        return held(frames, [j for j in range(1, len(frames)) if j % 4 < (2, 3)[k]])
    share = (24, 75)[k]
    return np.concatenate([other[:share], frames[share:]])


def test_fvd_of_damaged_windows(acts, i3d):
    """Under drawn weights: windows with more and more of them damaged, or more strongly."""

    def moments(videos):
        windows = np.concatenate([windows_of(video) for video in videos])
        return moments_of(i3d(np.stack([i3d.prepared(window) for window in windows])))

    videos, others = [act.frames for act in acts[:2]], [act.frames for act in acts[2:]]
    real = moments(videos)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    for damage in ("blur", "flicker", "frozen", "dropped", "another"):
        found = [
            frechet_distance(
                real,
                moments([damaged(a, b, damage, k) for a, b in zip(videos, others, strict=True)]),
            )
            for k in (0, 1)
        ]
        assert 1e-3 < found[0] < found[1], damage
