"""PyTorch's zip checkpoints (torch.save since 1.6), read without torch.

`<name>/data.pkl` describes the objects and names the storages; `<name>/data/<key>` are the
storages' bytes, stored uncompressed, so that they can be mapped; `<name>/byteorder` says whose.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from memo_jax.errors import UserError
from memo_jax.weights.readers.choose import state_dict
from memo_jax.weights.readers.machine import Machine, Mark, Opaque, Refused, shown
from memo_jax.weights.readers.tensors import Bytes, Malformed, Tensors, Unread, map_file, view

MAX_PICKLE = 64 * 2**20
MAX_INFLATED = 2 * 2**30  # of compressed storages together: these cost memory
LOCAL_HEADER = 30  # bytes before a zip entry's name

DTYPES = {
    "torch.float64": np.dtype("<f8"),
    "torch.float32": np.dtype("<f4"),
    "torch.float16": np.dtype("<f2"),
    "torch.bfloat16": np.dtype(ml_dtypes.bfloat16),
    "torch.float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "torch.float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "torch.float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "torch.float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "torch.float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
    "torch.int64": np.dtype("<i8"),
    "torch.int32": np.dtype("<i4"),
    "torch.int16": np.dtype("<i2"),
    "torch.int8": np.dtype("i1"),
    "torch.uint64": np.dtype("<u8"),
    "torch.uint32": np.dtype("<u4"),
    "torch.uint16": np.dtype("<u2"),
    "torch.uint8": np.dtype("u1"),
    "torch.bool": np.dtype("?"),
    "torch.complex64": np.dtype("<c8"),
    "torch.complex128": np.dtype("<c16"),
}
STORAGES = {
    "torch.DoubleStorage": "torch.float64",
    "torch.FloatStorage": "torch.float32",
    "torch.HalfStorage": "torch.float16",
    "torch.BFloat16Storage": "torch.bfloat16",
    "torch.LongStorage": "torch.int64",
    "torch.IntStorage": "torch.int32",
    "torch.ShortStorage": "torch.int16",
    "torch.CharStorage": "torch.int8",
    "torch.ByteStorage": "torch.uint8",
    "torch.BoolStorage": "torch.bool",
    "torch.ComplexFloatStorage": "torch.complex64",
    "torch.ComplexDoubleStorage": "torch.complex128",
    "torch.storage.UntypedStorage": "torch.uint8",  # the tensor on it says its own type
}


@dataclass(frozen=True)
class Storage:
    """A storage's bytes and the type its name implies."""

    data: Bytes
    dtype: np.dtype


