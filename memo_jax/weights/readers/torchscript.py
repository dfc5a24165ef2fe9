"""The tensors of a TorchScript archive, and what its text says of norms; its program is not run.

Such an archive is a zip like `torch.save`'s whose pickle describes a tree of modules instead of a
dictionary. The same interpreter reads it: every class in it is an inert word, and becomes a
dictionary of its attributes.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from memo_jax.errors import UserError
from memo_jax.weights.readers.machine import Machine, Refused, shown
from memo_jax.weights.readers.pickled import CONSTRUCTORS, MAX_PICKLE, _Checkpoint
from memo_jax.weights.readers.tensors import Malformed, Unread

PROGRAM = "__torch__."
DEEPEST = 64
# A batch norm's call in a program's text: ..., momentum, epsilon, and in traced ones a flag.
NORM_CALL = re.compile(
    r"\brunning_var\b[^\n]*, [-+.\de]+, (?P<epsilon>[-+.\de]+), (?:True|False)?\)"
)
# Lists of numbers among a module's attributes.
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


class _Object(dict):
    """A module: its attributes, tensors and modules among them."""


class _Constructors(dict):
    """Those of state dicts, and for every class of the program's own an empty module."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or str(name).startswith(PROGRAM)

    def __missing__(self, name: str) -> Any:
        return lambda arguments: _Object()


class _Modules(Machine):
    """Gives modules their attributes, where a state dict's reader passes over state."""

    def _step(self, name: str, argument: Any) -> None:
        if name == "BUILD" and len(self._stack) > 1 and type(self._stack[-2]) is _Object:
            state = self._pop()
            if type(state) is not dict:
                raise Malformed("a module's attributes are no dictionary")
            self._top().update(state)
        else:
            super()._step(name, argument)


class _Archive(_Checkpoint):
    def load(self) -> Any:
        """The outermost module."""
        pickles = [n for n in self._archive.namelist() if n.endswith("/data.pkl")]
        root = min(pickles, key=len, default="")
        if root.count("/") != 1:
            raise Malformed("it has no data.pkl")
        self._root = root.removesuffix("data.pkl")
        pickle = self._member(root, MAX_PICKLE).tobytes()
        known = _Constructors(CONSTRUCTORS)
        known.update({f"torch.jit._pickle.{name}": _listed for name in LISTS})
        return _Modules(known, self._storage).run(pickle)


def is_program(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(n.split("/")[1:2] == ["code"] for n in archive.namelist())
    # The last is zipfile's, of a version that it cannot read.
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def read_program(path: Path) -> dict[str, np.ndarray]:
    """Tensor by name, as the module's state dict would have it; read-only views on the file.

    Raises:
      UserError: damaged, without tensors, or asking to run something.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Archive(path, archive).load()
        tensors = dict(_tensors(content, "", 0))
    except Refused as error:
        raise UserError(f"{path}: refused, it would run {error}; download it again") from error
    except Unread as error:
        raise UserError(f"{path} {error}") from error
    except (
        *(Malformed, OSError, ValueError, OverflowError, struct.error, zlib.error, EOFError),
        # The last two are zipfile's: another compression; encrypted.
        *(MemoryError, zipfile.BadZipFile, NotImplementedError, RuntimeError),
    ) as error:
        raise UserError(
            f"{path} is not a whole TorchScript file ({shown(error)}); download it again"
        ) from error
    if not tensors:
        raise UserError(f"{path} is a TorchScript program without tensors; name another file")
    return tensors


def norm_epsilons(path: Path) -> set[float]:
    """The epsilons that an archive's program gives to batch norms, as its text has them; none
    where it calls none by numbers.

    Raises:
      UserError: damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.split("/")[1:2] == ["code"]]
            sizes = [archive.getinfo(n).file_size for n in names]
            if sum(sizes) > MAX_PICKLE:
                raise Malformed("its program is larger than any such network's")
            text = "\n".join(archive.read(n).decode("utf-8", "replace") for n in names)
    except (
        *(Malformed, OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile),
        *(NotImplementedError, RuntimeError),  # another compression; encrypted
    ) as error:
        raise UserError(
            f"{path} is not a whole TorchScript file ({shown(error)}); download it again"
        ) from error
    return {float(call["epsilon"]) for call in NORM_CALL.finditer(text)}


def _listed(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if arguments else []


def _tensors(content: Any, name: str, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    if depth > DEEPEST:
        raise Malformed("its modules lie too deep")
    if isinstance(content, np.ndarray):
        yield name, content
    elif type(content) is _Object:
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key), depth + 1)
