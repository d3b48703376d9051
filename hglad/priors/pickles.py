"""A pickle read as data: nothing that it names is imported, nothing in it is called.

A pickle is a program for a stack machine; unpickling runs it, and with it whatever function it names. This
reader lets `pickletools.genops` of the standard library take the program apart, which runs nothing, and
follows it with a stack of its own: plain values, names, and notes of what would have been called.
"""

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from hglad.errors import HgladError

MOST_OPCODES = 2_000_000  # a released file has about a tenth; each costs some hundred bytes of memory
RECONSTRUCTORS = {"copyreg._reconstructor", "copy_reg._reconstructor"}
DAMAGE = (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error)


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


def describe(value: object) -> str:
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
        if opcode in LITERALS:
            self.stack.append(argument)
        elif opcode in EFFECTS:
            EFFECTS[opcode](self, argument)
        elif opcode == "BINPERSID" and self.persistent:
            self.stack.append(Record(Name("persistent"), (self.stack.pop(),)))
        else:
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

    def name(self, text: str) -> None:
        if not self.allowed(text):
            raise HgladError(f"it names '{text[:100]}', which no network needs: refused, and nothing was run")
        self.stack.append(Name(text))

    def stack_global(self) -> None:
        module, name = self.take(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name that is not text")
        self.name(f"{module}.{name}")

    def call(self, arguments: Any) -> None:
        function = self.stack.pop()
        if not (isinstance(function, Name | Record) and isinstance(arguments, tuple)):
            raise TypeError("a call of what cannot be called")
        self.stack.append(Record(function, arguments))

    def build(self, state: Any) -> None:
        self._top(Record).state = state

    def set_items(self, flat: list[Any]) -> None:
        target = self._top(Record, dict)
        items = target.items if isinstance(target, Record) else target
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if isinstance(key, str | int | float):  # hashing a deeply nested tuple would end the process
                items[key] = value

    def append(self, values: list[Any]) -> None:
        target = self._top(Record, list)
        (target.elements if isinstance(target, Record) else target).extend(values)

    def _top(self, *kinds: type) -> Any:
        if not isinstance(self.stack[-1], kinds):
            raise TypeError(f"{describe(self.stack[-1])} cannot be filled")
        return self.stack[-1]

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def drop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()


LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
EFFECTS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_SET": lambda machine, _: machine.stack.append([]),
    "FROZENSET": lambda machine, _: machine.stack.append(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.take(3))),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.drop(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "APPEND": lambda machine, _: machine.append(machine.take(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": lambda machine, text: machine.name(text.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    "REDUCE": lambda machine, _: machine.call(machine.stack.pop()),
    "NEWOBJ": lambda machine, _: machine.call(machine.stack.pop()),
    "NEWOBJ_EX": lambda machine, _: machine.call(tuple(machine.take(2))),
    "BUILD": lambda machine, _: machine.build(machine.stack.pop()),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "BINPUT": lambda machine, index: machine.remember(index),
    "LONG_BINPUT": lambda machine, index: machine.remember(index),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
}
