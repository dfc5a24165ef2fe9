"""FID's and FVD's networks against PyTorch under drawn weights, from files of every published
form; and the distances that follow, against another formula."""

import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from drawn_torch import drawn
from flax import nnx
from golden_case import relative_error

from memo_jax.errors import UserError
from memo_jax.metrics.frechet import Moments, frechet_distance
from memo_jax.metrics.i3d import I3D as OurI3D
from memo_jax.metrics.i3d import windows_of
from memo_jax.metrics.inception import InceptionV3 as OurInception
from memo_jax.metrics.inception import prepared
from memo_jax.metrics.networks import (
    I3D_DROPPED,
    INCEPTION_DROPPED,
    i3d_name,
    i3d_rules,
    inception_rules,
    load_i3d,
    load_inception,
)
from memo_jax.weights.build import CountingRngs, abstract
from memo_jax.weights.readers.torchscript import is_program, read_program
from memo_jax.weights.rules import export_tensors, import_tensors

torch = pytest.importorskip("torch", reason="PyTorch is the judge here")

MANIFESTS = Path(__file__).parents[1] / "manifests" / "metrics"
SMALL = 64  # pixels at which sets of windows are compared


@pytest.fixture(scope="module")
def inception(published, tmp_path_factory):
    """PyTorch's module and ours, loaded from the file that it saved."""
    module = drawn(published.InceptionV3(), 0)
    path = tmp_path_factory.mktemp("fid") / "pt_inception-2015-12-05.pth"
    torch.save(module.state_dict(), path)
    return module, load_inception(path, batch=4)


@pytest.fixture(scope="module")
def i3d(published, tmp_path_factory):
    """PyTorch's module, and its TorchScript archive."""
    module = drawn(published.I3D(), 1)
    path = tmp_path_factory.mktemp("fvd") / "i3d_torchscript.pt"
    torch.jit.script(module).save(str(path))
    return module, path


def by_singular_values(a, b):
    """Fréchet's distance of few features of many numbers: tr (A B)^(1/2) is the sum of the
    singular values of the centred features' product; no covariance is formed."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    x, y = a - a.mean(0), b - b.mean(0)
    x, y = x / np.sqrt(len(a) - 1), y / np.sqrt(len(b) - 1)
    overlap = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    apart = a.mean(0) - b.mean(0)
    return apart @ apart + (x**2).sum() + (y**2).sum() - 2 * overlap


def moments_of(features):
    found = Moments(features.shape[1])
    found.add(features)
    return found


def test_inception_features_and_fid(inception, waves):
    """Two sets of frames through both, and the distance between them."""
    module, ours = inception
    sets = [waves(0, 5), waves(1, 6)]
    with torch.no_grad():
        wanted = [module(torch.from_numpy(frames)).numpy() for frames in sets]
    found = [ours(frames) for frames in sets]
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == np.float32 and want.std(0).max() > 1e-3 * np.abs(want).max()
        assert relative_error(got, want) <= 1e-4
    fid = frechet_distance(*(moments_of(features) for features in found))
    assert fid == pytest.approx(by_singular_values(*wanted), rel=1e-3)
    assert ours(sets[0][:0]).shape == (0, 2048)


def test_inception_pictures_as_torch_fidelity_prepares_them(inception, waves, monkeypatch):
    """Where torch-fidelity is installed: its own network and its TensorFlow-like resizing.

    Only the two files are imported: the package itself asks for torchvision, which has to be of
    the same build as PyTorch, and is not where PyTorch is the one for CPUs.
    """
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        pytest.skip("torch-fidelity is not installed")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    theirs = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    module, ours = inception
    # It loads a file of its own; the names in it are those of the published one.
    monkeypatch.setattr(torch, "load", lambda *_, **__: module.state_dict())
    network = theirs.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=__file__
    ).eval()
    sets = [waves(2, 4), waves(5, 4)]
    with torch.no_grad():
        wanted = [network(torch.from_numpy(f).permute(0, 3, 1, 2))[0].numpy() for f in sets]
    found = [np.asarray(ours._run(prepared(frames, "tensorflow"))) for frames in sets]
    for got, want in zip(found, wanted, strict=True):
        assert relative_error(got, want) <= 1e-4
    fid = frechet_distance(*(moments_of(features) for features in found))
    assert fid == pytest.approx(by_singular_values(*wanted), rel=1e-3)


def test_i3d_logits_as_published(i3d, waves):
    """One window at 224 pixels, from the TorchScript archive."""
    module, path = i3d
    frames = waves(3, 16)
    with torch.no_grad():
        want = module(torch.from_numpy(frames[None]).permute(0, 4, 1, 2, 3).float()).numpy()
    ours = load_i3d(path, batch=1)
    got = ours(np.stack([ours.prepared(frames)]))
    assert got.shape == (1, 400) and relative_error(got, want) <= 1e-4


def test_i3d_of_sets_and_fvd(i3d, waves, published):
    """Sets of windows at 64 pixels, so that there are several; the distance between them."""
    _, path = i3d
    module = published.I3D(SMALL)
    module.load_state_dict(i3d[0].state_dict())
    module.eval()
    ours = load_i3d(path, batch=3, side=SMALL)
    sets = [np.concatenate([windows_of(waves(10 * k + i, 33)) for i in range(3)]) for k in (1, 2)]
    assert sets[0].shape[:2] == (6, 16)
    found, wanted = [], []
    for windows in sets:
        found.append(ours(np.stack([ours.prepared(window) for window in windows])))
        with torch.no_grad():
            clips = torch.from_numpy(windows).permute(0, 4, 1, 2, 3).float()
            wanted.append(module(clips).numpy())
        assert relative_error(found[-1], wanted[-1]) <= 1e-4
    fvd = frechet_distance(*(moments_of(features) for features in found))
    assert fvd == pytest.approx(by_singular_values(*wanted), rel=1e-3)


def test_i3ds_norms_have_the_archives_epsilon(i3d, waves, published, tmp_path):
    """Ports of I3D differ in it, by about a hundredth of the logits here."""
    module = published.I3D(SMALL)
    module.load_state_dict(i3d[0].state_dict())
    module.eval()
    windows = windows_of(waves(4, 16))
    clips = torch.from_numpy(windows).permute(0, 4, 1, 2, 3).float()
    with torch.no_grad():
        usual = module(clips).numpy()
        for norm in module.modules():
            if isinstance(norm, torch.nn.BatchNorm3d):
                norm.eps = 1e-5
        want = module(clips).numpy()
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(module).save(str(path))
    ours = load_i3d(path, batch=1, side=SMALL)
    got = ours(np.stack([ours.prepared(window) for window in windows]))
    assert relative_error(got, want) <= 1e-4 < 1e-3 < relative_error(usual, want)


def other_spelling(name):
    """The torchscript's name as `InceptionI3d` has it."""
    swaps = {
        "branch_0": "b0",
        "branch_1.0": "b1a",
        "branch_1.1": "b1b",
        "branch_2.0": "b2a",
        "branch_2.1": "b2b",
        "branch_3.1": "b3b",
        "conv3d_0c_1x1": "logits",
        "batch3d": "bn",
    }
    for ours, theirs in swaps.items():
        name = name.replace(ours, theirs)
    return name[0].upper() + name[1:] if name.startswith(("mixed", "conv3d_")) else name


