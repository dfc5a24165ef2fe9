"""Files made to do harm, and files that came to harm: a one-line refusal, and nothing else."""

import pickle
import random
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from memo_jax.errors import UserError
from memo_jax.weights.readers import legacy, machine, open_tensors

FLOATS = np.arange(6, dtype=np.float32)
CASES = 300


def text(word):
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def number(n):
    data = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def named(name):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def state_dict(entry, name="w"):
    return b"\x80\x02}" + text(name) + entry + b"s."


def storage(kind="torch.FloatStorage", key="0", elements=6):
    return tuple_of(text("storage"), named(kind), text(key), text("cpu"), number(elements)) + b"Q"


def tensor(of=None, offset=0, sizes=(6,), strides=(1,), rebuild="_rebuild_tensor_v2", more=b""):
    """A call of one of PyTorch's functions; what is bytes already goes in as it is."""
    sizes, strides = (
        value if isinstance(value, bytes) else tuple_of(*map(number, value))
        for value in (sizes, strides)
    )
    offset = offset if isinstance(offset, bytes) else number(offset)
    hooks = named("collections.OrderedDict") + b")R"
    arguments = (of or storage(), offset, sizes, strides, b"\x89", hooks, more)
    return named(f"torch._utils.{rebuild}") + tuple_of(*arguments) + b"R"


def write(path, description, extra=None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", description)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/data/0", FLOATS.tobytes())
        for name, member in (extra or {}).items():
            archive.writestr(name, member)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


def refusal(path):
    """The message, one line of it, that opening `path` gives."""
    with pytest.raises(UserError) as caught:
        open_tensors(path)
    message = str(caught.value)
    assert str(path) in message and message.isprintable() and len(message) < 1000
    return message


def test_the_hand_made_file_is_read(path):
    """What the hostile files below differ from."""
    with open_tensors(write(path, state_dict(tensor(sizes=(2, 3), strides=(3, 1))))) as read:
        assert np.array_equal(read["w"], FLOATS.reshape(2, 3))


class Exploit:
    """Pickles itself as whatever it is given."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def payloads(trace: Path):
    """How and what -> a pickle that Python's own unpickler runs; `trace` is left by most."""
    touch = f"open({str(trace)!r}, 'w').close()"
    system = text(f"touch {trace}")
    run = tuple_of(system) + b"R"
    bare = text(str(trace))
    return {
        "REDUCE posix.system": named("posix.system") + run,
        "REDUCE os.system": named("os.system") + run,
        "REDUCE builtins.eval": named("builtins.eval") + tuple_of(text(touch)) + b"R",
        "REDUCE __builtin__.exec": named("__builtin__.exec") + tuple_of(text(touch)) + b"R",
        "REDUCE by STACK_GLOBAL builtins.exec": text("builtins")
        + text("exec")
        + b"\x93"
        + tuple_of(text(touch))
        + b"R",
        "memoised os.system": b"(" + named("os.system") + b"q\x01h\x01" + run + b"t",
        "NEWOBJ _io.FileIO": named("_io.FileIO") + tuple_of(bare, text("w")) + b"\x81",
        "NEWOBJ_EX subprocess.Popen": named("subprocess.Popen")
        + tuple_of(tuple_of(text("touch"), bare))
        + b"}\x92",
        "INST os.system": b"(" + system + b"ios\nsystem\n",
        "OBJ subprocess.Popen": b"("
        + named("subprocess.Popen")
        + tuple_of(text("touch"), bare)
        + b"o",
        "BUILD of torch._utils._rebuild_tensor_v2": named("torch._utils._rebuild_tensor_v2")
        + b"}"
        + text("__code__")
        + text("x")
        + b"sb",
        "APPEND to os.environ": named("os.environ") + text("x") + b"a",
        "SETITEM into os.environ": named("os.environ") + text("MEMO") + text("x") + b"s",
        "nested in a list, builtins.exec": b"](]("
        + named("builtins.exec")
        + tuple_of(text(touch))
        + b"Ree",
        "numpy.fromfile": named("numpy.fromfile") + tuple_of(text("/dev/zero")) + b"R",
        "numpy.ndarray.tofile": named("numpy.ndarray.tofile") + tuple_of(b"N", bare) + b"R",
        "torch.hub.load": named("torch.hub.load") + tuple_of(text("a/b"), text("c")) + b"R",
        "torch.load": named("torch.load") + tuple_of(bare) + b"R",
        "importlib.import_module": named("importlib.import_module")
        + tuple_of(text("antigravity"))
        + b"R",
        "copyreg._reconstructor": named("copyreg._reconstructor")
        + tuple_of(named("_io.FileIO"), named("builtins.object"), b"N")
        + b"R",
        "builtins.getattr": named("builtins.getattr")
        + tuple_of(named("os.path"), text("os"))
        + b"R",
        "_rebuild_from_type_v2 running os.system": named("torch._tensor._rebuild_from_type_v2")
        + tuple_of(named("os.system"), named("torch.Tensor"), tuple_of(system), b"N")
        + b"R",
        "_rebuild_from_type_v2 making subprocess.Popen": named(
            "torch._tensor._rebuild_from_type_v2"
        )
        + tuple_of(
            named("torch._utils._rebuild_parameter"), named("subprocess.Popen"), tuple_of(), b"N"
        )
        + b"R",
        "copyreg extension 7": b"\x82\x07",
    }


