"""TransNet V2 against its published definition in PyTorch, and how windows cover a video."""

import jax.numpy as jnp
import numpy as np
import pytest
from drawn_torch import drawn
from flax import nnx
from golden_case import relative_error

from memo_jax.errors import UserError
from memo_jax.judges.transnet import Cutter, colour_counts, load, neighbours

torch = pytest.importorskip("torch", reason="PyTorch is the judge here")
tn = torch.nn


class Separable(tn.Module):
    def __init__(self, c_in, filters, dilation):
        super().__init__()
        space = tn.Conv3d(c_in, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = tn.Conv3d(
            2 * filters,
            filters,
            (3, 1, 1),
            dilation=(dilation, 1, 1),
            padding=(dilation, 0, 0),
            bias=False,
        )
        self.layers = tn.ModuleList([space, time])

    def forward(self, x):
        return self.layers[1](self.layers[0](x))


class Dilated(tn.Module):
    def __init__(self, c_in, filters):
        super().__init__()
        for d in (1, 2, 4, 8):
            self.add_module(f"Conv3D_{d}", Separable(c_in, filters, d))
        self.bn = tn.BatchNorm3d(4 * filters, eps=1e-3)

    def forward(self, x):
        parts = [getattr(self, f"Conv3D_{d}")(x) for d in (1, 2, 4, 8)]
        return self.bn(torch.cat(parts, 1))


class Stacked(tn.Module):
    def __init__(self, c_in, filters):
        super().__init__()
        self.DDCNN = tn.ModuleList([Dilated(c_in, filters), Dilated(4 * filters, filters)])

    def forward(self, x):
        shortcut = torch.relu(self.DDCNN[0](x))
        x = torch.relu(self.DDCNN[1](shortcut)) + shortcut
        return tn.functional.avg_pool3d(x, (1, 2, 2))


def against_neighbours(x):
    """Frame by frame, each against those from 50 before to 50 after it."""
    t = x.shape[1]
    products = torch.zeros(x.shape[0], t, 101)
    for i in range(t):
        for j in range(max(0, i - 50), min(t, i + 51)):
            products[:, i, j - i + 50] = (x[:, i] * x[:, j]).sum(-1)
    return products


class Similarity(tn.Module):
    def __init__(self, c_in=None):
        super().__init__()
        if c_in:
            self.projection = tn.Linear(c_in, 128)
        self.fc = tn.Linear(101, 128)

    def forward(self, x):
        x = self.projection(x) if hasattr(self, "projection") else x
        x = tn.functional.normalize(x, dim=2)
        return torch.relu(self.fc(against_neighbours(x)))


class TransNetV2(tn.Module):
    def __init__(self):
        super().__init__()
        self.SDDCNN = tn.ModuleList([Stacked(3, 16), Stacked(64, 32), Stacked(128, 64)])
        self.frame_sim_layer = Similarity(64 + 128 + 256)
        self.color_hist_layer = Similarity()
        self.fc1 = tn.Linear(128 + 128 + 256 * 3 * 6, 1024)
        self.cls_layer1 = tn.Linear(1024, 1)
        self.cls_layer2 = tn.Linear(1024, 1)

    def forward(self, frames):
        x = frames.permute(0, 4, 1, 2, 3).float() / 255
        means = []
        for stack in self.SDDCNN:
            x = stack(x)
            means.append(x.mean((3, 4)))
        x = x.permute(0, 2, 3, 4, 1).flatten(2)
        similar = self.frame_sim_layer(torch.cat(means, 1).transpose(1, 2))
        colours = self.color_hist_layer(counted(frames))
        hidden = torch.relu(self.fc1(torch.cat([colours, similar, x], 2)))
        return torch.cat([self.cls_layer1(hidden), self.cls_layer2(hidden)], 2)


def counted(frames):
    bins = frames.long() >> 5
    bins = bins[..., 0] * 64 + bins[..., 1] * 8 + bins[..., 2]
    rows = [torch.bincount(row, minlength=512) for row in bins.flatten(2).flatten(0, 1)]
    return torch.stack(rows).float().reshape(*frames.shape[:2], 512)


def shots(n, seed=0):
    """Frames of a few flat, noisy shots."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 200, (n // 7 + 1, 1, 1, 3)).repeat(7, axis=0)[:n]
    return (colours + rng.integers(0, 56, (n, 27, 48, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """PyTorch's module and ours, loaded from the file that it saved."""
    module = drawn(TransNetV2(), 0)
    path = tmp_path_factory.mktemp("transnet") / "transnetv2-pytorch-weights.pth"
    torch.save(module.state_dict(), path)
    return module, load(path), path


def test_both_heads(pair):
    """Two windows that copies of the ends fill up, as published."""
    module, cutter, _ = pair
    frames = shots(9)
    at = np.clip(np.arange(-25, 75), 0, 8)
    with torch.no_grad():
        logits = module(torch.from_numpy(frames[at][None]))[0, 25:34]
    assert np.abs(logits.numpy()).max() > 0.5 and logits.std(0).min() > 0.05
    ours = cutter.heads(frames)
    assert ours.shape == (9, 2) and ours.dtype == np.float32
    back = np.log(ours.astype(np.float64) / (1 - ours.astype(np.float64)))
    assert relative_error(back, logits.numpy()) <= 1e-4
    assert np.array_equal(cutter.cuts(frames), ours[:, 0])


def test_neighbours_beyond_the_reach():
    x = np.random.default_rng(0).normal(size=(2, 120, 3)).astype(np.float32)
    expected = against_neighbours(torch.from_numpy(x)).numpy()
    assert relative_error(neighbours(jnp.asarray(x)), expected) <= 1e-6


def test_colours_are_counted():
    frames = np.random.default_rng(0).integers(0, 256, (1, 3, 27, 48, 3)).astype(np.uint8)
    expected = counted(torch.from_numpy(frames)).numpy()
    assert np.array_equal(colour_counts(jnp.asarray(frames)), expected)
    assert expected.sum() == 3 * 27 * 48


class Shift(nnx.Module):
    """Answers with the red of the frame `by` places on, and with the place in the window."""

    def __init__(self, by):
        self.by = by

    def __call__(self, frames):
        red = jnp.roll(frames[:, :, 0, 0, 0].astype(jnp.float32), -self.by, axis=1)
        place = jnp.broadcast_to(jnp.arange(100.0), red.shape)
        return jnp.stack([red, place], axis=-1) / 32


@pytest.mark.parametrize("n", [1, 49, 50, 51, 130, 250])
@pytest.mark.parametrize("by", [-25, 0, 25])
def test_the_middle_of_every_window_counts(n, by):
    frames = np.zeros((n, 27, 48, 3), np.uint8)
    frames[:, 0, 0, 0] = np.arange(n)
    seen = Cutter(Shift(by), batch=2).heads(frames).astype(np.float64)
    seen = np.rint(32 * np.log(seen / (1 - seen)))
    assert np.array_equal(seen[:, 0], np.clip(np.arange(n) + by, 0, n - 1))
    assert np.array_equal(seen[:, 1], 25 + np.arange(n) % 50)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((3, 48, 27, 3), np.uint8),
        np.zeros((3, 27, 48, 3), np.float32),
        np.zeros((0, 27, 48, 3), np.uint8),
        np.zeros((27, 48, 3), np.uint8),
    ],
    ids=["turned", "floats", "none", "one"],
)
def test_frames_of_another_kind(frames):
    with pytest.raises(UserError, match=r"the frames for cuts are .* expected uint8 \[n, 27, 48"):
        Cutter(Shift(0), batch=1).heads(frames)


