"""A GGUF header, bytes to keys and tensors, strictly: what no honest writer makes is refused before it costs memory.

    file = "GGUF" | version u32 | tensors u64 | keys u64 | key * | tensor * | padding | data
    key = string name | u32 type | value          string = u64 length | UTF-8
    tensor = string name | u32 axes | u64 extent * axes, fastest first | u32 type | u64 offset from the start of data

Data and each tensor in it begin at multiples of `general.alignment` (32). Little-endian, versions 2 and 3.
Source: the GGUF specification and `ggml_type` of ggml-org/ggml.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ingot.errors import CheckFailed, IngotError, UnsafeInputError, printable
from ingot.formats.raw_bytes import file_nbytes as size_of
from ingot.formats.raw_bytes import read_exactly, refuse_lfs_pointer
from ingot.formats.tensor_ref import TensorRef

#: A key's value: a number, a flag, a text, or a list of one kind of these.
Value = int | float | bool | str | list["Value"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
#: Longest header: a vocabulary of a million tokens takes a few dozen megabytes.
MAX_HEADER_NBYTES = 1 << 30
_MAX_AXES = 4
_MAX_COUNT = 1 << 20
_READ_NBYTES = 1 << 20

#: ggml's number of a type -> (name, weights a block, bytes a block).
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
#: Number of a key's type -> its struct code; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file holds.

    Attributes:
        keys: in file order.
        tensors: in offset order, without overlap; their dtype is ggml's type, such as Q4_K.
        nbytes: of everything before the data.
        sha256: hex digest of the first `nbytes` bytes.
    """

    version: int
    keys: Mapping[str, Value]
    tensors: tuple[TensorRef, ...]
    nbytes: int
    file_nbytes: int
    sha256: str

    @cached_property
    def by_name(self) -> dict[str, TensorRef]:
        return {tensor.name: tensor for tensor in self.tensors}


def read_gguf(fd: int, *, file: str, incomplete: type[IngotError] = CheckFailed) -> GgufHeader:
    """The header of an open file.

    Raises:
        incomplete: an honest file that is cut off, is a git-lfs pointer, or of a version or byte order not read here.
        UnsafeInputError: what no honest writer makes.
    """
    cursor = _Cursor(fd, file, size_of(fd, file=file), incomplete)
    refuse_lfs_pointer(cursor.peek(200), file=file, incomplete=incomplete)
    if cursor.take(4) != MAGIC:
        raise incomplete("file does not begin with GGUF", where=file)
    version = cursor.number("I")
    if version not in VERSIONS:
        hint = "It may be a big-endian file." if version > 0xFFFF else None
        raise incomplete("version of GGUF is not read here", where=file, expected="2 or 3", found=version, hint=hint)
    tensors, keys = cursor.count("tensors"), cursor.count("keys")
    values: dict[str, Value] = {}
    for _ in range(keys):
        name = cursor.text()
        if name in values:
            raise UnsafeInputError("a key stands twice", where=f"{file}: {printable(name)}")
        values[name] = cursor.value(cursor.number("I"))
    infos = [_tensor_info(cursor) for _ in range(tensors)]
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 16 or alignment & (alignment - 1):
        raise UnsafeInputError("alignment is no power of two", where=f"{file}: general.alignment", found=alignment)
    begin = cursor.at + -cursor.at % alignment
    refs = _placed(infos, begin, alignment, cursor)
    digest = hashlib.sha256(read_exactly(fd, 0, min(begin, cursor.file_nbytes), file=file, incomplete=incomplete))
    return GgufHeader(version, values, refs, begin, cursor.file_nbytes, digest.hexdigest())


@dataclass
class _Info:
    name: str
    shape: tuple[int, ...]
    type: tuple[str, int, int]
    offset: int

    @property
    def nbytes(self) -> int:
        _, block, nbytes = self.type
        return math.prod(self.shape) // block * nbytes


