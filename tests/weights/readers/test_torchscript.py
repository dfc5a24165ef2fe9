"""Archives that are no TorchScript of weights, or want to run something."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.weights.readers.torchscript import is_program, norm_epsilons, read_program


def archive(path, pickled, members=None):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/data.pkl", pickled)
        file.writestr("net/code/__torch__.py", "class Net: ...")
        for name, content in (members or {}).items():
            file.writestr(f"net/{name}", content)
    return path


def module(state):
    """A pickle of an object of the program's own class, protocol 2 as TorchScript writes."""
    body = pickle.dumps(state, 2)[2:-1]
    return b"\x80\x02c__torch__.net\nNet\n)\x81" + body + b"b."


class Runs:
    def __reduce__(self):
        return (print, ("ran",))


def test_something_to_run_is_refused(tmp_path, capsys):
    path = archive(tmp_path / "net.pt", pickle.dumps(Runs(), 2))
    with pytest.raises(UserError, match=r"it would run .*print"):
        read_program(path)
    inside = archive(tmp_path / "inside.pt", module({"weight": Runs()}))
    with pytest.raises(UserError, match=r"it would run .*print"):
        read_program(inside)
    assert "ran" not in capsys.readouterr().out


def tensor(key, shape, stored):
    """The instructions of a float tensor on storage `key` that holds `stored` numbers."""

    class Typed(pickle.Pickler):
        def persistent_id(self, value):
            return value if isinstance(value, tuple) and value and value[0] == "storage" else None

    buffer = io.BytesIO()
    Typed(buffer, 2).dump(("storage", "FLOAT", key, "cpu", stored))
    identity = buffer.getvalue()[2:-1]
    # The type is a global, which a plain pickle here would have to import.
    identity = identity.replace(b"X\x05\x00\x00\x00FLOAT", b"ctorch\nFloatStorage\n", 1)
    strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    rest = b"".join(pickle.dumps(value, 2)[2:-1] for value in (0, shape, strides, False))
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + rest + hooks + b"tR"


def test_a_tree_of_modules(tmp_path):
    """Written by hand: a module in a module, with what is no tensor beside."""
    inner = b"c__torch__.net\nInner\n)\x81}(X\x06\x00\x00\x00weight" + tensor("0", (2, 3), 6)
    inner += b"X\x08\x00\x00\x00training\x89ub"
    outer = b"\x80\x02c__torch__.net\nNet\n)\x81}(X\x05\x00\x00\x00inner" + inner
    outer += b"X\x04\x00\x00\x00sizectorch.jit._pickle\nbuild_intlist\n](K\x01K\x02e\x85Rub."
    numbers = np.arange(6, dtype="<f4")
    path = archive(tmp_path / "net.pt", outer, {"data/0": numbers.tobytes()})
    found = read_program(path)
    assert list(found) == ["inner.weight"]
    assert np.array_equal(found["inner.weight"], numbers.reshape(2, 3))
    short = archive(tmp_path / "short.pt", outer, {"data/0": numbers.tobytes()[:-4]})
    with pytest.raises(UserError, match="is cut off"):
        read_program(short)
    absent = archive(tmp_path / "absent.pt", outer)
    with pytest.raises(UserError, match="lacks net/data/0"):
        read_program(absent)


def test_attributes_that_are_none(tmp_path):
    path = archive(tmp_path / "net.pt", module([1, 2]))
    with pytest.raises(UserError, match="no dictionary"):
        read_program(path)
    with pytest.raises(UserError, match="without tensors"):
        read_program(archive(tmp_path / "empty.pt", module({"a": 1})))


def test_modules_without_end(tmp_path):
    deep = b"\x80\x02" + b"c__torch__.net\nNet\n)\x81}X\x01\x00\x00\x00a" * 100
    deep += b"K\x01" + b"sb" * 100 + b"."
    with pytest.raises(UserError, match="too deep"):
        read_program(archive(tmp_path / "net.pt", deep))


def test_archives_of_another_kind(tmp_path):
    for name, content in {"text": b"no archive", "empty": b""}.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert not is_program(path)
        with pytest.raises(UserError, match="not a whole TorchScript file"):
            read_program(path)
    assert not is_program(tmp_path / "absent")
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as file:
        file.writestr("a.txt", "x")
    assert not is_program(tmp_path / "plain.zip")
    with pytest.raises(UserError, match=r"no data\.pkl"):
        read_program(tmp_path / "plain.zip")


@pytest.mark.parametrize("way", ["scripted", "traced"])
def test_what_the_program_says_of_norms(tmp_path, way):
    torch = pytest.importorskip("torch", reason="torch writes the programs that are read here")
    norms = [torch.nn.BatchNorm3d(2, eps=1e-3), torch.nn.BatchNorm3d(2)]
    for count, wanted in ((1, {1e-3}), (2, {1e-3, 1e-5})):
        net = torch.nn.Sequential(torch.nn.Conv3d(2, 2, 1), *norms[:count]).eval()
        if way == "scripted":
            program = torch.jit.script(net)
        else:
            program = torch.jit.trace(net, torch.zeros(1, 2, 2, 2, 2))
        program.save(str(tmp_path / "net.pt"))
        assert norm_epsilons(tmp_path / "net.pt") == wanted


def test_a_program_without_norms_says_nothing_of_them(tmp_path):
    assert norm_epsilons(archive(tmp_path / "net.pt", module({}))) == set()
    (tmp_path / "cut.pt").write_bytes((tmp_path / "net.pt").read_bytes()[:-30])
    with pytest.raises(UserError, match="not a whole TorchScript file"):
        norm_epsilons(tmp_path / "cut.pt")
