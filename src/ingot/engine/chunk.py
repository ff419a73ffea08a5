"""One chunk of one output shard: which bytes feed it, which of them are copied and checked, which are computed.

The output is the input's byte stream with patches. A chunk is a range of the *output* file; the plan tells which bytes
of the input feed it. Where output and input have the same header, that is one read at the same offset.

Needs no torch: bytes move while it is still being imported. What computes is `patch`.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.errors import NonFiniteError
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef
from ingot.kernels.finite import first_non_finite
from ingot.plan.model import Op, ShardPlan
from ingot.storage.inputs import InputFile

if TYPE_CHECKING:
    from ingot.engine.patch import Patcher

#: Bytes of a chunk: what a worker reads, patches, digests and writes at once. A multiple of any page size.
CHUNK_NBYTES = 16 << 20
PAGE_NBYTES = 4096
#: How far in front of the workers the disk is asked to read: a few chunks.
AHEAD_NBYTES = 4 * CHUNK_NBYTES


def new_buffer() -> memoryview:
    """Room for one chunk, page-aligned as direct writes ask; each worker has one and uses it for every chunk."""
    return memoryview(mmap.mmap(-1, CHUNK_NBYTES))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes [begin, end) of an output shard; `number` counts from 0 along the shard."""

    number: int
    begin: int
    end: int

    @property
    def padded(self) -> int:
        """Its length rounded up to whole pages, as direct writes ask; the file is cut to length at its commit."""
        return -(-(self.end - self.begin) // PAGE_NBYTES) * PAGE_NBYTES


def chunks_of(shard: ShardPlan) -> list[Chunk]:
    """The shard cut into chunks."""
    starts = range(0, shard.nbytes, CHUNK_NBYTES)
    return [Chunk(i, begin, min(begin + CHUNK_NBYTES, shard.nbytes)) for i, begin in enumerate(starts)]


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes [begin, end) of the file that belong to one op, whose first byte is at `at`."""

    op: Op
    at: int
    begin: int
    end: int

    @property
    def itemsize(self) -> int:
        return DTYPE_NBYTES[self.op.dtype]


def starts_from_base(op: Op) -> bool:
    """Whether the base's bytes, as they are, are what the op starts from."""
    same = op.source is not None and op.source.dtype == op.dtype and op.source.shape == op.shape
    return same and not op.from_adapter


@dataclass
class Sampled:
    """What the run noticed of one op: elements looked at, and how many of them differ from the base's."""

    seen: int = 0
    changed: int = 0


class ShardReader:
    """Fills chunks of one shard."""

    def __init__(
        self, shard: ShardPlan, inputs: Mapping[str, InputFile], patcher: Callable[[], Patcher], *, trust_base: bool
    ) -> None:
        """`patcher` is called when the first computed byte is met; `trust_base` leaves copied tensors unchecked."""
        self.shard = shard
        self._inputs = inputs
        self._patcher = patcher
        self._trust_base = trust_base
        self._begins = [ref.begin for ref in shard.header.tensors]

    def load(self, chunk: Chunk, buffer: memoryview) -> memoryview:
        """The chunk with all bytes that come from a file as they are; computed tensors hold the base's bytes."""
        data = buffer[: chunk.end - chunk.begin]
        if self.shard.source is not None:
            file = self._inputs[self.shard.source]
            # subtle: several workers on one descriptor look random to the kernel, which then reads little ahead
            ahead = chunk.begin if chunk.begin == 0 else chunk.begin + AHEAD_NBYTES
            file.will_need(ahead, AHEAD_NBYTES + CHUNK_NBYTES if chunk.begin == 0 else CHUNK_NBYTES)
            file.read_into(data, chunk.begin)
            return data
        head = self.shard.header_bytes[chunk.begin : chunk.end]
        data[: len(head)] = head
        for piece in self._pieces(chunk):
            if piece.op.source is not None and starts_from_base(piece.op):
                offset = piece.op.source.begin + piece.begin - piece.at
                window = data[piece.begin - chunk.begin : piece.end - chunk.begin]
                self._inputs[piece.op.source.file].read_into(window, offset)
        return data

    def patch(self, chunk: Chunk, data: memoryview, sampled: dict[str, Sampled]) -> None:
        """Compute what the plan changes in this chunk, and check that every element of it is finite."""
        for piece in self._pieces(chunk):
            if piece.op.computed:
                self._patcher().patch(piece, chunk.begin, data, sampled)
            elif not self._trust_base:
                self._check_copied(chunk, piece, data)

    def _pieces(self, chunk: Chunk) -> Iterator[Piece]:
        refs, ops = self.shard.header.tensors, self.shard.ops
        for i in range(max(0, bisect_right(self._begins, chunk.begin) - 1), len(refs)):
            if refs[i].begin >= chunk.end:
                return
            begin, end = max(refs[i].begin, chunk.begin), min(refs[i].end, chunk.end)
            if begin < end:
                yield Piece(ops[i], refs[i].begin, begin, end)

    def _check_copied(self, chunk: Chunk, piece: Piece, data: memoryview) -> None:
        """Copied tensors are checked too: what is served must be finite, whoever wrote it."""
        itemsize, source = piece.itemsize, piece.op.source
        first = -(-(piece.begin - piece.at) // itemsize)
        last = (piece.end - piece.at) // itemsize
        if source is not None and last * itemsize < piece.end - piece.at:  # an element that the chunk's edge cuts
            self._refuse_base(source, last, read_elements(self._inputs, source, last, last + 1))
        window = data[piece.at + first * itemsize - chunk.begin : max(0, piece.at + last * itemsize - chunk.begin)]
        if source is not None:
            self._refuse_base(source, first, window)

    @staticmethod
    def _refuse_base(source: TensorRef, first: int, raw: memoryview) -> None:
        at = first_non_finite(raw, source.dtype)
        if at is not None:
            raise NonFiniteError(
                "the base itself holds a NaN or an infinity, in a tensor that no adapter changes",
                where=f"{source.name} in {source.file}, element {first + at}",
                hint="Download the base again; if it is meant to be so, pass --accept-nonfinite-base.",
            )


def read_elements(inputs: Mapping[str, InputFile], source: TensorRef, first: int, last: int) -> memoryview:
    """Elements [first, last) of a tensor in a file, as stored."""
    itemsize = DTYPE_NBYTES[source.dtype]
    raw = memoryview(bytearray((last - first) * itemsize))
    inputs[source.file].read_into(raw, source.begin + first * itemsize)
    return raw
