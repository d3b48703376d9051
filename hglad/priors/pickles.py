"""A pickle read as data: nothing that it names is imported, nothing in it is called.

A pickle is a program for a stack machine; unpickling runs it, and with it whatever function it names. This
reader lets `pickletools.genops` of the standard library take the program apart, which runs nothing, and
follows it with a stack of its own: plain values, names, and notes of what would have been called. Tensors are
decoded out of such notes by hand and stay inside the bytes that are there.
"""

import io
import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from hglad.errors import HgladError

MOST_OPCODES = 2_000_000  # a released file has about a tenth; each costs some hundred bytes of memory
RECONSTRUCTORS = {"copyreg._reconstructor", "copy_reg._reconstructor"}
DAMAGE = (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error)
LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list}

PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
STORAGES = {"torch.FloatStorage": "<f4", "torch.DoubleStorage": "<f8", "torch.HalfStorage": "<f2"}
MAGIC_NUMBER, PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of PyTorch's file format before zip files


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """Something that the pickle would have imported, as `module.name`."""

    text: str


@dataclass(eq=False, slots=True)
class Record:
    """Note of a call, `function(*arguments)`, and of what its result was to be filled with."""

    function: "Name | Record"
    arguments: tuple
    state: Any = None
    items: dict = field(default_factory=dict)
    elements: list = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the function, or of the class of an object that is rebuilt without its constructor."""
        called = self.function
        if isinstance(called, Name) and called.text in RECONSTRUCTORS and self.arguments:
            called = self.arguments[0]
        return called.text if isinstance(called, Name) else "(computed)"  # what another call would return


def in_words(value: object) -> str:
    """A value in few words, for messages."""
    if isinstance(value, Record | Name):
        return f"an object '{value.name if isinstance(value, Record) else value.text}'"
    return f"a value of type {type(value).__name__}"


def read_pickle(
    stream: BinaryIO, allowed: Callable[[str], bool], persistent: bool = False, most: int = MOST_OPCODES
) -> Any:
    """Read one pickle (protocol 2 to 5) from where `stream` stands up to the pickle's end.

    Dictionaries come without entries under keys other than text and numbers, sets as lists.

    Args:
        stream: memory map or BytesIO; sizes that the pickle declares are held against what is there.
        allowed: whether a full name `module.name` may occur.
        persistent: whether references to objects outside the pickle may occur; a `Record` named "persistent".
        most: opcodes after which reading stops.

    Raises:
        HgladError: a name that is not allowed, an opcode without use in the format, or damage.
    """
    machine = _Machine(allowed, persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= most:
                raise HgladError(f"it has more than {most} opcodes: expected a network")
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        where = f"near byte {stream.tell()}"
        raise HgladError(f"it is no pickle, or damaged {where} ({reason}): fetch it anew") from error


class _Machine:
    """Stack, marks and memo of a pickle (the comments of `pickletools` define the opcodes)."""

    def __init__(self, allowed: Callable[[str], bool], persistent: bool) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.allowed, self.persistent = allowed, persistent

    def step(self, opcode: str, argument: Any) -> None:
        """Follow one opcode."""
        stack = self.stack
        if opcode in LITERALS:
            stack.append(argument)
        elif opcode in CONSTANTS:
            stack.append(CONSTANTS[opcode])
        elif opcode in EMPTY:
            stack.append(EMPTY[opcode]())
        else:
            match opcode:
                case "MEMOIZE":
                    self.memo[len(self.memo)] = stack[-1]
                case "BINPUT" | "LONG_BINPUT":
                    self.memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(self.memo[argument])
                case "MARK":
                    self.marks.append(len(stack))
                case "TUPLE":
                    stack.append(tuple(self.since_mark()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(self.take(int(opcode[-1]))))
                case "FROZENSET":
                    stack.append(self.since_mark())
                case "SETITEM":
                    self.set_items(self.take(2))
                case "SETITEMS":
                    self.set_items(self.since_mark())
                case "APPEND":
                    self.extend(self.take(1))
                case "APPENDS" | "ADDITEMS":
                    self.extend(self.since_mark())
                case "REDUCE" | "NEWOBJ":
                    self.call(stack.pop())
                case "NEWOBJ_EX":
                    self.call(tuple(self.take(2)))
                case "BUILD":
                    state = stack.pop()
                    self.top(Record).state = state
                case "GLOBAL":
                    self.name(*argument.split(" ", 1))
                case "STACK_GLOBAL":
                    self.name(*self.take(2))
                case "POP" if not (self.marks and self.marks[-1] == len(stack)):
                    stack.pop()
                case "POP" | "POP_MARK":
                    self.since_mark()
                case "BINPERSID" if self.persistent:
                    stack.append(Record(Name("persistent"), (stack.pop(),)))
                case "PROTO" | "FRAME" | "STOP":
                    pass
                case _:
                    raise HgladError(f"its opcode {opcode} has no use in a network pickle; fetch it anew")

    def since_mark(self) -> list[Any]:
        """Take what lies above the last mark."""
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def take(self, count: int) -> list[Any]:
        """Take the topmost `count` values."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def top(self, *kinds: type) -> Any:
        """What lies on top and is to be filled."""
        if not isinstance(self.stack[-1], kinds):
            raise TypeError(f"{in_words(self.stack[-1])} cannot be filled")
        return self.stack[-1]

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name that is not text")
        text = f"{module}.{name}"
        if not self.allowed(text):
            raise HgladError(f"it names '{text[:100]}', which no network needs: refused, and nothing was run")
        self.stack.append(Name(text))

    def call(self, arguments: Any) -> None:
        function = self.stack.pop()
        if not (isinstance(function, Name | Record) and isinstance(arguments, tuple)):
            raise TypeError("a call of what cannot be called")
        self.stack.append(Record(function, arguments))

    def set_items(self, flat: list[Any]) -> None:
        target = self.top(Record, dict)
        items = target.items if isinstance(target, Record) else target
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if isinstance(key, str | int | float):  # hashing a deeply nested tuple would end the process
                items[key] = value

    def extend(self, values: list[Any]) -> None:
        target = self.top(Record, list)
        (target.elements if isinstance(target, Record) else target).extend(values)


