"""PyTorch's own files, read without torch and compared with it to the bit."""

import collections
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.weights.readers import is_weights, open_tensors

torch = pytest.importorskip("torch", reason="torch writes the files that are read here")

TYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool "
    "complex64 complex128 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz "
    "float8_e8m0fnu"
).split()


def random_tensor(*shape, dtype=torch.float32, seed=0):
    """Any bits at all: a reader must not care for what they mean."""
    count = int(np.prod(shape)) * torch.empty((), dtype=dtype).element_size()
    low = 2 if dtype == torch.bool else 256
    bits = np.random.default_rng(seed).integers(0, low, count, np.uint8)
    return torch.frombuffer(bytearray(bits.tobytes()) or bytearray(8), dtype=dtype)[
        : int(np.prod(shape))
    ].reshape(shape)


def bits_of(tensor):
    return np.asarray(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())


def assert_same(read, tensors):
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        array = read[name]
        assert array.shape == tuple(tensor.shape), name
        assert not array.flags.writeable, name
        assert str(array.dtype) == str(tensor.dtype).removeprefix("torch."), name
        assert np.array_equal(np.frombuffer(array.tobytes(), np.uint8), bits_of(tensor)), name


@pytest.fixture
def saved(tmp_path):
    def save(content, name="weights.any", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_type_comes_back_to_the_bit(saved, protocol):
    tensors = {t: random_tensor(3, 5, dtype=getattr(torch, t)) for t in TYPES}
    tensors |= {f"0-d {t}": random_tensor(dtype=getattr(torch, t), seed=1) for t in TYPES}
    path = saved(tensors, pickle_protocol=protocol)
    assert is_weights(path)
    assert_same(open_tensors(path), tensors)
    assert open_tensors(path)["bfloat16"].dtype == ml_dtypes.bfloat16


def test_views_lie_on_one_storage_as_they_did(saved):
    base = random_tensor(6, 8)
    tensors = {
        "base": base,
        "transposed": base.T,
        "slice": base[1:5:2, 3:],
        "row": base[-1],
        "last": base[-1, -1],
        "repeated": base[:1].expand(4, 8),
        "folded": base.view(2, 3, 8).permute(2, 0, 1),
        "empty": base[:, :0],
        "nothing": torch.zeros(0, 3),
        "tied": base,
    }
    read = open_tensors(saved(tensors))
    assert_same(read, tensors)
    assert read["transposed"].strides == (4, 32) and read["repeated"].strides == (0, 4)
    for name in ("transposed", "slice", "row", "last", "repeated", "folded", "tied"):
        assert np.shares_memory(read[name], read["base"]), name


def test_a_modules_state_dict_with_its_metadata(saved):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).half()
    state = module.state_dict()
    assert state._metadata  # written as state of the OrderedDict
    assert_same(open_tensors(saved(state)), state)


def test_parameters_buffers_and_tensors_with_attributes(saved):
    marked, tagged = torch.nn.Parameter(random_tensor(4)), random_tensor(2, 2)
    marked.note = tagged.note = "hello"
    tensors = {
        "frozen": torch.nn.Parameter(random_tensor(3), requires_grad=False),
        "learned": torch.nn.Parameter(random_tensor(3, seed=2)),
        "marked": marked,
        "tagged": tagged,
        "buffer": torch.nn.Buffer(random_tensor(5)),
        "wants_gradient": random_tensor(2).requires_grad_(),
    }
    assert_same(open_tensors(saved(tensors)), tensors)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("under", ["state_dict", "model", "model_state_dict", "module", "ema"])
def test_a_training_checkpoint_gives_its_state_dict_alone(saved, under, protocol):
    state = collections.OrderedDict(w=random_tensor(3, 2), b=random_tensor(2, seed=3))
    default = collections.defaultdict(dict, {0: {"step": torch.tensor(3), "exp_avg": state["w"]}})
    checkpoint = {
        "epoch": 3,
        "global_step": torch.tensor(12),
        "callbacks": {collections.ChainMap: {"best": np.float64(0.5), "k": np.int64(3)}},
        "optimizer_states": [{"state": default, "param_groups": [{"betas": (0.9, 0.999)}]}],
        "hyper_parameters": {"size": torch.Size([2]), "on": torch.device("cpu"), "t": torch.half},
        "seen": collections.Counter("aab"),
        "rest": [{1}, frozenset([2]), b"x", bytearray(b"y"), 1j, slice(2), 2**70, np.zeros(2)],
        "layout": [np.bool_(True), np.dtype("f4"), torch.ones(2).untyped_storage()],
        "random": torch.get_rng_state(),
        under: {**state, "version": 2},
    }
    assert_same(open_tensors(saved(checkpoint, pickle_protocol=protocol)), state)


