"""safetensors: the library judges the file, then numpy looks at it in place.

The library's own numpy arrays are copies, and numpy has no name for some of its types.
Layout: 8 bytes, the header's length (little-endian); the header, JSON; the tensors' bytes.
"""

import json
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from memo_jax.errors import UserError
from memo_jax.weights.readers.machine import shown
from memo_jax.weights.readers.tensors import Malformed, Tensors, map_file, view

LENGTH = 8
DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "C64": np.dtype("<c8"),
}


def open_safetensors(path: Path) -> Tensors:
    """The tensors of a safetensors file.

    Raises UserError: the file is cut or damaged, or holds a type that numpy cannot have.
    """
    try:
        with safetensors.safe_open(path, "np"):
            pass
        data = map_file(path)
        start = LENGTH + int.from_bytes(data[:LENGTH].tobytes(), "little")
        header = json.loads(data[LENGTH:start].tobytes())
        metadata = header.pop("__metadata__", None)
        arrays = {}
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise UserError(
                    f"{path}: {name!r} is of type {entry['dtype']}, which is not read; "
                    f"expected one of {', '.join(DTYPES)}"
                )
            begin, end = entry["data_offsets"]
            shape = entry["shape"]
            strides = [prod(shape[i + 1 :]) for i in range(len(shape))]
            storage = data[start + begin : start + end]
            arrays[name] = view(storage, DTYPES[entry["dtype"]], 0, shape, strides)
    except (safetensors.SafetensorError, Malformed, OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({shown(error)}); download it again"
        ) from error
    return Tensors(arrays, [path], metadata)