def _tensor_info(cursor: _Cursor) -> _Info:
    name = cursor.text()
    where = f"{cursor.file}: {printable(name)}"
    axes = cursor.number("I")
    if not 0 < axes <= _MAX_AXES:
        raise UnsafeInputError("number of axes is impossible", where=where, expected=f"1 to {_MAX_AXES}", found=axes)
    shape = tuple(cursor.number("Q") for _ in range(axes))[::-1]
    number, offset = cursor.number("I"), cursor.number("Q")
    if number not in TYPES:
        raise cursor.incomplete("tensor has a type that is not known here", where=where, found=number)
    if not all(0 < extent < 1 << 48 for extent in shape) or shape[-1] % TYPES[number][1]:
        raise UnsafeInputError("shape does not fit the type", where=where, found=f"{list(shape)} of {TYPES[number][0]}")
    return _Info(name, shape, TYPES[number], offset)


def _placed(infos: list[_Info], begin: int, alignment: int, cursor: _Cursor) -> tuple[TensorRef, ...]:
    """The tensors in offset order: aligned, apart, and inside the file."""
    refs: list[TensorRef] = []
    seen: set[str] = set()
    for info in sorted(infos, key=lambda info: info.offset):
        where = f"{cursor.file}: {printable(info.name)}"
        if info.name in seen:
            raise UnsafeInputError("a tensor stands twice", where=where)
        seen.add(info.name)
        first = begin + info.offset
        if info.offset % alignment or (refs and first < refs[-1].end):
            raise UnsafeInputError("tensor overlaps another, or is not aligned", where=where, found=info.offset)
        if first + info.nbytes > cursor.file_nbytes:
            raise cursor.cut_off(first + info.nbytes)
        refs.append(TensorRef(info.name, info.type[0], info.shape, cursor.file, first, first + info.nbytes))
    return tuple(refs)


@dataclass
class _Cursor:
    """Reads forward through a header, a megabyte at a time."""

    fd: int
    file: str
    file_nbytes: int
    incomplete: type[IngotError]
    at: int = 0
    _window: bytes = b""
    _window_at: int = 0

    def peek(self, nbytes: int) -> bytes:
        nbytes = min(nbytes, self.file_nbytes - self.at)
        if not self._window_at <= self.at or self.at + nbytes > self._window_at + len(self._window):
            size = min(max(nbytes, _READ_NBYTES), self.file_nbytes - self.at)
            end = self.at + size
            self._window = read_exactly(self.fd, self.at, end, file=self.file, incomplete=self.incomplete)
            self._window_at = self.at
        begin = self.at - self._window_at
        return self._window[begin : begin + nbytes]

    def take(self, nbytes: int) -> bytes:
        if self.at + nbytes > MAX_HEADER_NBYTES:
            raise UnsafeInputError("header is too long", where=self.file, expected=f"at most {MAX_HEADER_NBYTES} bytes")
        if self.at + nbytes > self.file_nbytes:
            raise self.cut_off(self.at + nbytes)
        data = self.peek(nbytes)
        self.at += nbytes
        return data

    def cut_off(self, expected: int) -> IngotError:
        return self.incomplete(
            "file is cut off", where=self.file, expected=f"at least {expected} bytes", found=self.file_nbytes
        )

    def number(self, code: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return int(value)

    def count(self, what: str) -> int:
        number = self.number("Q")
        if number > _MAX_COUNT:
            raise UnsafeInputError(f"number of {what} is impossible", where=self.file, found=number)
        return number

    def text(self) -> str:
        raw = self.take(self.number("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UnsafeInputError("a text is no UTF-8", where=self.file, found=printable(repr(raw[:40]))) from error

    def value(self, kind: int) -> Value:
        if kind in _SCALARS:
            (value,) = struct.unpack(f"<{_SCALARS[kind]}", self.take(struct.calcsize(f"<{_SCALARS[kind]}")))
            scalar: Value = value
            return scalar
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array()
        raise UnsafeInputError("a key has an unknown type", where=self.file, found=kind)

    def _array(self) -> Value:
        kind, length = self.number("I"), self.number("Q")
        if kind in _SCALARS:
            code = f"<{length}{_SCALARS[kind]}"
            if length > MAX_HEADER_NBYTES:
                raise UnsafeInputError("an array is too long", where=self.file, found=length)
            return list(struct.unpack(code, self.take(struct.calcsize(code))))
        if kind != _STRING:  # nested arrays: nobody writes them
            raise UnsafeInputError("an array holds an unknown type", where=self.file, found=kind)
        if length * 8 > self.file_nbytes - self.at:
            raise self.cut_off(self.at + length * 8)
        return [self.text() for _ in range(length)]
