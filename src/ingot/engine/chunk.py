"""One chunk of one output shard: which bytes feed it, which of them are copied and checked, which are computed.

The output is the input's byte stream with patches. A chunk is a range of the *output* file; the plan tells which bytes
of the input feed it. Where output and input have the same header, that is one read at the same offset.

Needs no torch: bytes move while it is still being imported. What computes is `patch`.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ingot.checkpoint.quantized.encoded import Encoded
from ingot.checkpoint.reading import read_elements
from ingot.errors import NonFiniteError
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef
from ingot.kernels.finite import first_non_finite
from ingot.kernels.grid import TileGrid
from ingot.plan.model import Op, ShardPlan
from ingot.storage.inputs import InputFile

if TYPE_CHECKING:
    from ingot.engine.patch import Patcher

#: Bytes of a chunk: what is written at once. A multiple of any page size.
CHUNK_NBYTES = 16 << 20
PAGE_NBYTES = 4096
#: What is read, computed, checked and digested before the next bytes are: it stays in a core's cache on the way
#: (measured: sha256 of bytes that have left it takes 1.4 times as long).
STEP_NBYTES = 1 << 20
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


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes [begin, end) of the file that are done at once: of the header (no piece), a copied op, or one tile."""

    begin: int
    end: int
    piece: Piece | None = None
    tile: int | None = None


def starts_from_base(op: Op) -> bool:
    """Whether the base's bytes, as they are, are what the op starts from."""
    stored = isinstance(op.source, TensorRef) and op.source.dtype == op.dtype and op.source.shape == op.shape
    return stored and not op.from_adapter


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

    def computes(self, chunk: Chunk) -> bool:
        """Whether any byte of the chunk is computed."""
        return any(piece.op.computed for piece in self._pieces(chunk))

    def fill(
        self,
        chunk: Chunk,
        buffer: memoryview,
        sampled: dict[str, Sampled],
        *,
        read: Callable[[memoryview], None] | None = None,
        final: Callable[[int], None] = lambda _: None,
    ) -> memoryview:
        """The chunk's bytes, in the front of `buffer`: read, computed where the plan changes them, and finite.

        Args:
            read: is given all of the base's bytes at once before any is changed; only where the shard has a source.
            final: is told, step by step, up to which byte of the chunk the bytes are as they will be written.
        """
        data = buffer[: chunk.end - chunk.begin]
        source = self._inputs[self.shard.source] if self.shard.source is not None else None
        if source is not None:
            _read_ahead(source, chunk)
        loaded = chunk.begin
        for step in self._steps(chunk):
            if source is None:
                self._read_step(chunk, step, data)
            elif step.end > loaded:
                upto = chunk.end if read else min(chunk.end, max(step.end, loaded + STEP_NBYTES))
                source.read_into(data[loaded - chunk.begin : upto - chunk.begin], loaded)
                loaded = upto
                if read:
                    read(data)
            if step.piece is not None:
                self._do(chunk, step, data, sampled)
            final(step.end - chunk.begin)
        return data

    def _do(self, chunk: Chunk, step: Step, data: memoryview, sampled: dict[str, Sampled]) -> None:
        assert step.piece is not None
        if step.tile is not None:
            self._patcher().patch_tile(step.piece, step.tile, chunk.begin, data, sampled)
        elif not self._trust_base:
            self._check_copied(chunk, replace(step.piece, begin=step.begin, end=step.end), data)

    def _read_step(self, chunk: Chunk, step: Step, data: memoryview) -> None:
        """Where no base shard has this header: the bytes that the step starts from, from wherever they are."""
        window = data[step.begin - chunk.begin : step.end - chunk.begin]
        if step.piece is None:
            window[:] = self.shard.header_bytes[step.begin : step.end]
        elif isinstance(step.piece.op.source, TensorRef) and starts_from_base(step.piece.op):
            source = step.piece.op.source
            self._inputs[source.file].read_into(window, source.begin + step.begin - step.piece.at)

    def _steps(self, chunk: Chunk) -> Iterator[Step]:
        """The chunk from its first byte to its last: the header, tiles, and slices of what is copied."""
        if chunk.begin < self.shard.header.nbytes:
            yield Step(chunk.begin, min(self.shard.header.nbytes, chunk.end))
        for piece in self._pieces(chunk):
            if not piece.op.computed:
                for begin in range(piece.begin, piece.end, STEP_NBYTES):
                    yield Step(begin, min(begin + STEP_NBYTES, piece.end), piece)
                continue
            first, last = piece.begin - piece.at, piece.end - piece.at
            grid = TileGrid(*piece.op.view)
            for tile in grid.over(first // piece.itemsize, -(-last // piece.itemsize)):
                begin, end = (piece.at + row * grid.columns * piece.itemsize for row in grid.rows_of(tile))
                yield Step(max(begin, piece.begin), min(end, piece.end), piece, tile)

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
        assert not isinstance(source, Encoded)  # what is decoded is not copied
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


def _read_ahead(file: InputFile, chunk: Chunk) -> None:
    """Ask the disk for what the workers come to next."""
    # subtle: several workers on one descriptor look random to the kernel, which then reads little ahead
    first = chunk.begin == 0
    file.will_need(0 if first else chunk.begin + AHEAD_NBYTES, AHEAD_NBYTES + CHUNK_NBYTES if first else CHUNK_NBYTES)
