"""The terms of a plan, made ready when a tile first needs them and let go when the run has passed them by."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from ingot.adapters.terms import Load
from ingot.formats.tensor_ref import TensorRef
from ingot.kernels.dtypes import as_tensor
from ingot.kernels.grid import TileGrid
from ingot.kernels.tile import BlockChange, apply_changes
from ingot.plan.model import Op

#: Prepared factors that are kept; the ones in use by a worker live as long as it needs them.
KEPT_NBYTES = 16 << 20

ReadSource = Callable[[TensorRef, int, int], memoryview]


@dataclass
class _Slot:
    lock: threading.Lock = field(default_factory=threading.Lock)
    change: BlockChange | None = None


class Changes:
    """Gives the changes of an op that meet some rows. Each term is prepared once, by the first worker that asks."""

    def __init__(
        self, load: Load, read_source: ReadSource, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        """`dtype`: what tiles are computed in; `load` must give the same."""
        self._load = load
        self._dtype = dtype
        self._read_source = read_source
        self._device = device
        self._slots: OrderedDict[tuple[str, int], _Slot] = OrderedDict()
        self._nbytes: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()

    def of(self, op: Op, begin: int, end: int) -> list[BlockChange]:
        """The changes of rows [begin, end) of the op's matrix, in order."""
        return [
            self._change(op, number)
            for number, placed in enumerate(op.terms)
            if placed.rows[0] < end and begin < placed.rows[1]
        ]

    def _change(self, op: Op, number: int) -> BlockChange:
        key = (op.name, number)
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        with slot.lock:
            if slot.change is None:
                placed = op.terms[number]
                apply = placed.term.prepare(self._load, lambda: self._tiles(op, number))
                slot.change = BlockChange(placed.rows, placed.columns, apply)
                self._keep(key, self._dtype.itemsize * sum(torch.Size(f.shape).numel() for f in placed.term.factors()))
            return slot.change

    def _keep(self, key: tuple[str, int], nbytes: int) -> None:
        with self._lock:
            self._nbytes[key] = nbytes
            for old in list(self._slots):
                if sum(self._nbytes.values()) <= KEPT_NBYTES or old == key:
                    break
                if old in self._nbytes:  # one that is still being prepared is not there yet
                    del self._slots[old], self._nbytes[old]

    def _tiles(self, op: Op, number: int) -> Iterator[tuple[int, torch.Tensor]]:
        """The matrix of term `number` as tiles, with all terms before it applied."""
        placed = op.terms[number]
        rows, columns = op.view
        grid = TileGrid(rows, columns)
        for tile in grid.over(placed.rows[0] * columns, placed.rows[1] * columns):
            begin, end = grid.rows_of(tile)
            stored = self.source_rows(op, begin, end)
            if stored is None:
                weight = torch.zeros(end - begin, columns, dtype=self._dtype, device=self._device)
            else:
                weight = stored.to(self._device, self._dtype)
            earlier = [self._change(op, n) for n in range(number)]
            apply_changes(weight, begin, [change for change in earlier if change.meets(begin, end)])
            first, last = max(begin, placed.rows[0]), min(end, placed.rows[1])
            yield first - placed.rows[0], weight[first - begin : last - begin, placed.columns[0] : placed.columns[1]]

    def source_rows(self, op: Op, begin: int, end: int) -> torch.Tensor | None:
        """Rows [begin, end) of the base's tensor as stored; None where the op's first term brings all of it."""
        if op.source is None or op.from_adapter:
            return None
        columns = op.view[1]
        raw = self._read_source(op.source, begin * columns, end * columns)
        return as_tensor(raw, op.source.dtype, (end - begin, columns))
