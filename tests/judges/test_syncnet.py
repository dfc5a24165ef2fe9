"""SyncNet against its published definition in PyTorch, and the search for the offset."""

import numpy as np
import pytest
from drawn_torch import drawn
from golden_case import relative_error

from memo_jax.errors import UserError
from memo_jax.judges.mfcc import mfcc
from memo_jax.judges.syncnet import load, search

torch = pytest.importorskip("torch", reason="PyTorch is the judge here")
tn = torch.nn


def layers(conv, norm, *parts):
    """A Sequential in the published order: (width in, width out, convolution, pool or None)."""
    found = []
    for c_in, c_out, options, pool in parts:
        found += [conv(c_in, c_out, **options), norm(c_out), tn.ReLU()]
        found += [pool] if pool is not None else []
    return tn.Sequential(*found)


def head():
    return tn.Sequential(tn.Linear(512, 512), tn.BatchNorm1d(512), tn.ReLU(), tn.Linear(512, 1024))


class S(tn.Module):
    def __init__(self):
        super().__init__()
        same = {"kernel_size": 3, "padding": 1}
        self.netcnnaud = layers(
            tn.Conv2d,
            tn.BatchNorm2d,
            (1, 64, same, tn.MaxPool2d(1, 1)),
            (64, 192, same, tn.MaxPool2d(3, (1, 2))),
            (192, 384, same, None),
            (384, 256, same, None),
            (256, 256, same, tn.MaxPool2d(3, 2)),
            (256, 512, {"kernel_size": (5, 4)}, None),
        )
        flat = {"kernel_size": (1, 3, 3), "padding": (0, 1, 1)}
        five = {"kernel_size": (1, 5, 5), "stride": (1, 2, 2), "padding": (0, 1, 1)}
        self.netcnnlip = layers(
            tn.Conv3d,
            tn.BatchNorm3d,
            (
                3,
                96,
                {"kernel_size": (5, 7, 7), "stride": (1, 2, 2)},
                tn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            ),
            (96, 256, five, tn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))),
            (256, 256, flat, None),
            (256, 256, flat, None),
            (256, 256, flat, tn.MaxPool3d((1, 3, 3), (1, 2, 2))),
            (256, 512, {"kernel_size": (1, 6, 6)}, None),
        )
        self.netfcaud, self.netfclip = head(), head()

    def sound(self, x):
        return self.netfcaud(self.netcnnaud(x).flatten(1))

    def lips(self, x):
        return self.netfclip(self.netcnnlip(x).flatten(1))


def distances(lips, sound, reach):
    """Mean distance at each shift, by PyTorch's own pairwise_distance."""
    padded = tn.functional.pad(sound, (0, 0, reach, reach))
    shifts = range(2 * reach + 1)
    return torch.stack(
        [tn.functional.pairwise_distance(lips, padded[k : k + len(lips)]).mean() for k in shifts]
    )


def speech(n, seed=0):
    """Noise whose colour and loudness change, [-1, 1] at 16 kHz."""
    rng = np.random.default_rng(seed)
    noise = np.cumsum(rng.normal(size=n)) * 0.002 + rng.normal(size=n) * 0.02
    return (noise * (1 + np.sin(np.arange(n) / 700.0))).astype(np.float32)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """PyTorch's module and ours, loaded from the file that it saved."""
    module = drawn(S(), 0)
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    # As old as the published file, before torch.save wrote zips.
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    judge = load(path)
    judge.batch = 4  # two calls, the second filled up
    return module, judge


def test_a_video_as_published(pair):
    """Ten frames and sound for more: five places of either."""
    module, judge = pair
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (10, 224, 224, 3)).astype(np.uint8)
    samples = speech(10 * 640 + 900)

    frames = torch.from_numpy(crops[..., ::-1].copy()).float().permute(3, 0, 1, 2)
    rows = torch.from_numpy(mfcc(samples).T.copy())
    with torch.no_grad():
        lips = torch.cat([module.lips(frames[None, :, i : i + 5]) for i in range(5)])
        sound = torch.cat([module.sound(rows[None, None, :, 4 * i : 4 * i + 20]) for i in range(5)])

    ours = judge.places(crops, samples)
    assert relative_error(ours[0], lips.numpy()) <= 1e-4
    assert relative_error(ours[1], sound.numpy()) <= 1e-4
    for seen in (lips, sound):  # five places, not one
        assert seen.std(0).mean() > 1e-3 * seen.abs().mean()

    assert judge.judge(crops, samples) == search(*ours)


@pytest.mark.parametrize("offset", range(-10, 11))
def test_a_planted_offset_is_found(offset):
    """Lips and sound are two noisy looks at one hidden course; the picture `offset` frames late."""
    rng = np.random.default_rng(offset + 10)
    hidden = np.cumsum(rng.normal(size=(120, 12)), axis=0)
    shown = np.tanh(hidden @ rng.normal(size=(12, 1024)) * 0.05)
    noise = 0.3 * rng.normal(size=(2, 80, 1024))
    lips = (shown[20:100] + noise[0]).astype(np.float32)
    sound = (shown[20 + offset : 100 + offset] + noise[1]).astype(np.float32)
    found = search(lips, sound)
    assert found.offset_frames == offset
    assert found.confidence > 1


def test_the_numbers_of_the_search():
    rng = np.random.default_rng(0)
    lips, sound = rng.normal(size=(2, 23, 16)).astype(np.float32)
    apart = distances(torch.from_numpy(lips), torch.from_numpy(sound), 15)
    found = search(lips, sound)
    assert found.offset_frames == 15 - int(apart.argmin())
    assert found.distance == pytest.approx(float(apart.min()), rel=1e-5)
    assert found.confidence == pytest.approx(float(apart.median() - apart.min()), rel=1e-4)


def test_sound_of_another_video_gives_no_confidence():
    rng = np.random.default_rng(0)
    lips, sound = rng.normal(size=(2, 200, 64)).astype(np.float32)
    assert search(lips, sound).confidence < 0.5


@pytest.mark.parametrize(
    ("crops", "samples", "message"),
    [
        ((5, 224, 224, 3), 9600, "5 frames and 0.60 s of sound are too short"),
        ((9, 224, 224, 3), 3839, "9 frames and 0.24 s of sound are too short"),
        ((9, 112, 112, 3), 9600, r"the crops of a face are uint8 \[9, 112, 112, 3\], expected"),
        ((0, 224, 224, 3), 9600, "at least one"),
    ],
)
def test_what_cannot_be_judged(pair, crops, samples, message):
    with pytest.raises(UserError, match=message):
        pair[1].judge(np.zeros(crops, np.uint8), np.zeros(samples, np.float32))


@pytest.mark.parametrize(
    "samples",
    [np.zeros((9600, 2), np.float32), np.zeros(9600, np.int16), np.full(9600, np.nan, np.float32)],
    ids=["stereo", "whole numbers", "no numbers"],
)
def test_sound_of_another_kind(pair, samples):
    with pytest.raises(UserError, match="expected finite floats"):
        pair[1].judge(np.zeros((9, 224, 224, 3), np.uint8), samples)