def test_the_other_spelling_of_i3d(i3d):
    for name in i3d[0].state_dict():
        other = other_spelling(name)
        assert i3d_name(other) == i3d_name(name) == name and other != name


def test_torchscript_is_read_as_its_state_dict(i3d):
    module, path = i3d
    read = read_program(path)
    want = module.state_dict()
    assert is_program(path) and set(want) == set(read)
    assert all(np.array_equal(read[name], tensor.numpy()) for name, tensor in want.items())
    assert not next(iter(read.values())).flags.writeable


@pytest.mark.parametrize("damage", ["cut", "nothing", "no tensors"])
def test_damaged_torchscript(i3d, tmp_path, damage):
    path = tmp_path / "i3d_torchscript.pt"
    if damage == "cut":
        path.write_bytes(i3d[1].read_bytes()[:-5000])
    elif damage == "nothing":
        path.write_bytes(b"")
    else:
        torch.jit.script(torch.nn.ReLU()).save(str(path))
    with pytest.raises(UserError) as error:
        load_i3d(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_another_networks_weights(i3d, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.zeros(3), "Conv2d_1a_3x3.conv.weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"InceptionV3's published weights: .*Conv2d_1a"):
        load_inception(path)
    with pytest.raises(UserError, match="I3D's published weights"):
        load_i3d(path)
    tensors = i3d[0].state_dict() | {
        "mixed_5c.branch_0.batch3d.bias": torch.full((384,), torch.nan)
    }
    torch.save(tensors, path)
    with pytest.raises(UserError, match=r"branch_0/batch3d/bias and 0 more .* no finite number"):
        load_i3d(path)


TABLES = {
    "inception_fid": (OurInception, inception_rules, INCEPTION_DROPPED, lambda name: name),
    "i3d_torchscript": (OurI3D, i3d_rules, I3D_DROPPED, i3d_name),
    "i3d_kinetics": (OurI3D, i3d_rules, I3D_DROPPED, i3d_name),
}


@pytest.mark.parametrize("name", TABLES)
def test_names_are_covered_once_and_go_back(name):
    """The recorded names and shapes, without torch: total, and to the bit."""
    make, rules, dropped, spelt = TABLES[name]
    content = json.loads((MANIFESTS / f"{name}.json").read_text())
    names = [n for n in content["params"] if not any(re.fullmatch(p, n) for p in dropped)]
    rng = np.random.default_rng(0)
    tensors = {spelt(n): rng.random(content["params"][n], np.float32) for n in names}
    assert len(tensors) == len(names) == content["read"]
    _, shapes = abstract(lambda rngs: make(rngs=rngs))
    values = import_tensors(name, rules(), tensors, {k: v.shape for k, v in shapes.items()})
    back = export_tensors(name, rules(), values)
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[key], value) for key, value in tensors.items())


@pytest.mark.parametrize("make", [OurInception, OurI3D])
def test_every_leaf_is_a_parameter(make):
    _, state = nnx.split(nnx.eval_shape(lambda: make(rngs=CountingRngs(shapes_only=True))))
    assert all(isinstance(leaf, nnx.Param) for _, leaf in nnx.to_flat_state(state))