def open_pickled(path: Path) -> Tensors:
    """The state dict of a zip checkpoint.

    Raises UserError: damaged, TorchScript, without a state dict, or asking to run something.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Checkpoint(path, archive).load()
    except Refused as error:
        raise UserError(_refusal(path, str(error))) from error
    except Unread as error:
        raise UserError(f"{path} {error}") from error
    except (
        *(Malformed, OSError, ValueError, OverflowError, struct.error, zlib.error, EOFError),
        MemoryError,
        *(zipfile.BadZipFile, NotImplementedError, RuntimeError),  # RuntimeError: encrypted
    ) as error:
        raise UserError(
            f"{path} is not a whole PyTorch file ({shown(error)}); download it again"
        ) from error
    return Tensors(state_dict(content, np.ndarray, path), [path])


def _refusal(path: Path, name: str) -> str:
    if name.startswith("torch._utils._rebuild_") and name not in CONSTRUCTORS:
        return (
            f"{path} holds a tensor of a kind that is not read ({name}); save it as a dense tensor"
        )
    return (
        f"{path}: refused, it would run {name}; weights never need that; "
        "use the safetensors version of this model"
    )


class _Checkpoint:
    """One archive: its members, and the storages that its pickle asks for."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self._path, self._archive = path, archive
        self._mapped = map_file(path)
        self._inflated = 0
        self._stored: dict[str, Bytes] = {}

    def load(self) -> Any:
        names = self._archive.namelist()
        pickles = [n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{self._path} is a zip file, but not one that torch.save wrote")
        self._root = pickles[0].removesuffix("data.pkl")
        if any(n.startswith((f"{self._root}code/", f"{self._root}constants.pkl")) for n in names):
            raise UserError(
                f"{self._path} is a TorchScript program, not weights; "
                "expected a state dict saved with torch.save, or safetensors"
            )
        order = f"{self._root}byteorder"
        if order in names and (found := self._member(order, 64).tobytes()) != b"little":
            raise UserError(
                f"{self._path} has byte order {shown(found.decode('ascii', 'replace'))!r}; "
                "expected 'little': save it again on a common machine"
            )
        pickle = self._member(pickles[0], MAX_PICKLE).tobytes()
        crc = self._archive.getinfo(pickles[0]).CRC
        if crc and zlib.crc32(pickle) != crc:  # PyTorch writes 0 where it was told not to count
            raise Malformed("the checksum of its data.pkl does not match")
        return Machine(CONSTRUCTORS, self._storage).run(pickle)

    def _member(self, name: str, limit: int) -> Bytes:
        """A member's bytes, mapped if stored; Malformed above `limit` bytes or past the end."""
        try:
            info = self._archive.getinfo(name)
        except KeyError as error:
            raise Malformed(f"it lacks {shown(name)}") from error
        if info.file_size > limit:
            raise Malformed(f"its {shown(name)} has more than {limit} bytes")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            return self._inflate(info)
        header = self._mapped[info.header_offset :][:LOCAL_HEADER].tobytes()
        if len(header) < LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
            raise Malformed(f"its {shown(name)} is not where it should be")
        start = info.header_offset + LOCAL_HEADER + sum(struct.unpack("<2H", header[26:]))
        if start + info.file_size > len(self._mapped):
            raise Malformed(f"its {shown(name)} is cut off")
        return self._mapped[start : start + info.file_size]

    def _inflate(self, info: zipfile.ZipInfo) -> Bytes:
        """A deflated member, in memory; encrypted ones raise RuntimeError."""
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Malformed("it is compressed in a way that torch.save does not know")
        self._inflated += info.file_size
        if self._inflated > MAX_INFLATED:
            raise UserError(
                f"{self._path} is compressed, and larger than {MAX_INFLATED >> 30} GiB; "
                "unpack it and zip it again without compression (zip -0)"
            )
        with self._archive.open(info) as member:  # never gives more than file_size
            return np.frombuffer(member.read(info.file_size), np.uint8)

    def _storage(self, identity: object) -> Storage:
        """What a persistent id stands for: ("storage", type, key, device, elements)."""
        match identity:
            case ("storage", Mark(name=kind), str(key), _, int(elements)) if elements >= 0:
                if kind not in STORAGES:
                    raise Unread(f"holds a {shown(kind)}; expected one of {', '.join(STORAGES)}")
                if key not in self._stored:
                    self._stored[key] = self._member(f"{self._root}data/{key}", 2**63)
                data, dtype = self._stored[key], DTYPES[STORAGES[kind]]
                if elements * dtype.itemsize > data.nbytes:
                    raise Malformed(f"its storage {shown(key)} is cut off")
                return Storage(data[: elements * dtype.itemsize], dtype)
        raise Malformed("its pickle refers to something other than a storage")


def _tensor(arguments: tuple[Any, ...]) -> np.ndarray:
    """Storage, offset, sizes, strides, requires_grad, hooks, metadata: the last 3 or 2 optional."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(sizes), tuple(strides), *rest):
            if any(isinstance(more, dict) and more for more in rest[2:]):
                raise Unread("holds a conjugated view; save what its resolve_conj() gives")
            return view(storage.data, storage.dtype, offset, sizes, strides)
    raise Malformed("a tensor's description is not one")


def _typed_tensor(arguments: tuple[Any, ...]) -> np.ndarray:
    """As `_tensor`, and after the hooks the type: for types that have no storage class."""
    match arguments:
        case (Storage() as storage, _, _, _, _, _, Mark(name=kind), *_):
            if kind not in DTYPES:
                raise Unread(
                    f"holds a tensor of type {shown(kind)}; expected a type that numpy has"
                )
            storage = Storage(storage.data, DTYPES[kind])
            return _tensor((storage, *arguments[1:6], *arguments[7:]))
    raise Malformed("a tensor's description is not one")


def _parameter(arguments: tuple[Any, ...]) -> np.ndarray:
    match arguments:
        case (np.ndarray() as data, *_):
            return data
    raise Malformed("a parameter has no tensor")


def _typed(arguments: tuple[Any, ...]) -> np.ndarray:
    """A tensor that carries attributes: which function, which class, its arguments, attributes."""
    match arguments:
        case (Mark(name=function), Mark(name=kind), tuple(inner), _):
            if function not in REBUILDERS:
                raise Refused(shown(function))
            if kind not in ("torch.Tensor", *(f"torch.nn.parameter.{n}" for n in KINDS)):
                raise Refused(shown(kind))
            return REBUILDERS[function](inner)
    raise Malformed("a tensor's description is not one")


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """An empty dictionary, to be filled; or the one it is made from, as Counter is written."""
    match arguments:
        case (dict() as content,):
            return content
    return {}


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    match arguments:
        case (tuple(sizes),):
            return sizes
    raise Malformed("a size is not one")


def _opaque(arguments: tuple[Any, ...]) -> Opaque:
    return Opaque()


KINDS = ("Parameter", "Buffer")
REBUILDERS: dict[str, Callable[[tuple[Any, ...]], np.ndarray]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
# Values that training leaves beside the weights. None is built: they are let stand, unread.
BYSTANDERS = (
    *("builtins.set builtins.frozenset builtins.bytearray builtins.complex builtins.slice").split(),
    *("__builtin__.set __builtin__.frozenset __builtin__.bytearray").split(),
    *("__builtin__.complex __builtin__.slice _codecs.encode argparse.Namespace").split(),
    *("numpy.dtype numpy.core.multiarray.scalar numpy.core.multiarray._reconstruct").split(),
    *("numpy._core.multiarray.scalar numpy._core.multiarray._reconstruct").split(),
    *("numpy._core.numeric._frombuffer numpy.core.numeric._frombuffer").split(),
    *("torch.device torch.serialization._get_layout").split(),
    *("omegaconf.dictconfig.DictConfig omegaconf.listconfig.ListConfig").split(),
    *("omegaconf.base.ContainerMetadata omegaconf.base.Metadata omegaconf.nodes.AnyNode").split(),
)
CONSTRUCTORS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    **REBUILDERS,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch.Size": _size,
    **dict.fromkeys(
        ("collections.OrderedDict", "collections.defaultdict", "collections.Counter"), _dictionary
    ),
    **dict.fromkeys(BYSTANDERS, _opaque),
}
