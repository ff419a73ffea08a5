"""The JSON part of a safetensors header, by its own grammar.

    header   = { pairs of  "__metadata__" : metadata  or  name : entry }  whitespace
    metadata = null  or  { pairs of  text : text }
    entry    = { "dtype" : text , "shape" : [ints] , "data_offsets" : [int, int] }   in any order

It works on the raw bytes, in one pass, without recursion, and not through a JSON library: nothing can nest, repeat or
grow into something larger than itself, so that the grammar bounds what a hostile header may cost.
"""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

from ingot.errors import IngotError, UnsafeInputError
from ingot.formats.names import check_tensor_name
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef

#: The u64 before the JSON.
PREFIX_NBYTES = 8
MAX_NTENSORS = 200_000
#: A name as written, with escapes and the space around it; bounds how far its end is sought.
MAX_KEY_NBYTES = 64 * 2**10
MAX_METADATA_NBYTES = 16 * 2**20
MAX_METADATA_KEYS = 100_000
METADATA = "__metadata__"

_SUB_BYTE_DTYPES = frozenset({"F4", "F6_E2M3", "F6_E3M2"})
_INT = rb"(?:0|[1-9][0-9]{0,18}+)"
_WS = rb"[ \t\n\r]*+"
_STRING = rb'"([^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+)"'
_OPEN = re.compile(_WS + rb"\{" + _WS + rb"(\}?)")
_KEY = re.compile(_WS + _STRING + _WS + rb":" + _WS)
_VALUE = re.compile(_STRING)
_NEXT = re.compile(_WS + rb"([,}])")
_END = re.compile(_WS + rb"\Z")
# One field of an entry: 1 its name, 2 a text, 3 "[" and 4 the integers of at most 64 axes, 5 what follows.
_FIELD = re.compile(
    _WS + rb'"([a-z_]{1,64}+)"' + _WS + rb":" + _WS + rb'(?:"([A-Za-z0-9_]{0,32}+)"'
    rb"|(\[)" + _WS + rb"((?:" + _INT + rb"(?:" + _WS + rb"," + _WS + _INT + rb"){0,63}+)?+)" + _WS + rb"\])"
    + _WS + rb"([,}])"
)  # fmt: skip


def parse_entries(
    raw: bytes, *, file: str, incomplete: type[IngotError]
) -> tuple[list[TensorRef], dict[str, str] | None]:
    """Tensors in header order and `__metadata__` (None where absent or null) of `raw`: length prefix, then JSON.

    Each tensor's size is that of its shape and dtype; whether the tensors tile the data is for the caller.

    Raises:
        incomplete: a dtype of less than one byte.
        UnsafeInputError: anything outside the grammar, and any key that stands twice.
    """
    return _Parser(raw, file, incomplete).parse()


