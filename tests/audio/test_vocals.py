"""The vocal separator, with networks that do something known."""

import itertools
import sys

import numpy as np
import pytest

from memo_jax.audio.vocals import VocalsConfig, VocalSeparator
from memo_jax.errors import UserError

CONFIG = VocalsConfig(fft=768, hop=128)
FREQUENCIES, TIMES = 320, 32


def write(path, scale=1.0, shape=("b", 4, FREQUENCIES, TIMES)):
    """A network that multiplies its input."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    name = helper.make_tensor("scale", TensorProto.FLOAT, [], [scale])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("input", "output")]
    node = helper.make_node("Mul", ["input", "scale"], ["output"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [name])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def separator(tmp_path_factory):
    return VocalSeparator(write(tmp_path_factory.mktemp("mdx") / "same.onnx"), CONFIG)


def sound(n):
    """Two channels of tones that the network's frequencies hold."""
    t = np.arange(n) / 44100
    return np.stack([np.sin(2 * np.pi * 700 * t), 0.5 * np.cos(2 * np.pi * 5000 * t)]).astype("f4")


@pytest.mark.parametrize("n", [9000, 20000])
def test_the_identity_gives_the_sound_back(separator, n):
    voice = separator(sound(n))
    assert voice.shape == (2, n) and voice.dtype == np.float32
    inner = slice(1500, n - 1500)  # a tone that starts or stops has frequencies that are cut
    assert np.abs(voice - sound(n))[:, inner].max() < 2e-3


def test_noise_in_the_band_comes_back_exactly(tmp_path):
    whole = VocalsConfig(fft=768, hop=128, cut_bins=0)
    separator = VocalSeparator(write(tmp_path / "a.onnx", shape=("b", 4, 385, TIMES)), whole)
    x = np.random.default_rng(0).normal(size=(2, 15001)).astype(np.float32)
    assert np.abs(separator(x) - x).max() < 1e-4


@pytest.mark.parametrize("n", [0, 1, 100, 3967, 3968, 3969])
def test_any_length(separator, n):
    assert separator(sound(n)).shape == (2, n)


def test_blocks_of_any_size_give_the_same(separator):
    x = sound(20000)
    edges = [0, 1, 5000, 5000, 5100, 17000, 20000]
    blocks = (x[:, a:b] for a, b in itertools.pairwise(edges))
    parts = list(separator.stream(blocks))
    assert len(parts) > 2
    assert np.abs(np.concatenate(parts, axis=1) - separator(x)).max() < 1e-6


def test_the_stream_holds_no_more_than_it_must(separator):
    given = 0

    def blocks():
        nonlocal given
        for _ in range(100):
            given += 1000
            yield sound(1000)

    taken = 0
    for part in separator.stream(blocks()):
        taken += part.shape[1]
        assert given - taken <= separator.chunk + 1000
    assert taken == given == 100_000


def test_the_network_is_asked(tmp_path):
    double = VocalSeparator(write(tmp_path / "double.onnx", scale=2.0), CONFIG)
    assert np.abs(double(sound(9000)) - 2 * sound(9000))[:, 1500:-1500].max() < 4e-3


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match="expected \\[batch, 4"):
        VocalSeparator(write(tmp_path / "a.onnx", shape=("b", 3, FREQUENCIES, TIMES)), CONFIG)
    with pytest.raises(UserError, match="400 frequencies"):
        VocalSeparator(write(tmp_path / "b.onnx", shape=("b", 4, 400, TIMES)), CONFIG)
    (tmp_path / "c.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="no ONNX model") as error:
        VocalSeparator(tmp_path / "c.onnx")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no file"):
        VocalSeparator(tmp_path / "missing.onnx")


def test_without_onnxruntime_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install"):
        VocalSeparator("x.onnx")
