"""A pickle machine that can only build data.

Python's own unpickler runs whatever a file names. This one interprets the few opcodes that checkpoints
use, and resolves a global name only in the table that it is given; nothing is ever imported. Memory is
bounded by a small multiple of the pickle's length: no opcode allocates by a number that it merely claims.
"""

import io
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from paddle_glm.errors import InputError

Globals = Mapping[tuple[str, str], Any]
_MARK = object()

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_PUSH_ARGUMENT = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Refused(Exception):
    """What a pickle holds is not data of the expected kind."""


class _Machine:
    def __init__(self, allowed: Globals, persistent_load: Callable[[Any], Any]) -> None:
        self.allowed = allowed
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name == "STOP":
                return self.pop()
            self.step(opcode.name, argument)
        raise _Refused("it is truncated")

    def step(self, name: str, argument: Any) -> None:
        if name in ("PROTO", "FRAME"):
            return
        if name in _PUSH_ARGUMENT:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _PUTS:
            self.memo[argument] = self.top()
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif name in _GETS:
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in _TUPLES:
            count = _TUPLES[name]
            items = [self.pop() for _ in range(count)]
            self.stack.append(tuple(reversed(items)))
        elif name == "TUPLE":
            self.stack.append(tuple(self.pop_mark()))
        else:
            self.build(name, argument)

    def build(self, name: str, argument: Any) -> None:
        if name == "GLOBAL":
            self.stack.append(self.resolve(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            self.stack.append(self.resolve(module, attribute))
        elif name == "REDUCE":
            arguments, function = self.pop(), self.pop()
            self.stack.append(self.call(function, arguments))
        elif name == "BINPERSID":
            self.stack.append(self.persistent_load(self.pop()))
        elif name == "SETITEM":
            value, key = self.pop(), self.pop()
            self.set_items([key, value])
        elif name == "SETITEMS":
            self.set_items(self.pop_mark())
        elif name in ("APPEND", "APPENDS"):
            items = [self.pop()] if name == "APPEND" else self.pop_mark()
            target = self.top()
            if type(target) is not list:
                raise _Refused("an append to something that is no list")
            target.extend(items)
        elif name == "BUILD":
            # torch keeps layer versions as attributes of a state dict; they say nothing about weights.
            self.pop()
            if type(self.top()) is not OrderedDict:
                raise _Refused("a state for an object that is no OrderedDict")
        else:
            raise _Refused(f"the pickle operation {name}, which tensors do not need")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise _Refused("a misplaced mark")
        return value

    def top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise _Refused("a misplaced mark")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        items.reverse()
        return items

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise _Refused("an item for something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = value

    def resolve(self, module: Any, name: Any) -> Any:
        if (module, name) not in self.allowed:
            raise _Refused(f"the name {module}.{name}")
        return self.allowed[module, name]

    def call(self, function: Any, arguments: Any) -> Any:
        if not any(function is known for known in self.allowed.values()) or not callable(function):
            raise _Refused("a call of something that is no known function")
        if not isinstance(arguments, tuple):
            raise _Refused("a call without a tuple of arguments")
        return function(*arguments)


def safe_loads(
    data: bytes, source: str, allowed: Globals, persistent_load: Callable[[Any], Any] | None = None
) -> Any:
    """Build the object of a pickle from data and the `allowed` {(module, name): object} alone.

    `source` names the file in errors. Raises InputError naming what was refused, without having
    executed or imported anything.
    """

    def no_persistent(identifier: Any) -> Any:
        raise _Refused("a persistent id")

    try:
        return _Machine(allowed, persistent_load or no_persistent).run(data)
    except _Refused as error:
        raise InputError(
            f"{source} is refused: it holds {error}; only tensors are read, nothing is executed"
        ) from error
    except InputError:
        raise
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise InputError(
            f"{source} is not a valid checkpoint ({error}): it is damaged or truncated"
        ) from error