@pytest.mark.parametrize("name", payloads(Path("trace")))
def test_a_file_that_would_run_something_is_refused(path, tmp_path, name):
    trace = tmp_path / "trace"
    message = refusal(write(path, state_dict(payloads(trace)[name])))
    runs = name if name.startswith("copyreg") else name.split()[-1]
    assert f"refused, it would run {runs}; weights never need that" in message
    assert "use the safetensors version of this model" in message
    assert not trace.exists()


@pytest.mark.parametrize("where", ["list", "beside", "as state", "key", "sizes"])
def test_a_payload_in_any_place_is_refused(path, tmp_path, where):
    trace = tmp_path / "trace"
    bomb = named("os.system") + tuple_of(text(f"touch {trace}")) + b"R"
    made = {
        "list": state_dict(b"]" + bomb + b"a"),
        "beside": b"\x80\x02}(" + text("w") + tensor() + text("x") + bomb + b"u.",
        "as state": b"\x80\x02" + named("collections.OrderedDict") + b")R" + bomb + b"b.",
        "key": b"\x80\x02}" + bomb + tensor() + b"s.",
        "sizes": state_dict(tensor(sizes=bomb)),
    }
    assert "it would run os.system" in refusal(write(path, made[where]))
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_pythons_own_pickler_makes_of_an_exploit_is_refused(path, tmp_path, protocol):
    trace = tmp_path / "trace"
    exploit = Exploit(exec, (f"open({str(trace)!r}, 'w').close()",))
    data = pickle.dumps({"w": exploit}, protocol)
    pickle.loads(data)
    assert trace.exists()  # it works
    trace.unlink()
    assert "builtin" in refusal(write(path, data)) and "exec" in refusal(path)
    assert not trace.exists()


def test_an_old_file_with_a_payload_is_refused(path, tmp_path):
    pytest.importorskip("torch", reason="torch reads its oldest files")
    trace = tmp_path / "trace"
    exploit = Exploit(exec, (f"open({str(trace)!r}, 'w').close()",))
    header = legacy.MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    path.write_bytes(header + pickle.dumps({"w": exploit}, 2) + pickle.dumps([], 2))
    message = refusal(path)
    assert "is refused by PyTorch" in message and "\n" not in message
    assert not trace.exists()


def test_a_mentioned_class_is_only_a_word(path):
    """Old Lightning checkpoints have a class for a key."""
    callback = named("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    description = (
        b"\x80\x02}(" + text("callbacks") + b"}" + callback + b"}s" + text("state_dict") + b"}"
    ) + (text("w") + tensor() + b"su.")
    assert list(open_tensors(write(path, description))) == ["w"]


