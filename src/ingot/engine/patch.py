"""The computed bytes of a chunk, tile by tile.

A tile is always computed whole. Where the chunk's edge cuts it, both neighbours compute it, and each keeps its part: so
no result depends on where the edges are.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import torch

from ingot.checkpoint.reading import DenseReader
from ingot.engine.changes import Changes
from ingot.engine.chunk import Piece, Sampled, starts_from_base
from ingot.engine.factors import FactorReader
from ingot.errors import NonFiniteError
from ingot.kernels.dtypes import as_tensor
from ingot.kernels.finite import first_non_finite
from ingot.kernels.grid import TILE_ELEMENTS, TileGrid
from ingot.kernels.tile import BlockChange, merge_tile
from ingot.plan.model import Op
from ingot.storage.inputs import InputFile

Files = Mapping[str, InputFile]

#: Of every so many tiles one is compared with the base, in its first row: enough to see an update that does nothing.
_SAMPLED_TILES = 4


class Patcher:
    """Computes tiles for any number of workers; each has a scratch tile of its own."""

    def __init__(self, inputs: Files, adapters: Sequence[Files], device: str, widest_row: int) -> None:
        """`widest_row`: the most columns of any op that is computed."""
        torch.set_num_threads(1)  # the workers are the threads
        self._device = torch.device(device)
        self._scratch_elements = max(TILE_ELEMENTS, widest_row)
        self._changes = Changes(FactorReader(adapters, self._device), DenseReader(inputs), self._device)
        self._local = threading.local()

    def patch_tile(self, piece: Piece, tile: int, origin: int, data: memoryview, sampled: dict[str, Sampled]) -> None:
        """Compute the bytes of `piece` in one tile, in `data`, whose first byte is byte `origin` of the file.

        Raises:
            NonFiniteError: a computed element is not finite in the op's dtype.
        """
        rows = TileGrid(*piece.op.view).rows_of(tile)
        op, columns = piece.op, piece.op.view[1]
        begin = piece.at + rows[0] * columns * piece.itemsize  # of the tile, in the file
        end = piece.at + rows[1] * columns * piece.itemsize
        inside = piece.begin <= begin and end <= piece.end and (begin - origin) % piece.itemsize == 0
        raw = data[begin - origin : end - origin] if inside else memoryview(bytearray(end - begin))
        out = as_tensor(raw, op.dtype, (rows[1] - rows[0], columns))
        weight = out if inside and starts_from_base(op) else self._changes.source_rows(op, *rows)
        # a tile that an edge cuts is counted by the chunk that it begins in
        counted = op.terms and begin >= piece.begin and rows[0] // (rows[1] - rows[0]) % _SAMPLED_TILES == 0
        before = weight[0].to(out.dtype, copy=True) if counted and weight is not None else None
        self._merge(op, rows, weight, out)
        if before is not None:
            seen = sampled.setdefault(op.name, Sampled())
            seen.seen += columns
            seen.changed += int((out[0] != before).sum())
        at = first_non_finite(raw, op.dtype)
        if at is not None:
            raise _not_finite(op, rows[0] * columns + at)
        if not inside:
            first, last = max(begin, piece.begin), min(end, piece.end)
            data[first - origin : last - origin] = raw[first - begin : last - begin]

    def _merge(self, op: Op, rows: tuple[int, int], weight: torch.Tensor | None, out: torch.Tensor) -> None:
        changes: list[BlockChange] = self._changes.of(op, *rows)
        if not hasattr(self._local, "scratch"):
            self._local.scratch = torch.empty(self._scratch_elements, dtype=torch.float32, device=self._device)
        merge_tile(weight, rows[0], changes, self._local.scratch, out, self._changes.rounding(op, *rows))


def _not_finite(op: Op, element: int) -> NonFiniteError:
    return NonFiniteError(
        f"the merged value is not finite in {op.dtype}",
        where=f"{op.name}, element {element}",
        hint="If the base is sound, the sum overflows this dtype: merge with --dtype bfloat16 or --dtype float32.",
    )
