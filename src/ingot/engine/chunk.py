"""One chunk of one output shard: read, patched in place, checked.

The output is the input's byte stream with patches. A chunk is a range of the *output* file; the plan tells which bytes
of the input feed it. Where output and input have the same header, that is one read at the same offset.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from ingot.engine.changes import Changes
from ingot.errors import NonFiniteError
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef
from ingot.kernels.dtypes import as_tensor
from ingot.kernels.finite import first_non_finite
from ingot.kernels.tile import TILE_ELEMENTS, TileGrid, merge_tile
from ingot.plan.model import Op, ShardPlan
from ingot.storage.inputs import InputFile

#: Bytes of a chunk: what a worker reads, patches, digests and writes at once. A multiple of any page size.
CHUNK_NBYTES = 16 << 20
PAGE_NBYTES = 4096


class Workspace:
    """The memory of one worker: a page-aligned chunk buffer and the tile that is computed on. Reused for every chunk."""

    def __init__(self, widest_row: int, device: torch.device) -> None:
        self._map = mmap.mmap(-1, CHUNK_NBYTES)  # anonymous: page-aligned, as direct writes ask
        self.buffer = memoryview(self._map)
        self.scratch = torch.empty(max(TILE_ELEMENTS, widest_row), dtype=torch.float32, device=device)


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
class _Piece:
    """The bytes [begin, end) of the chunk's file range that belong to one op; `at` is the op's first byte."""

    op: Op
    at: int
    begin: int
    end: int

    @property
    def grid(self) -> TileGrid:
        return TileGrid(*self.op.view)

    @property
    def itemsize(self) -> int:
        return DTYPE_NBYTES[self.op.dtype]

    @property
    def starts_from_base(self) -> bool:
        """Whether the base's bytes, as they are, are what the op starts from."""
        source = self.op.source
        return source is not None and source.dtype == self.op.dtype and source.shape == self.op.shape


@dataclass
class Sampled:
    """What the run noticed of one op: elements looked at, and how many of them differ from the base's."""

    seen: int = 0
    changed: int = 0


class ShardReader:
    """Fills chunks of one shard."""

    def __init__(self, shard: ShardPlan, inputs: Mapping[str, InputFile], changes: Changes, *, trust_base: bool) -> None:
        self.shard = shard
        self._inputs = inputs
        self._changes = changes
        self._trust_base = trust_base
        self._begins = [ref.begin for ref in shard.header.tensors]

    def load(self, chunk: Chunk, space: Workspace) -> memoryview:
        """The chunk with all bytes that come from a file as they are; computed tensors hold the base's bytes."""
        data = space.buffer[: chunk.end - chunk.begin]
        if self.shard.source is not None:
            self._inputs[self.shard.source].read_into(data, chunk.begin)
            return data
        head = self.shard.header_bytes[chunk.begin : chunk.end]
        data[: len(head)] = head
        for piece in self._pieces(chunk):
            if piece.starts_from_base and piece.op.source is not None:
                offset = piece.op.source.begin + piece.begin - piece.at
                window = data[piece.begin - chunk.begin : piece.end - chunk.begin]
                self._inputs[piece.op.source.file].read_into(window, offset)
        return data

    def touches(self, chunk: Chunk) -> bool:
        """Whether any byte of the chunk is computed."""
        return any(piece.op.computed for piece in self._pieces(chunk))

    def patch(self, chunk: Chunk, data: memoryview, space: Workspace, sampled: dict[str, Sampled]) -> None:
        """Compute what the plan changes in this chunk, and check that every element of it is finite."""
        for piece in self._pieces(chunk):
            if not piece.op.computed:
                if not self._trust_base:
                    self._check_copied(chunk, piece, data)
                continue
            first, last = piece.begin - piece.at, piece.end - piece.at
            for tile in piece.grid.over(first // piece.itemsize, -(-last // piece.itemsize)):
                self._patch_tile(chunk, piece, tile, data, space, sampled)

    def _pieces(self, chunk: Chunk) -> Iterator[_Piece]:
        refs, ops = self.shard.header.tensors, self.shard.ops
        for i in range(max(0, bisect_right(self._begins, chunk.begin) - 1), len(refs)):
            if refs[i].begin >= chunk.end:
                return
            begin, end = max(refs[i].begin, chunk.begin), min(refs[i].end, chunk.end)
            if begin < end:
                yield _Piece(ops[i], refs[i].begin, begin, end)

    def _patch_tile(
        self, chunk: Chunk, piece: _Piece, tile: int, data: memoryview, space: Workspace, sampled: dict[str, Sampled]
    ) -> None:
        op, columns, itemsize = piece.op, piece.op.view[1], piece.itemsize
        row, end_row = piece.grid.rows_of(tile)
        shape = (end_row - row, columns)
        begin = piece.at + row * columns * itemsize  # of the tile, in the file
        end = begin + shape[0] * columns * itemsize
        whole = chunk.begin <= begin and end <= chunk.end and (begin - chunk.begin) % itemsize == 0
        changes = self._changes.of(op, row, end_row)
        if whole:
            raw = data[begin - chunk.begin : end - chunk.begin]
        else:  # the tile is cut by the chunk's edge: compute it whole, elsewhere, and take the part that is ours
            raw = memoryview(bytearray(end - begin))
        if whole and piece.starts_from_base:
            weight: torch.Tensor | None = as_tensor(raw, op.dtype, shape)
        else:
            weight = self._source_rows(op, row, end_row)
        if begin >= chunk.begin and op.terms and weight is not None:  # a cut tile is counted by its first chunk
            before = weight[0].clone()
        else:
            before = None
        out = as_tensor(raw, op.dtype, shape)
        merge_tile(weight, row, changes, space.scratch, out)
        if before is not None:
            seen = sampled.setdefault(op.name, Sampled())
            seen.seen += columns
            seen.changed += int((out[0] != before.to(out.dtype)).sum())
        at = first_non_finite(raw, op.dtype)
        if at is not None:
            raise _not_finite(op, row * columns + at)
        if not whole:
            first, last = max(begin, chunk.begin), min(end, chunk.end)
            data[first - chunk.begin : last - chunk.begin] = raw[first - begin : last - begin]

    def _source_rows(self, op: Op, row: int, end_row: int) -> torch.Tensor | None:
        if op.source is None:
            return None
        columns = op.view[1]
        raw = self.read_source(op.source, row * columns, end_row * columns)
        return as_tensor(raw, op.source.dtype, (end_row - row, columns))

    def read_source(self, source: TensorRef, first: int, last: int) -> memoryview:
        """Elements [first, last) of a base tensor, as stored."""
        return read_elements(self._inputs, source, first, last)

    def _check_copied(self, chunk: Chunk, piece: _Piece, data: memoryview) -> None:
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


def _not_finite(op: Op, element: int) -> NonFiniteError:
    return NonFiniteError(
        f"the merged value is not finite in {op.dtype}",
        where=f"{op.name}, element {element}",
        hint="If the base is sound, the sum overflows this dtype: merge with --dtype bfloat16 or --dtype float32.",
    )
