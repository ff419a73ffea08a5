"""A safetensors header, bytes to tensors and back, stricter than the reference reader and accepting nothing it refuses.

    file = nbytes of JSON (u64, little-endian) | JSON, padded with spaces | data
    JSON = {"__metadata__": {str: str}, name: {"dtype": str, "shape": [int], "data_offsets": [begin, end)}, ...}

Offsets in a header count from the start of the data; those of a TensorRef count from the start of the file.

Source: the format section of the safetensors README, and `Metadata::validate` of its Rust crate. Beyond it, refused
here: duplicate keys, unknown fields, space before `{`, empty names, control characters, NFC twins, more than 64 axes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ingot.errors import BaseError, IngotError, UnsafeInputError
from ingot.formats.names import check_distinct
from ingot.formats.raw_bytes import file_nbytes as size_of
from ingot.formats.raw_bytes import read_exactly, refuse_lfs_pointer
from ingot.formats.safetensors_grammar import METADATA, PREFIX_NBYTES, parse_entries
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef

#: Longest JSON part, the reference reader's own limit.
MAX_HEADER_NBYTES = 100_000_000
#: Where data begins, a multiple of this: the widest element.
ALIGNMENT = 8


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds.

    Attributes:
        tensors: in offset order; together their `[begin, end)` tile the data without overlap or hole.
        metadata: `__metadata__`, None where absent or null.
        nbytes: of the header with its length prefix, which is the file offset of the data.
        file_nbytes: of the whole file.
        sha256: hex digest of the first `nbytes` bytes of the file.
    """

    tensors: tuple[TensorRef, ...]
    metadata: Mapping[str, str] | None
    nbytes: int
    file_nbytes: int
    sha256: str

    @cached_property
    def by_name(self) -> dict[str, TensorRef]:
        return {tensor.name: tensor for tensor in self.tensors}


def read_header(fd: int, *, file: str, incomplete: type[IngotError] = BaseError) -> Header:
    """The header of an open file, by two reads of exactly what is needed. Raises as `parse_header`."""
    size = size_of(fd, file=file)
    prefix = read_exactly(fd, 0, min(size, PREFIX_NBYTES), file=file, incomplete=incomplete)
    nbytes = header_nbytes(prefix, file=file, file_nbytes=size, incomplete=incomplete)
    raw = read_exactly(fd, 0, nbytes, file=file, incomplete=incomplete)
    return parse_header(raw, file=file, file_nbytes=size, incomplete=incomplete)


def header_nbytes(prefix: bytes, *, file: str, file_nbytes: int, incomplete: type[IngotError] = BaseError) -> int:
    """Bytes of the header with its length prefix, from the first 8 bytes of the file or more.

    Raises:
        incomplete: the file is too short for its header, or a git-lfs pointer.
        UnsafeInputError: the header claims more than 100 MB.
    """
    refuse_lfs_pointer(prefix, file=file, incomplete=incomplete)
    if len(prefix) < PREFIX_NBYTES:
        raise incomplete("file is too short for safetensors", where=file, found=f"{file_nbytes} bytes")
    nbytes = int.from_bytes(prefix[:PREFIX_NBYTES], "little")
    if nbytes > MAX_HEADER_NBYTES:
        raise UnsafeInputError(
            "header is too long", where=file, expected=f"at most {MAX_HEADER_NBYTES} bytes", found=nbytes
        )
    if PREFIX_NBYTES + nbytes > file_nbytes:
        raise _cut_off(file, PREFIX_NBYTES + nbytes, file_nbytes, incomplete)
    return PREFIX_NBYTES + nbytes


def parse_header(raw: bytes, *, file: str, file_nbytes: int, incomplete: type[IngotError] = BaseError) -> Header:
    """The header that `raw` begins with.

    Args:
        raw: the first bytes of the file; those after the header are not looked at.
        file: the file's name, for TensorRefs and messages.
        file_nbytes: size of the whole file.
        incomplete: raised for a file that is honest and yet unusable: cut off, a git-lfs pointer, a sub-byte dtype.

    Raises:
        incomplete: as above.
        UnsafeInputError: what no honest writer produces.
    """
    nbytes = header_nbytes(raw, file=file, file_nbytes=file_nbytes, incomplete=incomplete)
    if len(raw) < nbytes:
        raise _cut_off(file, nbytes, len(raw), incomplete)
    raw = raw if len(raw) == nbytes else raw[:nbytes]
    tensors, metadata = parse_entries(raw, file=file, incomplete=incomplete)
    check_distinct({tensor.name for tensor in tensors}, file=file)
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_tiling(tensors, nbytes, file_nbytes, file, incomplete)
    return Header(tuple(tensors), metadata, nbytes, file_nbytes, hashlib.sha256(raw).hexdigest())


def build_header(
    tensors: Sequence[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str] | None, *, file: str
) -> tuple[bytes, Header]:
    """The header bytes of a file that holds these tensors one after another, in this order, and what they parse to.

    Args:
        tensors: (name, dtype, shape) each; `DTYPE_NBYTES` has the dtypes.
        metadata: `__metadata__`; None leaves it out.

    Raises:
        UnsafeInputError: names or metadata that `parse_header` would refuse.
        ValueError: an unknown dtype, or a name that stands twice.
    """
    entries: dict[str, object] = {} if metadata is None else {METADATA: dict(metadata)}
    end = 0
    for name, dtype, shape in tensors:
        if name in entries or dtype not in DTYPE_NBYTES:
            raise ValueError(f"tensor {name!r} stands twice, or its dtype {dtype!r} is unknown")
        begin, end = end, end + math.prod(shape) * DTYPE_NBYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT)
    raw = len(text).to_bytes(PREFIX_NBYTES, "little") + text
    return raw, parse_header(raw, file=file, file_nbytes=len(raw) + end)


def _check_tiling(tensors: list[TensorRef], begin: int, end: int, file: str, incomplete: type[IngotError]) -> None:
    """Prove that the tensors, in offset order, cover file[begin, end) without overlap or hole."""
    data_end = max((tensor.end for tensor in tensors), default=begin)
    if data_end > end:
        raise _cut_off(file, data_end, end, incomplete)
    for tensor in tensors:
        if tensor.begin != begin:
            what = "overlaps another" if tensor.begin < begin else "leaves a hole before it"
            where = f"`{tensor.name}` in {file}"
            raise UnsafeInputError(
                f"tensor {what}", where=where, expected=f"byte {begin}", found=f"byte {tensor.begin}"
            )
        begin = tensor.end
    if begin != end:
        raise UnsafeInputError("bytes after the last tensor", where=file, found=f"{end - begin} bytes")


def _cut_off(file: str, expected: int, found: int, incomplete: type[IngotError]) -> IngotError:
    return incomplete(
        "file is cut off",
        where=file,
        expected=f"at least {expected} bytes",
        found=found,
        hint="Its download or copy did not finish: get the file again.",
    )