class TensorReader:
    """Turns records of tensors into float32 tensors; storages that several tensors share are decoded once."""

    def __init__(self) -> None:
        self._numbers: dict[int, Tensor] = {}

    def read(self, record: Any, name: str) -> Tensor:
        """The tensor or parameter `name`, a view of its storage.

        Raises:
            HgladError: not a tensor, or one that does not lie inside the numbers that are there.
        """
        if isinstance(record, Record) and record.name in PARAMETERS and record.arguments:
            record = record.arguments[0]
        if not isinstance(record, Record) or record.name not in TENSORS or len(record.arguments) < 4:
            raise HgladError(f"'{name}' is {in_words(record)}: expected a tensor")
        storage, offset, size, stride = record.arguments[:4]
        if id(storage) not in self._numbers:
            self._numbers[id(storage)] = _read_storage(storage, name)
        length = len(self._numbers[id(storage)])
        # It must not be larger than its storage either, which strides of 0 could make it.
        inside = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 8
        inside = inside and all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
        if inside:
            last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
            inside = 0 < math.prod(size) <= length and last < length
        if not inside:
            raise HgladError(f"tensor '{name}' does not lie inside its {length} numbers: the file is damaged")
        return self._numbers[id(storage)].as_strided(size, stride, offset)


def _read_storage(record: Any, name: str) -> Tensor:
    """Numbers of a storage, 1-D and float32, out of the bytes that PyTorch's old file format put them in.

    Before them are five small pickles (magic number, version, byte order, content, order of the storages) and
    their count.
    """
    if not isinstance(record, Record) or record.name != "torch.storage._load_from_bytes":
        raise HgladError(f"the storage of '{name}' is {in_words(record)}: expected bytes of PyTorch")
    content = _bytes(record.arguments[0] if record.arguments else None)
    if content is None or content[:2] == b"PK":
        raise HgladError(f"the storage of '{name}' is not in the old format that PyTorch puts into pickles")
    stream = io.BytesIO(content)
    try:
        magic, version, system, described, _ = (
            read_pickle(stream, STORAGES.__contains__, persistent=True, most=1000) for _ in range(5)
        )
        if (magic, version) != (MAGIC_NUMBER, PROTOCOL_VERSION) or system.get("little_endian") is not True:
            raise ValueError("not PyTorch's old file format with little-endian numbers")
        if not isinstance(described, Record) or described.name != "persistent":
            raise ValueError("no storage")
        _, kind, _, _, declared, view = described.arguments[0]
        (count,) = struct.unpack("<q", stream.read(8))
        if count < 0 or declared != count or view is not None:
            raise ValueError(f"{declared} and {count} numbers are declared")
        start, dtype = stream.tell(), np.dtype(STORAGES[kind.text])
        if len(content) - start != count * dtype.itemsize:
            raise ValueError(f"{len(content) - start} bytes for {count} numbers of {dtype.itemsize} bytes")
    except (HgladError, AttributeError, *DAMAGE) as error:
        raise HgladError(f"the storage of '{name}' cannot be read ({error}): the file is damaged") from error
    numbers = np.frombuffer(content, dtype, count, start)
    return torch.from_numpy(numbers.astype(np.float32))  # a copy: the bytes themselves cannot be written to


def _bytes(value: Any) -> bytes | None:
    """Bytes as protocol 3 and later hold them, or written as text, as protocol 2 does; else None."""
    if isinstance(value, Record) and value.name == "_codecs.encode" and value.arguments:
        text = value.arguments[0]
        latin = isinstance(text, str) and max(text, default="") <= "\xff"
        return text.encode("latin1") if latin else None
    return bytes(value) if isinstance(value, bytes | bytearray) else None
