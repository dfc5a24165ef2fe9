"""Safetensors as numpy views, and which files of a folder are meant."""

import json
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors import TensorSpec, serialize_file
from safetensors.numpy import load_file, save_file

from memo_jax.errors import UserError
from memo_jax.weights.readers import is_weights, open_tensors

ONE = np.arange(6, dtype=np.float32).reshape(2, 3)
TWO = np.arange(4, dtype=np.float16)
NAMES = {  # of safetensors -> of numpy
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
    "bfloat16": ml_dtypes.bfloat16,
}
PLAIN = "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool complex64"


def refusal(path):
    with pytest.raises(UserError) as caught:
        open_tensors(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_type_of_safetensors_comes_back_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    types = {name: np.dtype(NAMES.get(name, name)) for name in [*NAMES, *PLAIN.split()]}
    arrays = {
        name: rng.integers(0, 2 if name == "bool" else 256, (3, 4 * t.itemsize), np.uint8).view(t)
        for name, t in types.items()
    }
    specs = {
        name: TensorSpec(
            dtype=name, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes
        )
        for name, array in arrays.items()
    }
    path = tmp_path / "weights"
    serialize_file(specs, path, {"format": "pt", "note": "hello"})
    with open_tensors(path) as read:
        assert read.metadata == {"format": "pt", "note": "hello"} and read.files == (path,)
        assert set(read) == set(arrays)
        for name, array in arrays.items():
            assert read[name].dtype == array.dtype and read[name].shape == array.shape
            assert read[name].tobytes() == array.tobytes(), name
            assert not read[name].flags.writeable
            assert np.shares_memory(read[name], mapped_file(read[name]))


def mapped_file(array):
    """The mapped file that a view lies on."""
    while not isinstance(array, np.memmap):
        array = array.base
    return array


def test_scalars_and_empty_tensors_read_as_the_library_reads_them(tmp_path):
    path = tmp_path / "weights"
    arrays = {"scalar": np.array(3.5, np.float32), "empty": np.zeros((0, 3), np.int64), "a": ONE}
    save_file(arrays, path)
    read, expected = open_tensors(path), load_file(path)
    assert set(read) == set(expected)
    for name, array in expected.items():
        assert read[name].shape == array.shape and np.array_equal(read[name], array)


def test_a_type_without_a_numpy_name_is_told(tmp_path):
    header = json.dumps({"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "weights").write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    assert "'w' is of type F4, which is not read" in refusal(tmp_path / "weights")


@pytest.mark.parametrize(
    ("entries", "data"),
    [
        ({"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [4, 12])}, bytes(12)),
        ({"a": ("F32", [2], [0, 8])}, bytes(7)),
        ({"a": ("F32", [2], [0, 8])}, bytes(9)),
        ({"a": ("F32", [3], [0, 8])}, bytes(8)),
        ({"a": ("F32", [2**32, 2**32], [0, 8])}, bytes(8)),
        ({"a": ("F32", [2], [8, 0])}, bytes(8)),
        ({"a": ("ODD", [2], [0, 8])}, bytes(8)),
    ],
    ids="overlap short long shape overflow backwards type".split(),
)
def test_headers_that_do_not_fit_their_bytes_are_told(tmp_path, entries, data):
    keys = ("dtype", "shape", "data_offsets")
    made = {name: dict(zip(keys, entry, strict=True)) for name, entry in entries.items()}
    header = json.dumps(made).encode()
    path = tmp_path / "weights"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    message = refusal(path)
    assert message.startswith(f"{path} is not a whole safetensors file (")
    assert message.endswith("; download it again")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Access denied</body></html>", "is a web page, not weights"),
        (b"\n<html>404</html>", "is a web page, not weights"),
        (b"", "is not a whole safetensors file"),
        (b"not found", "is not a whole safetensors file"),
    ],
)
def test_what_came_instead_of_the_weights_is_told(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert f"{path} {message}" in refusal(tmp_path)
    assert not is_weights(path)


def test_other_files_and_paths_are_told(tmp_path):
    path = tmp_path / "notes.bin"
    path.write_bytes(pickle.dumps({"a": ONE}))
    assert "is neither a safetensors file nor one that torch.save wrote" in refusal(path)
    assert "cannot be read (No such file" in refusal(tmp_path / "absent")
    assert "holds no weights; expected one of diffusion_pytorch_model.saf" in refusal(tmp_path)
    assert not is_weights(tmp_path) and not is_weights(tmp_path / "absent")


def test_the_content_tells_the_kind_whatever_the_name(tmp_path):
    save_file({"a": ONE}, tmp_path / "weights.bin")
    assert is_weights(tmp_path / "weights.bin") and is_weights(tmp_path)
    assert np.array_equal(open_tensors(tmp_path / "weights.bin")["a"], ONE)


@pytest.mark.parametrize(
    ("present", "meant"),
    [
        (["model.safetensors"], "model.safetensors"),
        (
            ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"],
            "diffusion_pytorch_model.safetensors",
        ),
        (
            ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"],
            "diffusion_pytorch_model.fp16.safetensors",
        ),
        (["pytorch_model.bin", "optimizer.bin"], "pytorch_model.bin"),
        (["model.ckpt", "other.safetensors"], "model.ckpt"),
        (["any name at all"], "any name at all"),
    ],
)
def test_the_file_that_a_folder_means(tmp_path, present, meant):
    for number, name in enumerate(present):
        save_file({f"{number}": ONE}, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    assert is_weights(tmp_path)
    assert open_tensors(tmp_path).files == (tmp_path / meant,)


@pytest.mark.parametrize(
    "present",
    [
        ["diffusion_pytorch_model.safetensors", "model.safetensors"],
        ["model.pt", "model.ckpt"],
        ["x", "y"],
        ["a.safetensors.index.json", "b.safetensors.index.json"],
    ],
)
def test_a_folder_that_may_mean_several_names_them(tmp_path, present):
    for name in present:
        save_file({"a": ONE}, tmp_path / name)
    assert f"holds several weights ({', '.join(present)}); name the one" in refusal(tmp_path)


@pytest.fixture
def sharded(tmp_path):
    """A folder of two shards; `sharded(index)` writes its index."""
    save_file({"a": ONE, "c": ONE}, tmp_path / "x-1.safetensors", {"format": "pt"})
    save_file({"b": TWO}, tmp_path / "x-2.safetensors", {"part": "2"})

    def write(weight_map):
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return tmp_path

    return write


def test_shards_are_read_as_one(sharded):
    folder = sharded({"b": "x-2.safetensors", "a": "x-1.safetensors", "c": "x-1.safetensors"})
    save_file({"z": ONE}, folder / "model.safetensors")  # the index goes before
    assert is_weights(folder)
    with open_tensors(folder) as read:
        assert list(read) == ["b", "a", "c"]
        assert np.array_equal(read["a"], ONE) and np.array_equal(read["b"], TWO)
        assert read.files == (folder / "x-2.safetensors", folder / "x-1.safetensors")
        assert read.metadata == {"format": "pt", "part": "2"}


def test_shards_that_are_links_are_read(sharded, tmp_path_factory):
    """So the hub's cache lays them out."""
    folder, blobs = sharded({"b": "x-2.safetensors"}), tmp_path_factory.mktemp("blobs")
    (folder / "x-2.safetensors").rename(blobs / "0123")
    (folder / "x-2.safetensors").symlink_to(blobs / "0123")
    assert np.array_equal(open_tensors(folder)["b"], TWO)


def test_a_missing_shard_is_named(sharded):
    folder = sharded({"b": "x-2.safetensors", "a": "x-3.safetensors"})
    assert "lacks x-3.safetensors; download the whole set" in refusal(folder)


def test_a_name_that_its_shard_lacks_is_told(sharded):
    folder = sharded({"a": "x-1.safetensors", "d": "x-2.safetensors"})
    assert "places 'd' in x-2.safetensors, which lacks it" in refusal(folder)


@pytest.mark.parametrize("file", ["../x-1.safetensors", "/etc/passwd", "..", "", "a\\b", "a\0"])
def test_an_index_cannot_point_outside_its_folder(sharded, file):
    assert "points outside its folder" in refusal(sharded({"a": file}))


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', "[" * 100_000),
        *(
            json.dumps({"weight_map": {"a": shard}})
            for shard in (3, None, ["x"], "\ud800", "x" * 999)
        ),
    ],
    ids=range(11),
)
def test_a_damaged_index_is_told(tmp_path, text):
    (tmp_path / "model.bin.index.json").write_text(text)
    assert refusal(tmp_path).isprintable()


def test_an_index_of_pickles(tmp_path):
    torch = pytest.importorskip("torch", reason="torch writes the shards")
    torch.save({"a": torch.arange(3)}, tmp_path / "pytorch_model-1.bin")
    index = {"weight_map": {"a": "pytorch_model-1.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert open_tensors(tmp_path)["a"].tolist() == [0, 1, 2]
