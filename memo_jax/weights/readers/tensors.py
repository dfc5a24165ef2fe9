"""What every reader gives: names and read-only views on a mapped file, checked against its end."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

Bytes = UInt8[np.ndarray, "n"]
MAX_RANK = 64  # numpy's and PyTorch's
# Strides of 0 repeat one value: such a tensor may be larger than its file, within reason.
MAX_REPEATED = 2**30


class Malformed(Exception):
    """The file's content contradicts its format; the message says where. Never leaves readers/."""


class Unread(Exception):
    """The file is sound, but holds what is not read; the message goes after its path."""


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of one file or folder, in the file's order: read-only views, paged in on touch.

    A context manager. Closing lets the mapping of the file go; a view taken out before keeps it
    for as long as that view lives. Reading after closing raises ValueError.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        files: Sequence[Path],
        metadata: Mapping[str, str] | None = None,
    ):
        self._arrays: dict[str, np.ndarray] | None = dict(arrays)
        self.files = tuple(files)
        self.metadata = dict(metadata or {})

    def __enter__(self) -> "Tensors":
        self._open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the tensors, and with the last view the mapping of the file."""
        self._arrays = None

    def _open(self) -> dict[str, np.ndarray]:
        if self._arrays is None:
            raise ValueError(f"the tensors of {self.files[0]} are closed")
        return self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._open()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._open())

    def __len__(self) -> int:
        return len(self._open())


def map_file(path: Path) -> Bytes:
    """The bytes of a file, mapped read-only. Raises OSError, and ValueError for an empty file."""
    return np.memmap(path, np.uint8, mode="r").view(np.ndarray)


def view(
    storage: Bytes,
    dtype: np.dtype,
    offset: int,
    shape: Sequence[object],
    strides: Sequence[object],
) -> np.ndarray:
    """A read-only view on `storage`: offset and strides in elements, as PyTorch writes them.

    Raises Malformed where any element would lie outside the storage.
    """
    if len(shape) != len(strides) or len(shape) > MAX_RANK:
        raise Malformed("a tensor's sizes and strides do not go together")
    sizes, steps = [_count(n) for n in shape], [_count(n) for n in strides]
    first = _count(offset)
    if prod(sizes) * dtype.itemsize > max(storage.nbytes, MAX_REPEATED):
        raise Malformed("a tensor is larger than the file says it can be")
    if not prod(sizes):
        empty = np.zeros(_drawable(sizes), dtype)
        empty.flags.writeable = False
        return empty
    last = first + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True))
    if (last + 1) * dtype.itemsize > storage.nbytes:
        raise Malformed("a tensor reaches past the end of its storage")
    # The step of an axis of one element is never taken, and may be any number.
    taken = [step if n > 1 else 1 for n, step in zip(sizes, steps, strict=True)]
    array: np.ndarray = np.ndarray(
        sizes,
        dtype,
        buffer=storage,  # numpy holds the view to these bytes once more
        offset=first * dtype.itemsize,
        strides=[step * dtype.itemsize for step in taken],
    )
    array.flags.writeable = False
    return array


def _count(number: object) -> int:
    if type(number) is not int or not 0 <= number < 2**63:
        raise Malformed("a tensor's offset, sizes or strides are not counts")
    return number


def _drawable(sizes: list[int]) -> list[int]:
    """`sizes` of an empty tensor, if numpy can have such an array."""
    if prod(n for n in sizes if n) > MAX_REPEATED:
        raise Malformed("an empty tensor's sizes are out of reason")
    return sizes
