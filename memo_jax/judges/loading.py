"""From a published weight file to a judge that runs, and what all judges do with arrays."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from memo_jax.errors import UserError, one_line
from memo_jax.weights import build
from memo_jax.weights.components import assemble
from memo_jax.weights.readers import open_tensors
from memo_jax.weights.rules import ConversionError, Rule, import_tensors

# PyTorch's batch norms count the batches they were trained on; nothing reads that.
COUNTER = r".*\.num_batches_tracked"


def load_network(
    what: str, path: str | Path, make: Callable[[Any], nnx.Module], rules: Sequence[Rule]
) -> nnx.Module:
    """The network that `make(rngs)` describes, float32, with the weights of a file or folder.

    Raises:
      UserError: the file is missing, unreadable, or its tensors are not this network's; it names
        what is missing, unknown, misshapen or not a number, in one line.
    """
    graphdef, shapes = build.abstract(make)
    with open_tensors(Path(path)) as tensors:
        wanted = {name: t for name, t in tensors.items() if not re.fullmatch(COUNTER, name)}
        try:
            values = import_tensors(what, rules, wanted, {k: v.shape for k, v in shapes.items()})
        except ConversionError as error:
            raise UserError(
                f"{path} does not hold {what}'s published weights: {one_line(error.summary)}; "
                "name the file that was published for it"
            ) from error
        copies = {name: _float32(value) for name, value in values.items()}
    broken = [name for name, value in copies.items() if value is None]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise UserError(
            f"{path}: {', '.join(broken[:3])}{more} of {what} hold what is no finite number; "
            "download it again"
        )
    return assemble(graphdef, copies)


def _float32(value: np.ndarray) -> np.ndarray | None:
    """A copy in float32, or None where a value is none or infinite."""
    if value.dtype.kind not in "fV":  # V: bfloat16
        return None
    copy = np.array(value, np.float32)
    return copy if np.isfinite(copy).all() else None


def compiled(network: nnx.Module, call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """`call(network, *arrays)` as one program; without `call` the network itself."""
    graphdef, state = nnx.split(network)
    params = nnx.to_pure_dict(state)
    run = call or (lambda network, *arrays: network(*arrays))
    program = jax.jit(lambda params, *arrays: run(nnx.merge(graphdef, params), *arrays))
    return lambda *arrays: program(params, *arrays)


def batch_size(on_accelerator: int, on_cpu: int) -> int:
    """How many go through at once: an incomplete batch is filled up, which costs a CPU its time
    and an accelerator next to nothing."""
    return on_cpu if jax.default_backend() == "cpu" else on_accelerator


def check_pictures(what: str, pictures: np.ndarray, shape: tuple[int | str, ...]) -> None:
    """Raises UserError unless `pictures` is uint8 of `shape`, where a name stands for any size."""
    fits = len(shape) == pictures.ndim and all(
        isinstance(want, str) or want == size
        for want, size in zip(shape, pictures.shape, strict=True)
    )
    if pictures.dtype != np.uint8 or not fits or not pictures.size:
        expected = ", ".join(str(size) for size in shape)
        raise UserError(
            f"{what} are {pictures.dtype} {list(pictures.shape)}, expected uint8 [{expected}], "
            "at least one"
        )
