"""An unpickler that can only build data.

Python's unpickler calls whatever a file refers to. This one interprets the few opcodes that checkpoints
use (protocols 2 to 4) and resolves globals only in a given table; it never imports anything. Bytes are
returned as views of the file, so that tensors stay memory-mapped. Other memory is bounded whatever the
file claims: numbers, strings and the number of operations have limits.
"""

import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from paddle_glm.errors import InputError

Globals = Mapping[tuple[str, str], Any]
# A tensor takes about 60 operations: room for 16 thousand, and at most some 100 MB of small objects.
MAX_OPERATIONS = 1_000_000
MAX_TEXT_BYTES = 1 << 16
MAX_NUMBER_BYTES = 16
_MARK = object()

_CONSTANTS: dict[int, Callable[[], Any]] = {
    ord("N"): lambda: None,
    0x88: lambda: True,
    0x89: lambda: False,
    ord("}"): dict,
    ord("]"): list,
    ord(")"): tuple,
}
_NUMBERS = {ord("J"): "<i", ord("K"): "<B", ord("M"): "<H", ord("G"): ">d"}
# Opcode -> bytes of the length that precedes its argument.
_TEXTS = {ord("X"): 4, 0x8C: 1, 0x8D: 8}
_BYTES = {ord("B"): 4, ord("C"): 1, 0x8E: 8}
_MEMO_PUTS = {ord("q"): 1, ord("r"): 4}
_MEMO_GETS = {ord("h"): 1, ord("j"): 4}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_OPCODES = {operation.code: operation.name for operation in pickletools.opcodes}
_PROTO, _FRAME, _LONG1, _MEMOIZE, _STOP = 0x80, 0x95, 0x8A, 0x94, ord(".")


class UnsafePickleError(Exception):
    """A pickle contains something other than the expected data; the message says what."""


class StatefulObject:
    """An object that a pickle creates empty and then gives a state, which subclasses validate."""

    def set_state(self, state: Any) -> None:
        raise NotImplementedError