class _Parser:
    """Every method takes the position that it begins at and returns the one after what it read."""

    def __init__(self, raw: bytes, file: str, incomplete: type[IngotError]) -> None:
        self.raw = raw
        self.file = file
        self.incomplete = incomplete

    def parse(self) -> tuple[list[TensorRef], dict[str, str] | None]:
        if not self.raw.startswith(b"{", PREFIX_NBYTES):
            self.refuse("header does not begin with {", PREFIX_NBYTES)
        # An entry has a brace. Counting is cheap; a million entries would have cost memory by the time they are read.
        if self.raw.count(b"{") > MAX_NTENSORS + 2:  # the header's own brace, and that of its metadata
            self.refuse(f"header has more than {MAX_NTENSORS} tensors", PREFIX_NBYTES)
        tensors: dict[str, TensorRef] = {}
        metadata: list[dict[str, str] | None] = []
        pos, more = self.open(PREFIX_NBYTES)
        while more:
            name, pos = self.key(pos)
            if name in tensors or (name == METADATA and metadata):
                self.refuse("a key stands twice in the header", pos, name)
            if name == METADATA:
                value, pos = self.metadata(pos)
                metadata.append(value)
            else:
                tensors[name], pos = self.entry(pos, name)
            pos, more = self.next(pos)
        if len(tensors) > MAX_NTENSORS:
            self.refuse(f"header has more than {MAX_NTENSORS} tensors", PREFIX_NBYTES)
        if _END.match(self.raw, pos) is None:
            self.refuse("header goes on after its closing brace", pos)
        return list(tensors.values()), metadata[0] if metadata else None

    def open(self, pos: int) -> tuple[int, bool]:
        """Over `{`; whether anything stands before its `}`."""
        match = _OPEN.match(self.raw, pos)
        if match is None:
            self.refuse("malformed header, expected an object", pos)
        return match.end(), not match[1]

    def next(self, pos: int) -> tuple[int, bool]:
        """Over `,`, and more follows, or over `}`."""
        match = _NEXT.match(self.raw, pos)
        if match is None:
            self.refuse("malformed header, expected , or }", pos)
        return match.end(), match[1] == b","

    def key(self, pos: int) -> tuple[str, int]:
        """Over the name of a tensor and its colon."""
        match = _KEY.match(self.raw, pos, pos + MAX_KEY_NBYTES)
        if match is None:
            self.refuse("malformed header, expected a name", pos)
        name = self.text(match[1], pos)
        check_tensor_name(name, file=self.file)
        return name, match.end()

    def text(self, body: bytes, pos: int) -> str:
        """What stands between two quotes."""
        try:
            text = body.decode("utf-8")
            if "\\" in text:
                text = json.loads(f'"{text}"')
                text.encode("utf-8")  # refuses half of a surrogate pair
        except ValueError:
            self.refuse("malformed header, a string is neither UTF-8 nor JSON", pos)
        return text

    def metadata(self, pos: int) -> tuple[dict[str, str] | None, int]:
        if self.raw.startswith(b"null", pos):  # what MLX writes where it has none
            return None, pos + len(b"null")
        end = pos + MAX_METADATA_NBYTES
        result: dict[str, str] = {}
        pos, more = self.open(pos)
        while more:
            key = _KEY.match(self.raw, pos, end)
            value = key and _VALUE.match(self.raw, key.end(), end)
            if not key or not value or len(result) == MAX_METADATA_KEYS:
                self.refuse("malformed or too large metadata, expected text for every key", pos, METADATA)
            name = self.text(key[1], pos)
            if name in result:
                self.refuse("a key stands twice in the metadata", pos, METADATA)
            result[name] = self.text(value[1], pos)
            pos, more = self.next(value.end())
        return result, pos

    def entry(self, pos: int, name: str) -> tuple[TensorRef, int]:
        if not self.raw.startswith(b"{", pos):
            self.refuse("malformed header, expected an object", pos, name)
        pos += 1
        dtype: str | None = None
        shape: tuple[int, ...] | None = None
        offsets: tuple[int, ...] | None = None
        more = True
        while more:
            match = _FIELD.match(self.raw, pos)
            if match is None:
                self.refuse("malformed tensor, expected dtype as text, shape and data_offsets as integers", pos, name)
            field, text, bracket, digits, follows = match.groups()
            if field == b"dtype" and dtype is None and text is not None:
                dtype = text.decode("ascii")
            elif field == b"shape" and shape is None and bracket:
                shape = _integers(digits)
            elif field == b"data_offsets" and offsets is None and bracket:
                offsets = _integers(digits)
            else:
                self.refuse("tensor has an unknown, repeated or mistyped field", pos, name)
            pos, more = match.end(), follows == b","
        if dtype is None or shape is None or offsets is None or len(offsets) != 2:
            self.refuse("tensor lacks one of dtype, shape and data_offsets", pos, name)
        return self.tensor(name, dtype, shape, offsets[0], offsets[1], pos), pos

    def tensor(self, name: str, dtype: str, shape: tuple[int, ...], begin: int, end: int, pos: int) -> TensorRef:
        itemsize = DTYPE_NBYTES.get(dtype)
        if itemsize is None:
            self.refuse_dtype(name, dtype)
        nbytes = math.prod(shape) * itemsize
        if nbytes != end - begin:
            where = f"`{name}` in {self.file}"
            raise UnsafeInputError("shape and offsets disagree", where=where, expected=nbytes, found=end - begin)
        # subtle: the reference multiplies axis by axis, and so refuses [2^62, 8, 0], whose product is 0.
        if end >= 2**63 or (nbytes == 0 and math.prod(axis or 1 for axis in shape) >= 2**63):
            self.refuse("sizes overflow 64 bits", pos, name)
        return TensorRef(name, dtype, shape, self.file, len(self.raw) + begin, len(self.raw) + end)

    def refuse_dtype(self, name: str, dtype: str) -> NoReturn:
        where = f"`{name}` in {self.file}"
        if dtype in _SUB_BYTE_DTYPES:
            raise self.incomplete("ingot does not read dtypes of less than one byte", where=where, found=dtype)
        raise UnsafeInputError("unknown dtype", where=where, found=dtype)

    def refuse(self, what: str, pos: int, name: str | None = None) -> NoReturn:
        snippet = self.raw[pos : pos + 60].decode("utf-8", "replace")
        where = f"byte {pos} of {self.file}" if name is None else f"`{name}` in {self.file}"
        raise UnsafeInputError(what, where=where, found=snippet or "the end of the header")


def _integers(digits: bytes) -> tuple[int, ...]:
    return tuple(map(int, digits.split(b","))) if digits else ()
