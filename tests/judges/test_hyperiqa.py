"""HyperIQA against its published definition in PyTorch, and the crops that are judged."""

import numpy as np
import pytest
from drawn_torch import drawn
from golden_case import relative_error
from PIL import Image

from memo_jax.errors import UserError
from memo_jax.judges.hyperiqa import crops, load

torch = pytest.importorskip("torch", reason="PyTorch is the judge here")
tn = torch.nn
TARGET = (224, 112, 56, 28, 14)


class Bottleneck(tn.Module):
    def __init__(self, c_in, width, stride):
        super().__init__()
        c_out = 4 * width
        self.conv1, self.bn1 = tn.Conv2d(c_in, width, 1, bias=False), tn.BatchNorm2d(width)
        self.conv2 = tn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = tn.BatchNorm2d(width)
        self.conv3, self.bn3 = tn.Conv2d(width, c_out, 1, bias=False), tn.BatchNorm2d(c_out)
        self.downsample = None
        if stride > 1 or c_in != c_out:
            narrow = tn.Conv2d(c_in, c_out, 1, stride=stride, bias=False)
            self.downsample = tn.Sequential(narrow, tn.BatchNorm2d(c_out))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Backbone(tn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = tn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = tn.BatchNorm2d(64)
        c_in = 64
        for i, (depth, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 1):
            blocks = []
            for j in range(depth):
                blocks.append(Bottleneck(c_in, width, 2 if i > 1 and j == 0 else 1))
                c_in = 4 * width
            self.add_module(f"layer{i}", tn.Sequential(*blocks))
        for i, (c_in, reduced, side) in enumerate(
            ((256, 16, 8), (512, 32, 4), (1024, 64, 2)), start=1
        ):
            pool = tn.Sequential(tn.Conv2d(c_in, reduced, 1, bias=False), tn.AvgPool2d(7, stride=7))
            self.add_module(f"lda{i}_pool", pool)
            self.add_module(f"lda{i}_fc", tn.Linear(reduced * side**2, 16))
        self.lda4_pool = tn.AvgPool2d(7, stride=7)
        self.lda4_fc = tn.Linear(2048, 224 - 3 * 16)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = tn.functional.max_pool2d(x, 3, stride=2, padding=1)
        said = []
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            pooled = getattr(self, f"lda{i}_pool")(x).flatten(1)
            said.append(getattr(self, f"lda{i}_fc")(pooled))
        return x, torch.cat(said, 1)


class HyperNet(tn.Module):
    def __init__(self):
        super().__init__()
        self.res = Backbone()
        self.conv1 = tn.Sequential(
            tn.Conv2d(2048, 1024, 1),
            tn.ReLU(),
            tn.Conv2d(1024, 512, 1),
            tn.ReLU(),
            tn.Conv2d(512, 112, 1),
            tn.ReLU(),
        )
        for i in range(4):
            made = TARGET[i] * TARGET[i + 1] // 49
            self.add_module(f"fc{i + 1}w_conv", tn.Conv2d(112, made, 3, padding=1))
            self.add_module(f"fc{i + 1}b_fc", tn.Linear(112, TARGET[i + 1]))
        self.fc5w_fc, self.fc5b_fc = tn.Linear(112, 14), tn.Linear(112, 1)

    def forward(self, x):
        """Crop by crop, each by its own network."""
        last, said = self.res(x)
        content = self.conv1(last)
        scores = []
        for one, q in zip(content, said, strict=True):
            whole = one.mean((1, 2))
            for i in range(4):
                weight = getattr(self, f"fc{i + 1}w_conv")(one[None])
                weight = weight.reshape(TARGET[i + 1], TARGET[i])
                q = torch.sigmoid(weight @ q + getattr(self, f"fc{i + 1}b_fc")(whole))
            scores.append(self.fc5w_fc(whole) @ q + self.fc5b_fc(whole)[0])
        return torch.stack(scores)


def picture(seed, size=(90, 160)):
    """Waves with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(x / a + y / b) for a, b in rng.uniform(3, 30, (3, 2))]
    noisy = 128 + 90 * np.stack(waves, -1) + rng.normal(0, 8, (*size, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """PyTorch's module and ours, loaded from the file that it saved."""
    module = drawn(HyperNet(), 0)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            # Else sixteen residual sums grow, and sigmoids that are 0 or 1 say nothing.
            if "bn3.weight" in name or "w_conv" in name:
                tensor *= 0.1
    path = tmp_path_factory.mktemp("hyperiqa") / "koniq_pretrained.pkl"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    return module, load(path)


def test_a_picture_as_published(pair):
    """The mean over ten crops, and one crop after the other."""
    module, quality = pair
    shown = picture(0)
    ten = crops(shown, 3)
    x = torch.from_numpy(ten).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        scores = module((x - mean) / deviation).numpy()
    assert np.std(scores) > 1e-3 * np.abs(scores).max() > 0
    assert relative_error(quality._run(ten), scores) <= 1e-4
    assert quality.score(shown, 3) == pytest.approx(scores.mean(), rel=1e-4)


def test_crops_are_a_function_of_the_seed():
    shown = picture(1)
    whole = np.asarray(Image.fromarray(shown).resize((384, 512), Image.Resampling.BILINEAR))
    ten = crops(shown, 0)
    assert ten.shape == (10, 224, 224, 3) and ten.dtype == np.uint8
    assert np.array_equal(ten, crops(shown, 0))
    assert not np.array_equal(ten, crops(shown, 1))
    for crop in ten:  # each is a place of the resized picture
        corners = np.argwhere(np.all(whole[:289, :161] == crop[0, 0], axis=-1))
        assert any(np.array_equal(whole[y : y + 224, x : x + 224], crop) for y, x in corners)


def test_crops_reach_every_edge():
    """The places cover the resized picture from its first row and column to its last."""
    y, x = np.mgrid[:512, :384]
    numbered = np.stack([y // 2, x // 2, np.zeros_like(x)], -1).astype(np.uint8)
    corners = np.concatenate([crops(numbered, seed)[:, 0, 0, :2] for seed in range(300)])
    assert corners.min(0).tolist() == [0, 0]
    assert corners.max(0).tolist() == [288 // 2, 160 // 2]


@pytest.mark.parametrize(
    "shown",
    [
        np.zeros((20, 20), np.uint8),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((20, 20, 3), np.float32),
        np.zeros((0, 20, 3), np.uint8),
    ],
    ids=["grey", "with alpha", "floats", "empty"],
)
def test_pictures_of_another_kind(pair, shown):
    with pytest.raises(UserError, match=r"the picture's values are .* expected uint8 \[h, w, 3\]"):
        pair[1].score(shown)
