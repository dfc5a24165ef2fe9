"""PyTorch's format before 1.6, a row of pickles with the storages behind: torch reads it.

Only old files are so, and they are small; this is the one place where torch is asked.
"""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from memo_jax.errors import UserError
from memo_jax.weights.readers.choose import state_dict
from memo_jax.weights.readers.machine import shown
from memo_jax.weights.readers.tensors import Tensors

# The first pickle of such a file: its magic number, 0x1950a86a20f9469cfc6c.
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
SAFE = (2, 6)  # before, weights_only could be got around (CVE-2025-32434)


def open_legacy(path: Path) -> Tensors:
    """The state dict of an old checkpoint, copied into memory.

    Raises UserError: torch is not installed, is too old to be trusted, or refuses the file.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is in PyTorch's format of before 1.6, which takes PyTorch to read: "
            "pip install 'memo_jax[convert]'"
        ) from error
    if tuple(int(n) for n in torch.__version__.split(".")[:2]) < SAFE:
        raise UserError(
            f"{path} takes PyTorch 2.6 or newer to read safely, and this is "
            f"{torch.__version__}: pip install 'memo_jax[convert]'"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        tensors = state_dict(content, torch.Tensor, path)
        arrays = {name: _array(tensor) for name, tensor in tensors.items()}
    except UserError:
        raise
    except Exception as error:  # a damaged file fails anywhere in torch
        # Around its reason, torch advises to read the file unsafely: that is left out.
        reason = str(error).split("WeightsUnpickler error: ")[-1].split(". ")[0]
        raise UserError(
            f"{path} is refused by PyTorch ({shown(reason)}); "
            "download it again, or use the safetensors version of this model"
        ) from error
    return Tensors(arrays, [path])


def _array(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:  # numpy has none
        array = tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    else:
        array = tensor.numpy()
    array.flags.writeable = False
    return array
