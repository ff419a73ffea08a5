"""A pickle read as data: a stack machine of a closed set of opcodes, which knows a few globals by name and calls none.

Where a real unpickler imports a global, this one looks the name up in a table of strings; where a real one calls it,
this one builds a record of what was asked. Nothing is imported, nothing is executed, no value is ever walked or
hashed except text, so depth and cycles cost nothing.

Source: the opcode descriptions in CPython's `pickletools`; what `torch.save` writes at protocols 2 to 5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NoReturn

from ingot.errors import UnsafeInputError
from ingot.formats.torch_globals import GLOBALS, Global, call, storage

MAX_NOPS = 2_000_000
MAX_STACK = 100_000
MAX_MARKS = 256
MAX_MEMO = 1_000_000

_STOP = 0x2E
# For the message alone: whatever is not in _ACTIONS is refused.
_RUNS_CODE = {
    0x69: "INST", 0x6F: "OBJ", 0x81: "NEWOBJ", 0x92: "NEWOBJ_EX", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4",
    0x50: "PERSID",
}  # fmt: skip


def read_pickle(data: bytes, *, where: str) -> object:
    """The value that the pickle describes: None, bool, int, float, str, tuple, list, dict, or a noun of torch_globals.

    Raises:
        UnsafeInputError: an opcode or a global outside the closed sets, arguments of another form than torch writes,
            a malformed stack, a repeated dict key, more than the limits, or bytes after the end.
    """
    return _Machine(data, where).run()


class _Machine:
    def __init__(self, data: bytes, where: str) -> None:
        self.data = data
        self.where = where
        self.pos = 0
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        if self.data[:1] != b"\x80":
            self.refuse("pickle has no protocol")
        nops = 0
        while (opcode := self.take(1)[0]) != _STOP:
            action = _ACTIONS.get(opcode)
            if action is None:
                self.refuse("pickle opcode is not allowed", _RUNS_CODE.get(opcode, f"{opcode:#04x}"))
            action(self)
            nops += 1
            if nops > MAX_NOPS:
                self.refuse("pickle has too many operations", f"more than {MAX_NOPS}")
            if len(self.stack) > MAX_STACK or len(self.marks) > MAX_MARKS or len(self.memo) > MAX_MEMO:
                self.refuse("pickle is too deep or too large")
        return self.result()

    def result(self) -> object:
        value = self.pop()
        if self.stack or self.marks or self.pos != len(self.data):
            self.refuse("pickle goes on after its end")
        return value

    # ---- bytes

    def take(self, nbytes: int) -> bytes:
        part = self.data[self.pos : self.pos + nbytes]
        if len(part) != nbytes:
            self.refuse("pickle ends too early")
        self.pos += nbytes
        return part

    def uint(self, nbytes: int) -> int:
        return int.from_bytes(self.take(nbytes), "little")

    def line(self) -> str:
        end = self.data.find(b"\n", self.pos, self.pos + 256)
        if end < 0:
            self.refuse("pickle names a global without an end")
        text = self.decode(self.data[self.pos : end])
        self.pos = end + 1
        return text

    def decode(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse("text of the pickle is not UTF-8")

    # ---- stack

    def pop(self) -> object:
        # subtle: a mark is a floor. A value below it belongs to whoever set it.
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.refuse("pickle takes more from its stack than it put there")
        return self.stack.pop()

    def top(self) -> object:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_to_mark(self) -> list[object]:
        if not self.marks:
            self.refuse("pickle has no mark")
        begin = self.marks.pop()
        values = self.stack[begin:]
        del self.stack[begin:]
        return values

    # ---- opcodes

    def proto(self) -> None:
        version = self.uint(1)
        if self.pos != 2 or not 2 <= version <= 5:
            self.refuse("pickle protocol is not one of 2 to 5", version)

    def frame(self) -> None:
        if self.uint(8) > len(self.data) - self.pos:
            self.refuse("pickle frame is longer than the pickle")

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def push_text(self, length_nbytes: int) -> None:
        self.stack.append(self.decode(self.take(self.uint(length_nbytes))))

    def push_long(self) -> None:
        nbytes = self.uint(1)
        if nbytes > 8:
            self.refuse("integer of the pickle is too large")
        self.stack.append(int.from_bytes(self.take(nbytes), "little", signed=True))

    def push_tuple(self, length: int) -> None:
        self.stack.append(tuple([self.pop() for _ in range(length)][::-1]))

    def put(self, index_nbytes: int) -> None:
        self.memo[self.uint(index_nbytes)] = self.top()

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.top()

    def get(self, index_nbytes: int) -> None:
        index = self.uint(index_nbytes)
        if index not in self.memo:
            self.refuse("pickle recalls what it never stored", index)
        self.stack.append(self.memo[index])

    def append(self, values: list[object]) -> None:
        target = self.top()
        if not isinstance(target, list):
            self.refuse("pickle appends to something else than a list")
        target.extend(values)

    def set_items(self, values: list[object]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(values) % 2:
            self.refuse("pickle sets items of something else than a dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str):
                self.refuse("pickle has a dict key that is no text", type(key).__name__)
            if key in target:
                self.refuse("a key stands twice in the pickle", key[:200])
            target[key] = value

    def build(self) -> None:
        # torch hangs `_metadata` on a state dict as an attribute. It names modules, not tensors: read and let go.
        state = self.pop()
        if not isinstance(state, dict) or not isinstance(self.top(), dict):
            self.refuse("pickle sets the state of something else than a dict")

    def push_global(self, module: object, name: object) -> None:
        full = f"{module} {name}" if isinstance(module, str) and isinstance(name, str) else "no text"
        if full not in GLOBALS:
            self.refuse("pickle asks for code that no checkpoint needs", full[:300].replace(" ", ".", 1))
        self.stack.append(Global(full))

    def stack_global(self) -> None:
        name = self.pop()
        self.push_global(self.pop(), name)

    def persistent_id(self) -> None:
        ref = storage(self.pop())
        if ref is None:
            self.refuse("pickle refers to something else than a torch storage")
        self.stack.append(ref)

    def reduce(self) -> None:
        arguments = self.pop()
        target = self.pop()
        value = call(target, arguments)
        if value is None:
            # subtle: never the repr of a value from the pickle, which may nest without end.
            found = target.name if isinstance(target, Global) else type(target).__name__
            self.refuse("pickle calls something in a way that torch does not", found)
        self.stack.append(value)

    def refuse(self, what: str, found: object = None) -> NoReturn:
        raise UnsafeInputError(what, where=f"byte {self.pos} of {self.where}", found=found)


_ACTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.proto,  # PROTO
    0x95: _Machine.frame,  # FRAME
    0x28: _Machine.mark,  # MARK
    0x4E: lambda m: m.stack.append(None),  # NONE
    0x88: lambda m: m.stack.append(True),  # NEWTRUE
    0x89: lambda m: m.stack.append(False),  # NEWFALSE
    0x4B: lambda m: m.stack.append(m.uint(1)),  # BININT1
    0x4D: lambda m: m.stack.append(m.uint(2)),  # BININT2
    0x4A: lambda m: m.stack.append(int.from_bytes(m.take(4), "little", signed=True)),  # BININT
    0x8A: _Machine.push_long,  # LONG1
    0x47: lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),  # BINFLOAT
    0x58: lambda m: m.push_text(4),  # BINUNICODE
    0x8C: lambda m: m.push_text(1),  # SHORT_BINUNICODE
    0x29: lambda m: m.stack.append(()),  # EMPTY_TUPLE
    0x85: lambda m: m.push_tuple(1),  # TUPLE1
    0x86: lambda m: m.push_tuple(2),  # TUPLE2
    0x87: lambda m: m.push_tuple(3),  # TUPLE3
    0x74: lambda m: m.stack.append(tuple(m.pop_to_mark())),  # TUPLE
    0x5D: lambda m: m.stack.append([]),  # EMPTY_LIST
    0x61: lambda m: m.append([m.pop()]),  # APPEND
    0x65: lambda m: m.append(m.pop_to_mark()),  # APPENDS
    0x7D: lambda m: m.stack.append({}),  # EMPTY_DICT
    0x73: lambda m: m.set_items([m.pop(), m.pop()][::-1]),  # SETITEM
    0x75: lambda m: m.set_items(m.pop_to_mark()),  # SETITEMS
    0x71: lambda m: m.put(1),  # BINPUT
    0x72: lambda m: m.put(4),  # LONG_BINPUT
    0x94: _Machine.memoize,  # MEMOIZE
    0x68: lambda m: m.get(1),  # BINGET
    0x6A: lambda m: m.get(4),  # LONG_BINGET
    0x63: lambda m: m.push_global(m.line(), m.line()),  # GLOBAL
    0x93: _Machine.stack_global,  # STACK_GLOBAL
    0x51: _Machine.persistent_id,  # BINPERSID
    0x52: _Machine.reduce,  # REDUCE
    0x62: _Machine.build,  # BUILD
}