def rewritten(pair, tmp_path, change):
    tensors = dict(pair[0].state_dict())
    change(tensors)
    path = tmp_path / "changed.pth"
    torch.save(tensors, path)
    return path


def wrong_names_and_shapes(tensors):
    del tensors["fc1.bias"]
    tensors["cls_layer1.weight"] = tensors["cls_layer1.weight"][:, :3]
    tensors["head.weight"] = torch.zeros(2)


def not_a_number(tensors):
    tensors["SDDCNN.0.DDCNN.0.bn.running_var"] = torch.full((64,), float("nan"))


def whole_numbers(tensors):
    tensors["fc1.bias"] = torch.zeros(1024, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            wrong_names_and_shapes,
            ["TransNet V2's published weights", "fc1.bias", "cls_layer1.weight", "head.weight"],
        ),
        (not_a_number, ["stacks/0/blocks/0/norm/variance", "no finite number"]),
        (whole_numbers, ["hidden/bias", "no finite number"]),
    ],
)
def test_a_file_of_other_tensors(pair, tmp_path, change, told):
    path = rewritten(pair, tmp_path, change)
    with pytest.raises(UserError) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in [str(path), *told])


def test_counters_of_batches_may_be_absent(pair, tmp_path):
    def older(tensors):
        counters = [name for name in tensors if name.endswith("num_batches_tracked")]
        assert counters
        for name in counters:
            del tensors[name]

    cutter = load(rewritten(pair, tmp_path, older))
    frames = shots(3)
    assert np.array_equal(cutter.cuts(frames), pair[1].cuts(frames))