def test_configurations_beside_the_weights_are_let_stand_unbuilt(path):
    config = named("omegaconf.dictconfig.DictConfig") + b")\x81}" + text("_content") + b"Nsb"
    args = named("argparse.Namespace") + b")\x81}" + text("lr") + b"K\x01sb"
    description = (
        b"\x80\x02}(" + text("cfg") + config + text("args") + args + text("w") + tensor() + b"u."
    )
    assert list(open_tensors(write(path, description))) == ["w"]


HUGE = 2**62
OUTSIDE = {
    "offset behind the end": {"offset": 1},
    "offset far behind the end": {"offset": HUGE},
    "negative offset": {"offset": -1, "sizes": (1,)},
    "offset of 2**64": {"offset": 2**64, "sizes": (1,)},
    "offset that is no number": {"offset": text("0")},
    "one element too many": {"sizes": (7,)},
    "stride behind the end": {"sizes": (2,), "strides": (6,)},
    "hostile stride": {"sizes": (2,), "strides": (HUGE,)},
    "stride that wraps around": {"sizes": (2,), "strides": (2**64 - 4,)},
    "negative stride": {"offset": 5, "sizes": (6,), "strides": (-1,)},
    "negative size": {"sizes": (-1,)},
    "two negative sizes": {"sizes": (-2, -3), "strides": (3, 1)},
    "size that wraps around": {"sizes": (2**32, 2**32), "strides": (0, 0)},
    "repeated beyond reason": {"sizes": (2**40,), "strides": (0,)},
    "empty beyond reason": {"sizes": (0, HUGE, HUGE), "strides": (1, 1, 1)},
    "more sizes than strides": {"sizes": (2, 3), "strides": (1,)},
    "more axes than numpy has": {"sizes": (1,) * 65, "strides": (1,) * 65},
    "sizes that are no numbers": {"sizes": tuple_of(text("6"))},
    "sizes that are no tuple": {"sizes": number(6)},
    "storage longer than its bytes": {"of": storage(elements=7), "sizes": (1,)},
    "storage of wider elements": {"of": storage("torch.DoubleStorage"), "sizes": (1,)},
    "storage of negative length": {"of": storage(elements=-1), "sizes": (0,)},
    "storage that is not there": {"of": storage(key="1")},
    "storage outside its folder": {"of": storage(key="../byteorder")},
    "storage of no known type": {"of": storage("torch.OddStorage")},
    "no storage": {"of": text("storage")},
    "persistent id of another kind": {"of": tuple_of(text("module"), text("0")) + b"Q"},
    "typed beyond the end": {
        "of": storage("torch.storage.UntypedStorage", elements=24),
        "sizes": (4,),
        "rebuild": "_rebuild_tensor_v3",
        "more": named("torch.complex64"),
    },
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_tensor_reaches_outside_its_storage(path, name):
    refusal(write(path, state_dict(tensor(**OUTSIDE[name])), extra={"a/data/9": bytes(4096)}))


def test_the_axis_of_one_element_may_have_any_stride(path):
    read = open_tensors(write(path, state_dict(tensor(sizes=(1, 6), strides=(HUGE, 1)))))
    assert np.array_equal(read["w"], FLOATS[None])


def doubling(times):
    """A tuple of two of a tuple of two of ...: 2**times leaves, if anyone walks them."""
    return b")q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(times))


BOMBS = {
    "a memo of 2**32 places": b"\x80\x02Nr\xff\xff\xff\xff.",
    "a string of 4 GB": b"\x80\x02X\xff\xff\xff\xffab.",
    "bytes of 2**62": b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"ab.",
    "a byte array of 2**62": b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b"ab.",
    "an integer of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7fab.",
    "an integer of 1 MB": b"\x80\x02\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20 + b".",
    "digits without end": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
    "deep lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "deep tuples as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "a doubled tuple as a key": b"\x80\x02}" + doubling(60) + b"Ns.",
    "a wide tuple as a key": b"\x80\x02}(" + b"N" * 1000 + b"tNs.",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a list for a key": b"\x80\x02}]Ns.",
    "marks without end": b"\x80\x02" + b"(" * 200_000 + b".",
    "a name of 100 kB": b"\x80\x04" + text("a" * 100_000) + text("b") + b"\x93.",
    "nothing to take": b"\x80\x02R.",
    "nothing to close": b"\x80\x02t.",
    "no such memory": b"\x80\x02h\x07.",
    "a key without a value": b"\x80\x02}(Nu.",
    "a number called": b"\x80\x02K\x01)R.",
    "a number filled": b"\x80\x02K\x01Na.",
    "arguments that are none": b"\x80\x02" + named("collections.OrderedDict") + b"NR.",
    "an empty pickle": b"",
    "no end": b"\x80\x02}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_that_asks_for_too_much_is_told_not_run_into(path, name):
    started = time.monotonic()
    refusal(write(path, BOMBS[name]))
    assert time.monotonic() - started < 5


