"""A pickle interpreter that can build containers and nothing else.

Python's own Unpickler imports what a file names and calls it; subclassing it narrows that, but
leaves it to allocate whatever a damaged file asks for (a memo of 2**32 slots, say) and to call
methods of what it built. Here every name in a file becomes a Mark, an inert word. Only the
constructors that the caller gives, found by that word in a dictionary, are ever called; they are
ours. Instructions that `torch.save` does not write are refused.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memo_jax.errors import one_line
from memo_jax.weights.readers.tensors import Malformed

MAX_STEPS = 5_000_000  # a tensor takes about 30
# What one short instruction could otherwise make large, again and again.
MAX_BITS = 4096
MAX_NAME = 512
MAX_KEY = 64
MAX_SHOWN = 200
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
LITERALS = set(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refused(Exception):
    """The file asks to run something; the message is its name, fit to be shown."""


@dataclass(frozen=True)
class Mark:
    """A global that a file mentions, as `module.name`: never looked up, never imported."""

    name: str


class Opaque:
    """An object that is no tensor and no container: a random state, a configuration, a set.

    It takes whatever a file puts into it and keeps none of it.
    """


Scalar = (str, int, float, bytes, type(None), Mark, Opaque)
Constructor = Callable[[tuple[Any, ...]], Any]


def shown(name: object) -> str:
    """Words from a file, safe and short enough for one line of a terminal."""
    return ascii(one_line(str(name)[:MAX_SHOWN]))[1:-1]


class Machine:
    """Runs one pickle. `constructors` by the global's name; `persistent` gives what lies outside.

    Both may raise Malformed for arguments that they do not accept.
    """

    def __init__(
        self, constructors: Mapping[str, Constructor], persistent: Callable[[object], Any]
    ):
        self._constructors = constructors
        self._persistent = persistent
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # the stacks below each MARK
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """The object that a pickle describes: dicts, lists, tuples, scalars, Marks, Opaques.

        Raises Malformed (damaged, or not what torch.save writes) and Refused (would run code).
        """
        try:
            for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
                if step >= MAX_STEPS:
                    raise Malformed(f"its pickle takes more than {MAX_STEPS} steps")
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except ValueError as error:  # what pickletools raises, for all damage
            raise Malformed(f"its pickle is damaged: {shown(error)}") from error
        raise Malformed("its pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in LITERALS:
            if type(argument) is int and argument.bit_length() > MAX_BITS:
                raise Malformed(f"its pickle has an integer of more than {MAX_BITS} bits")
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._top()
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self._memo:
                raise Malformed("its pickle refers to what it never stored")
            stack.append(self._memo[argument])
        elif name == "MARK":
            self._outer.append(stack)
            self._stack = []
        elif name in TUPLES:
            parts = [self._pop() for _ in range(TUPLES[name])]
            stack.append(tuple(reversed(parts)))
        elif name == "TUPLE":
            parts = self._to_mark()
            self._stack.append(tuple(parts))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_SET":
            stack.append(Opaque())
        elif name == "FROZENSET":
            self._to_mark()
            self._stack.append(Opaque())
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            self._extend([self._pop()] if name == "APPEND" else self._to_mark())
        elif name in ("SETITEM", "SETITEMS"):
            self._set([self._pop(), self._pop()][::-1] if name == "SETITEM" else self._to_mark())
        elif name == "GLOBAL":
            stack.append(Mark(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self._pop(), self._pop()
            if type(attribute) is not str or type(module) is not str:
                raise Malformed("its pickle names a global by something other than words")
            if len(attribute) + len(module) > MAX_NAME:
                raise Malformed(f"its pickle has a global with more than {MAX_NAME} letters")
            stack.append(Mark(f"{module}.{attribute}"))
        elif name == "BINPERSID":
            stack.append(self._persistent(self._pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = self._pop()
            stack.append(self._call(self._pop(), arguments))
        elif name == "BUILD":
            self._pop()
            self._build(self._top())
        elif name not in ("PROTO", "FRAME"):
            self._refuse(name, argument)

    def _top(self) -> Any:
        if not self._stack:
            raise Malformed("its pickle takes more than it has put down")
        return self._stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        del self._stack[-1]
        return value

    def _to_mark(self) -> list[Any]:
        if not self._outer:
            raise Malformed("its pickle closes what it never opened")
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Opaque:
            self._misused(target, "append to")

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict:
            if type(target) is not Opaque:
                self._misused(target, "write into")
            return
        if len(items) % 2:
            raise Malformed("its pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # No deeper: hashing a tuple of tuples of ... overflows the interpreter's stack.
            flat = key if type(key) is tuple else (key,)
            if len(flat) > MAX_KEY or not all(isinstance(part, Scalar) for part in flat):
                raise Malformed("its pickle has a key that is no plain value")
            target[key] = value

    def _call(self, function: object, arguments: object) -> Any:
        if type(function) is not Mark:
            self._misused(function, "call")
        elif function.name not in self._constructors:
            raise Refused(shown(function.name))
        elif type(arguments) is not tuple:
            raise Malformed("its pickle calls with something other than arguments")
        else:
            return self._constructors[function.name](arguments)

    def _build(self, target: object) -> None:
        """State for an object, left out: the state of a dict is PyTorch's `_metadata`."""
        if type(target) not in (dict, Opaque):
            self._misused(target, "give state to")

    def _misused(self, target: object, what: str) -> None:
        if type(target) is Mark:
            raise Refused(shown(target.name))
        raise Malformed(f"its pickle wants to {what} a {type(target).__name__}")

    def _refuse(self, name: str, argument: object) -> None:
        """Instructions that no state dict needs; if they run something, the message says what."""
        called: object = None
        if name == "INST":
            called = Mark(str(argument).replace(" ", ".", 1))
        elif name == "OBJ" and self._outer and self._stack:
            called = self._stack[0]
        elif name == "NEWOBJ_EX" and len(self._stack) >= 3:
            called = self._stack[-3]
        elif name in ("EXT1", "EXT2", "EXT4"):
            called = Mark(f"copyreg extension {argument}")
        if type(called) is Mark:
            raise Refused(shown(called.name))
        raise Malformed(f"its pickle uses {name}, which torch.save does not write")