def test_without_any_tensors_the_keys_are_told(saved):
    path = saved({"generator": {"w": torch.ones(2)}, "epoch": 3})
    with pytest.raises(UserError, match="it has: generator, epoch; save the model's state_dict"):
        open_tensors(path)
    with pytest.raises(UserError, match="no dictionary of tensors"):
        open_tensors(saved([torch.ones(2)]))
    with pytest.raises(UserError, match="under 3 of type int"):
        open_tensors(saved({3: torch.ones(2)}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.nn.Linear(2, 2), "it would run torch.nn.modules.linear.Linear"),
        ({"a": torch.eye(2).to_sparse()}, "_rebuild_sparse_tensor.*save it as a dense tensor"),
        ({"a": torch.ones(2, dtype=torch.complex64).conj()}, "resolve_conj"),
        ({"a": torch.zeros(2, dtype=torch.bits8)}, "torch.bits8"),
    ],
    ids=["module", "sparse", "conjugate", "bits"],
)
def test_what_is_no_dense_tensor_is_told(saved, content, message):
    with pytest.raises(UserError, match=message):
        open_tensors(saved(content))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_torchscript_is_told_apart(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(UserError, match="TorchScript program, not weights"):
        open_tensors(path)


def test_an_old_file_is_read_by_torch(saved):
    base = random_tensor(4, 3)
    tensors = {"a": base, "t": base.T, "half": random_tensor(3, dtype=torch.bfloat16)}
    path = saved({"state_dict": tensors, "n": 1}, _use_new_zipfile_serialization=False)
    assert is_weights(path)
    assert_same(open_tensors(path), tensors)


def test_an_old_file_without_torch_says_what_to_install(saved, monkeypatch):
    path = saved({"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install 'memo_jax\[convert\]'"):
        open_tensors(path)


def test_an_old_file_is_kept_from_an_unsafe_torch(saved, monkeypatch):
    path = saved({"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(UserError, match=r"takes PyTorch 2\.6 or newer"):
        open_tensors(path)


def rezipped(path, compression, change=lambda name, data: data):
    """The same members, written by another zip program."""
    with zipfile.ZipFile(path) as old:
        members = [(name, change(name, old.read(name))) for name in old.namelist()]
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in members:
            new.writestr(name, data)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_zipped_again_is_read(saved, compression):
    tensors = {"a": random_tensor(40, 30), "none": torch.zeros(0)}
    path = saved(tensors)
    rezipped(path, compression)
    assert_same(open_tensors(path), tensors)


def test_compressed_members_have_a_limit(saved, monkeypatch):
    path = saved({"a": torch.zeros(10_000)})
    rezipped(path, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr("memo_jax.weights.readers.pickled.MAX_INFLATED", 20_000)
    with pytest.raises(UserError, match="is compressed, and larger than"):
        open_tensors(path)


def test_the_other_byte_order_is_refused(saved):
    path = saved({"a": torch.ones(2)})
    rezipped(path, 0, lambda name, data: b"big" if name.endswith("byteorder") else data)
    with pytest.raises(UserError, match="byte order 'big'; expected 'little'"):
        open_tensors(path)


def test_checksums_of_the_description_are_kept_where_there_are_any(saved):
    tensors = {"a": random_tensor(3)}
    path = saved(tensors)
    torch.serialization.set_crc32_options(False)
    try:
        assert_same(open_tensors(saved(tensors, "uncounted")), tensors)
    finally:
        torch.serialization.set_crc32_options(True)
    data = path.read_bytes()
    assert data.count(b"X\x01\x00\x00\x00a") == 1
    path.write_bytes(data.replace(b"X\x01\x00\x00\x00a", b"X\x01\x00\x00\x00b"))
    with pytest.raises(UserError, match=r"checksum of its data.pkl.*download it again"):
        open_tensors(path)


def resident():
    """Bytes of this process that lie in memory: all, and those of mapped files."""
    fields = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    sizes = {f[0].rstrip(":"): int(f[1]) * 1024 for f in fields if f[0].startswith("Rss")}
    return sum(sizes.values())


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux counts the pages")
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_a_large_file_costs_memory_only_where_it_is_touched(saved, tmp_path, kind):
    megabytes, parts = 2**20, 10
    tensors = {str(i): torch.zeros(20, megabytes // 4) for i in range(parts)}  # 20 MB each
    if kind == "torch":
        path = saved(tensors)
    else:
        from safetensors.torch import save_file

        path = tmp_path / "large"
        save_file(tensors, path)
    tensors.clear()
    before = resident()
    read = open_tensors(path)
    assert len(read) == parts and sum(a.nbytes for a in read.values()) == 200 * megabytes
    assert resident() - before < 8 * megabytes
    read["7"].sum()
    assert 15 * megabytes < resident() - before < 40 * megabytes
    base = read["7"]
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)


def test_closing_lets_go_of_the_file(saved):
    path = saved({"a": torch.arange(3), "b": torch.ones(2)})

    def mapped():
        return str(path) in Path("/proc/self/maps").read_text()

    with open_tensors(path) as read:
        kept = read["a"]
        assert mapped() and read.files == (path,) and read.metadata == {}
    with pytest.raises(ValueError, match="are closed"):
        read["a"]
    assert mapped() and kept.tolist() == [0, 1, 2]
    del kept
    assert not mapped()


def test_torch_is_not_imported(saved):
    path = saved({"a": torch.arange(3)})
    program = (
        "import sys; from pathlib import Path; from memo_jax.weights.readers import open_tensors\n"
        f"assert open_tensors(Path({str(path)!r}))['a'].tolist() == [0, 1, 2]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