def test_the_length_of_a_pickle_is_bounded(path, monkeypatch):
    monkeypatch.setattr(machine, "MAX_STEPS", 1000)
    assert "more than 1000 steps" in refusal(write(path, b"\x80\x02" + b"N" * 1001 + b"."))
    monkeypatch.setattr("memo_jax.weights.readers.pickled.MAX_PICKLE", 100)
    assert "more than 100 bytes" in refusal(write(path, b"\x80\x02" + b"N" * 101 + b"."))


def test_a_name_cannot_paint_on_the_terminal(path):
    refusal(write(path, b"\x80\x04" + text("os\x1b[31m\n") + text("sys\u202etem") + b"\x93)R."))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(path, compression):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", state_dict(tensor()))
    assert "compressed in a way" in refusal(path)


def test_other_zip_files_are_told_apart(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    assert "not one that torch.save wrote" in refusal(path)


def damaged(whole: bytes, rng: random.Random):
    """Cut, flipped or moved somewhere, and half the time at its head or tail."""
    data, place = bytearray(whole), rng.randrange(len(whole))
    if rng.random() < 0.5:
        place = rng.choice([place % 200, len(whole) - 1 - place % 200])
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        return bytes(data[:place] + data[place + rng.randrange(1, 9) :])
    for _ in range(rng.choice([1, 1, 4])):
        data[(place + rng.randrange(8)) % len(data)] = rng.randrange(256)
    return bytes(data)


def whole_files(folder: Path):
    save_file({"w": FLOATS.reshape(2, 3), "b": FLOATS[:1]}, folder / "s", {"format": "pt"})
    yield "safetensors", folder / "s"
    both = b"\x80\x02}(" + text("w") + tensor(sizes=(2, 3), strides=(3, 1))
    yield "zip", write(folder / "z", both + text("b") + tensor(sizes=(1,)) + b"u.")


def test_damage_is_read_or_told_and_nothing_else(tmp_path):
    rng = random.Random(0)
    for kind, whole in [(kind, path.read_bytes()) for kind, path in whole_files(tmp_path)]:
        told = 0
        for case in range(CASES):
            path = tmp_path / f"{kind}-{case}"
            path.write_bytes(damaged(whole, rng))
            try:
                with open_tensors(path) as read:
                    for array in read.values():
                        array.tobytes()
            except UserError as error:
                told += 1
                assert str(path) in str(error) and "\n" not in str(error)
        assert CASES // 4 < told < CASES  # both happen


def test_a_damaged_description_under_a_right_checksum_is_read_or_told(tmp_path):
    """The checksum catches chance; who means harm computes it."""
    rng, whole = random.Random(1), state_dict(tensor(sizes=(2, 3), strides=(3, 1)))
    path, told = tmp_path / "weights", 0
    for _ in range(CASES):
        description = damaged(whole, rng)
        write(path, description)
        assert zlib.crc32(description) == zipfile.ZipFile(path).getinfo("a/data.pkl").CRC
        try:
            with open_tensors(path) as read:
                for array in read.values():
                    array.tobytes()
        except UserError as error:
            told += 1
            assert str(error).isprintable()
    assert CASES // 2 < told < CASES


def test_every_cut_of_a_safetensors_file_is_told(tmp_path):
    save_file({"w": FLOATS}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in range(len(whole)):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(whole[:length])
        assert "is not a whole safetensors file" in refusal(path)