class _Unpickler:
    def __init__(self, data: memoryview, allowed: Globals, persistent_load: Callable[[Any], Any]) -> None:
        self.data = data
        self.position = 0
        self.allowed = allowed
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_OPERATIONS):
            opcode = self.take(1)[0]
            if opcode == _STOP:
                return self.pop()
            if not self.push(opcode):
                self.build(opcode)
        raise UnsafePickleError(f"more than {MAX_OPERATIONS} operations")

    def take(self, count: int) -> memoryview:
        """The next bytes of the file."""
        if count > len(self.data) - self.position:
            raise UnsafePickleError("an unexpected end: it is truncated")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def push(self, opcode: int) -> bool:
        """Run an operation that only pushes a value on the stack; False if `opcode` is another one."""
        if opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _NUMBERS:
            format = _NUMBERS[opcode]
            self.stack.append(struct.unpack(format, self.take(struct.calcsize(format)))[0])
        elif opcode == _LONG1:
            size = self.number(1)
            if size > MAX_NUMBER_BYTES:
                raise UnsafePickleError(f"a number of {size} bytes")
            self.stack.append(int.from_bytes(self.take(size), "little", signed=True))
        elif opcode in _TEXTS:
            size = self.number(_TEXTS[opcode])
            if size > MAX_TEXT_BYTES:
                raise UnsafePickleError(f"a text of {size} bytes")
            self.stack.append(str(self.take(size), "utf-8", "surrogatepass"))
        elif opcode in _BYTES:
            self.stack.append(self.take(self.number(_BYTES[opcode])))
        elif opcode in _MEMO_GETS:
            self.stack.append(self.memo[self.number(_MEMO_GETS[opcode])])
        elif opcode == ord("("):
            self.stack.append(_MARK)
        else:
            return False
        return True

    def build(self, opcode: int) -> None:
        """Run an operation that uses values on the stack."""
        if opcode in _MEMO_PUTS:
            self.memo[self.number(_MEMO_PUTS[opcode])] = self.top()
        elif opcode == _MEMOIZE:
            self.memo[len(self.memo)] = self.top()
        elif opcode in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[opcode])]
            self.stack.append(tuple(reversed(items)))
        elif opcode == ord("t"):
            self.stack.append(tuple(self.pop_mark()))
        elif opcode == ord("c"):
            module, name = self.line(), self.line()
            self.stack.append(self.resolve(module, name))
        elif opcode == 0x93:
            name, module = self.pop(), self.pop()
            self.stack.append(self.resolve(module, name))
        elif opcode == ord("R"):
            arguments, function = self.pop(), self.pop()
            self.stack.append(self.call(function, arguments))
        elif opcode == ord("Q"):
            self.stack.append(self.persistent_load(self.pop()))
        elif opcode == ord("s"):
            value, key = self.pop(), self.pop()
            self.set_items([key, value])
        elif opcode == ord("u"):
            self.set_items(self.pop_mark())
        elif opcode in (ord("a"), ord("e")):
            items = [self.pop()] if opcode == ord("a") else self.pop_mark()
            target = self.top()
            if type(target) is not list:
                raise UnsafePickleError("an append to something that is not a list")
            target.extend(items)
        elif opcode == ord("b"):
            self.set_state(self.pop())
        elif opcode == _PROTO:
            self.take(1)
        elif opcode == _FRAME:
            self.take(8)
        else:
            name = _OPCODES.get(chr(opcode), f"{opcode:#x}")
            raise UnsafePickleError(f"the pickle operation {name}, which tensors do not need")

    def line(self) -> str:
        """The rest of a line: module or name of a global."""
        start = self.position
        head = bytes(self.data[start : start + 256])
        end = head.find(b"\n")
        if end < 0:
            raise UnsafePickleError("a name without an end")
        self.position = start + end + 1
        return head[:end].decode("utf-8")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise UnsafePickleError("a misplaced mark")
        return value

    def top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise UnsafePickleError("a misplaced mark")
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
            raise UnsafePickleError("an item for something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a deeply nested tuple would overflow the interpreter's stack.
            if type(key) not in (str, int):
                raise UnsafePickleError(f"a key that is a {type(key).__name__}")
            target[key] = value

    def set_state(self, state: Any) -> None:
        target = self.top()
        if isinstance(target, StatefulObject):
            target.set_state(state)
        # torch saves layer versions as attributes of a state dict; they are not needed.
        elif type(target) is not OrderedDict:
            raise UnsafePickleError("a state for an object that is neither a tensor nor an OrderedDict")

    def resolve(self, module: Any, name: Any) -> Any:
        if type(module) is not str or type(name) is not str:
            raise UnsafePickleError("a name that is not a string")
        if (module, name) not in self.allowed:
            raise UnsafePickleError(f"the name {ascii(f'{module}.{name}'[:200])[1:-1]}")
        return self.allowed[module, name]

    def call(self, function: Any, arguments: Any) -> Any:
        if not any(function is known for known in self.allowed.values()) or not callable(function):
            raise UnsafePickleError("a call of an unknown function")
        if type(arguments) is not tuple:
            raise UnsafePickleError("a call without a tuple of arguments")
        return function(*arguments)


def safe_loads(
    data: bytes | memoryview,
    source: str,
    allowed: Globals,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Unpickle `data`, resolving globals only in `allowed` {(module, name): object}.

    Bytes in the pickle are returned as memoryviews of `data`. source: the file's name, for errors. Raises
    InputError with what was refused; nothing is executed or imported.
    """

    def no_persistent(identifier: Any) -> Any:
        raise UnsafePickleError("a persistent id")

    try:
        return _Unpickler(memoryview(data), allowed, persistent_load or no_persistent).run()
    except UnsafePickleError as error:
        raise InputError(
            f"{source} is refused: it contains {error}; only tensors are read, nothing is executed"
        ) from error
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{source} is not a valid checkpoint ({describe(error)}): it is damaged or truncated"
        ) from error


def pickle_str(text: str) -> bytes:
    """The opcode that pushes a string (BINUNICODE)."""
    encoded = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def describe(value: Any) -> str:
    """Short text of a value from a file, for error messages.

    Containers are described by type alone: printing one that contains itself many times takes forever.
    """
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"[:200]
    if value is None or type(value) in (str, int, float, bool):
        return ascii(value)[:100]
    return f"a {type(value).__name__}"
